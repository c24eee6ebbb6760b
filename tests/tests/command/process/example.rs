//! The example with children in Node and Python, and the helper modules that it shows.

use super::*;

const READINGS: u64 = 100;

/// The example in a folder of its own.
struct Example(tempfile::TempDir);

impl Example {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder can be made");
        let example = workspace().join("examples/4-polyglot/children");
        for entry in fs::read_dir(example).expect("the example is there") {
            let path = entry.expect("the folder can be read").path();
            if path.is_file() {
                let name = path.file_name().expect("a file has a name");
                fs::copy(&path, folder.path().join(name)).expect("it can be copied");
            }
        }
        let overlay = "[admin]\nlisten = \"off\"\n";
        fs::write(folder.path().join("test.toml"), overlay).expect("it can be written");
        Self(folder)
    }

    fn replace(&self, file: &str, from: &str, to: &str) {
        let file = self.0.path().join(file);
        let text = fs::read_to_string(&file).expect("it is there");
        assert!(text.contains(from), "{from}");
        fs::write(file, text.replace(from, to)).expect("it can be written");
    }

    /// Runs the example until it is idle. Returns the log.
    fn run(&self) -> String {
        let output = Command::new("timeout")
            .arg("60")
            .arg(brickwork())
            .args(["run", "app.toml", "--with", "test.toml"])
            .args(["--until-idle", "--fail-on-dlq"])
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .current_dir(self.0.path())
            .output()
            .expect("the binary runs");
        let log = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{log}");
        log
    }

    fn bills(&self) -> Vec<(String, f64)> {
        let text = fs::read_to_string(self.0.path().join("out/bills.jsonl"));
        let text = text.expect("it was written");
        let mut bills: Vec<(String, f64)> = text
            .lines()
            .map(|line| {
                let bill: Value = serde_json::from_str(line).expect("JSON");
                let meter = bill["meter"].as_str().expect("a meter").to_owned();
                (meter, bill["cents"].as_f64().expect("a number"))
            })
            .collect();
        bills.sort_by(|a, b| a.partial_cmp(b).expect("numbers"));
        bills
    }
}

/// The bills of readings up to a number.
fn bills(readings: u64) -> Vec<(String, f64)> {
    let mut bills: Vec<(String, f64)> = (1..=readings)
        .map(|number| {
            let cents = if number % 7 == 0 { 20.0 } else { 30.0 };
            (format!("m{}", number % 7), number as f64 * 1.5 * cents)
        })
        .collect();
    bills.sort_by(|a, b| a.partial_cmp(b).expect("numbers"));
    bills
}

#[test]
fn the_example_with_children_makes_a_bill_of_each_reading_once() {
    let example = Example::new();
    let log = example.run();
    assert_eq!(example.bills(), bills(READINGS), "{log}");
    // Its position is kept: another run sends only what is new.
    example.replace("meter.py", "101", "121");
    example.run();
    assert_eq!(example.bills(), bills(READINGS + 20));
}

#[test]
fn the_helpers_exchange_their_languages() {
    let example = Example::new();
    // The source in Node, the service that asks in Python, the one that replies in Node.
    let source = "const { source } = require('./brickwork');
        source(async (position, send) => {
          for (let n = (position || 0) + 1; n <= 100; n += 1) {
            const sent = send({ id: `reading-${n}`, msg: { meter: `m${n % 7}`, kwh: n * 1.5 }, position: n });
            if (n % 10 === 0) await sent;
          }
          const large = send({ id: 'large', msg: 'x'.repeat(2 << 19) });
          await large.then(() => { throw new Error('accepted'); }, (error) => console.error(`told: ${error.message}`));
        });";
    let bill = "import brickwork\n\
        def handler(message, ask):\n    \
            msg = message['msg']\n    \
            if msg['kwh'] % 15 == 0 and message['attempt'] == 1:\n        \
                raise brickwork.Failure('busy', after='50ms')\n    \
            cents = ask('tariff', {'meter': msg['meter']})['cents']\n    \
            bill = {'meter': msg['meter'], 'cents': msg['kwh'] * cents}\n    \
            return [{'port': 'out', 'msg': bill}]\n\
        brickwork.serve(handler)\n";
    let tariff = "require('./brickwork').serve(({ msg }) =>
        ({ emit: [], reply: { cents: msg.meter === 'm0' ? 20 : 30 } }));";
    for (file, text) in [
        ("meter.js", source),
        ("bill.py", bill),
        ("tariff.js", tariff),
    ] {
        fs::write(example.0.path().join(file), text).expect("it can be written");
    }
    example.replace(
        "app.toml",
        "\"python3\", \"meter.py\"",
        "\"node\", \"meter.js\"",
    );
    example.replace(
        "app.toml",
        "\"node\", \"bill.js\"",
        "\"python3\", \"bill.py\"",
    );
    example.replace(
        "app.toml",
        "\"python3\", \"tariff.py\"",
        "\"node\", \"tariff.js\"",
    );
    example.replace(
        "app.toml",
        "transport =",
        "max_message = \"64KiB\"\ntransport =",
    );
    let log = example.run();
    assert_eq!(example.bills(), bills(READINGS), "{log}");
    assert!(log.contains("told: the message for out has"), "{log}");
}
