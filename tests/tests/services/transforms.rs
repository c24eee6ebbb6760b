//! Transforms end to end, through the shipped binary.

use std::path::Path;
use std::process::{Command, Output};

use brickwork_tests::binary::brickwork;
use serde_json::{Value, json};

/// A table in base64, and garbage.
const LINES: &str = r#"{"id": "A", "data": "c2t1O3F0eQp0ZWE7MgptdWc7MQo="}
{"id": "B", "data": "not base64!"}
{"id": "C", "data": "c2t1O3F0eQp0ZWE7Mgptdwo="}
"#;

const MANIFEST: &str = r#"
[app]
name = "transforms"
[admin]
listen = "off"
[limits.slow]
rate = 100
burst = 1

[services.intake]
use = "file-in"
out = "files"
config.path = "in.jsonl"

[services.rows]
use = "decode"
in = "files"
out = "rows"
config = { from = ["base64", "csv"], of = "msg.data", csv.delimiter = ";" }

[services.each]
use = "split"
in = "rows"
out = "row"

[services.priced]
use = "enrich"
in = "row"
out = { out = "priced", ask = "prices" }
config = { question = "msg.sku", into = "price", value = "{'row': {'@sku': msg.sku, 'cents': string(msg.price)}}" }

[services.prices]
use = "map"
in = "prices"
out = "asked"
config.value = "msg == 'tea' ? 300 : 500"

[services.slowly]
use = "throttle"
in = "priced"
out = "slow"
config.limit = "slow"

[services.later]
use = "delay"
in = "slow"
out = "later"
config.for = "50ms"

[services.packed]
use = "encode"
in = "later"
out = "packed"
config.to = ["xml", "gzip"]

[services.unpacked]
use = "decode"
in = "packed"
out = "unpacked"
config.from = ["gzip", "xml"]

[services.bulk]
use = "batch"
store = true
in = "unpacked"
out = "bulk"
config = { count = 2, within = "1m" }

[services.keep]
use = "file-out"
in = "bulk"
config.path = "out.jsonl"

[topics.asked]
external = "out"
"#;

fn run(folder: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new("timeout");
    command.arg("120").arg(brickwork()).args(arguments);
    command.current_dir(folder);
    command.output().expect("it was just built")
}

#[test]
fn a_table_in_base64_is_split_priced_slowed_packed_and_batched_and_garbage_is_explained() {
    let folder = tempfile::tempdir().expect("a folder can be made");
    let write = |name: &str, text: &str| {
        std::fs::write(folder.path().join(name), text).expect("it can be written");
    };
    write("in.jsonl", LINES);
    write("app.toml", MANIFEST);
    let ran = run(folder.path(), &["run", "app.toml", "--until-idle"]);
    let log = String::from_utf8_lossy(&ran.stderr);
    assert!(ran.status.success(), "{log}");
    let kept = std::fs::read_to_string(folder.path().join("out.jsonl")).expect("a batch was kept");
    let mut batch: Vec<Value> = serde_json::from_str(&kept).expect("one batch");
    batch.sort_by_key(Value::to_string);
    let row = |sku: &str, cents: &str| json!({"row": {"@sku": sku, "cents": cents}});
    assert_eq!(batch, [row("mug", "500"), row("tea", "300")]);
    let listed = run(
        folder.path(),
        &["dlq", "show", "app.toml", "--service", "rows"],
    );
    let listed = String::from_utf8_lossy(&listed.stdout);
    for reason in [
        "base64: a character that is not of its alphabet at byte 11",
        "csv: line 3 has 1 fields, the header has 2",
    ] {
        assert!(listed.contains(reason), "{listed}");
    }
}
