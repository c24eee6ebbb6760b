//! Rights that are revoked while an app runs are named until they are back.

use std::sync::Arc;
use std::time::Duration;

use brickwork::transport::{Status, Transport};
use brickwork_tests::broker::Broker;
use tokio::time::timeout;

use super::amqp::{connect, order, publish, topology};

const PATIENCE: Duration = Duration::from_secs(60);

/// Publishes again and again until the status is as wanted.
async fn until_status(transport: &Arc<dyn Transport>, wanted: impl Fn(&Status) -> bool) {
    let mut status = transport.status();
    let seen = timeout(PATIENCE, async {
        while !wanted(&status.borrow()) {
            let _refused = publish(&**transport, order("1")).await;
            let _time = timeout(Duration::from_millis(200), status.changed()).await;
        }
    });
    let seen = seen.await;
    seen.unwrap_or_else(|_| panic!("{:?}", transport.status().borrow()));
}

#[tokio::test]
async fn a_right_that_is_revoked_while_the_app_runs_is_named_until_it_is_back() {
    let broker = Broker::start();
    broker.ctl(&["add_user", "clerk", "hunter2"]);
    let rights = |write: &str| {
        broker.ctl(&["set_permissions", "clerk", ".*", write, ".*"]);
    };
    rights(".*");
    let url = broker.url().replace("guest:guest", "clerk:hunter2");
    let transport = connect(&url).await.expect("it connects");
    let declared = transport.declare(&topology("rights")).await;
    declared.expect("it declares");
    publish(&*transport, order("1")).await.expect("it may");

    // Everything but the app's exchange.
    rights(r"^(rights\..*|amq\.default)$");
    broker.ctl(&["close_all_connections", "rights have changed"]);
    let names = |status: &Status| {
        let told = format!("{:?}", status.degraded);
        told.contains("write access to exchange 'rights'") && !told.contains("hunter2")
    };
    until_status(&transport, names).await;
    // It is named between two tries, too.
    let connected = |status: &Status| status.down.is_none() && names(status);
    until_status(&transport, connected).await;

    rights(".*");
    until_status(&transport, |status| status.degraded.is_empty()).await;
    transport.close().await;
}
