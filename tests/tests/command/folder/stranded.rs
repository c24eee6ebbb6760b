//! Messages of a service that the manifest no longer has are told.

use brickwork_tests::http::get;
use brickwork_tests::process::{free_address, until};

use super::*;

#[test]
fn messages_that_no_service_reads_are_told_at_the_start_and_by_health_and_metrics() {
    let site = Site::new();
    site.run("v1.toml");
    let listen = free_address();
    let next = manifest("shop", DOOR).replace("\"off\"", &format!("\"{listen}\""));
    site.write("next.toml", &next);
    let next = site.start("next.toml");
    let told = format!("{LINES} messages wait in old.dlq, which no service reads");
    until("readiness tells", PATIENCE, || {
        match get(listen, "/health/ready") {
            Ok(ready) if ready.code == 200 && ready.body.contains(&told) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    });
    let metrics = get(listen, "/metrics").expect("it answers").body;
    let metric = format!("brickwork_stranded_messages{{transport=\"embedded\"}} {LINES}");
    assert!(metrics.contains(&metric), "{metrics}");
    let log = next.stderr();
    assert!(
        log.contains("no service reads this queue") && log.contains("old.dlq"),
        "{log}"
    );
    next.stop();
}
