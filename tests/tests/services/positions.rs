//! Saved positions of sources belong to one app and to the latest run of a source.
//!
//! Another app with the same data folder is refused at start, and a renamed app can adopt the
//! positions: both through the shipped binary. A run whose thread was replaced can't overwrite
//! the position of the next run: in this process.

use std::path::Path;
use std::process::{Command, Output as ProcessOutput};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{LazyLock, Mutex};
use std::time::Duration;

use brickwork::prelude::*;
use brickwork::{App, Clock, Workers, manifest};
use brickwork_tests::app::really;
use brickwork_tests::binary::brickwork;

/// Writes an app with its own queues and the data folder that all apps share.
fn write(folder: &Path, app: &str) {
    let manifest = format!(
        r#"
        [app]
        name = "{app}"
        transport = "embedded:{app}-queues"
        [admin]
        listen = "off"
        [services.lines]
        use = "file-in"
        out = "lines"
        config.path = "lines.jsonl"
        [services.keep]
        use = "file-out"
        in = "lines"
        config.path = "{app}.jsonl"
        "#
    );
    std::fs::write(folder.join(format!("{app}.toml")), manifest).expect("it can be written");
}

fn output(folder: &Path, arguments: &[&str]) -> ProcessOutput {
    let mut command = Command::new(brickwork());
    let output = command.args(arguments).current_dir(folder).output();
    output.expect("it runs")
}

fn said(output: &ProcessOutput) -> String {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    text(&output.stdout) + &text(&output.stderr)
}

fn run(folder: &Path, app: &str) {
    let output = output(folder, &["run", &format!("{app}.toml"), "--until-idle"]);
    assert!(output.status.success(), "{}", said(&output));
}

/// Returns the output of an app.
fn handled(folder: &Path, app: &str) -> String {
    std::fs::read_to_string(folder.join(format!("{app}.jsonl"))).unwrap_or_default()
}

#[test]
fn another_app_does_not_continue_at_the_positions_of_the_first_one() {
    let folder = tempfile::tempdir().expect("a folder can be made");
    let folder = folder.path();
    for app in ["first", "second"] {
        write(folder, app);
    }
    let lines = "{\"n\":1}\n{\"n\":2}\n";
    std::fs::write(folder.join("lines.jsonl"), lines).expect("it can be written");
    run(folder, "first");
    assert_eq!(handled(folder, "first"), lines);
    for verb in [&["check"][..], &["run", "--until-idle"]] {
        let output = output(folder, &[verb, &["second.toml"]].concat());
        assert_eq!(output.status.code(), Some(2), "{}", said(&output));
        let text = said(&output);
        for part in [
            "E050",
            "those of the app first",
            "app.data",
            "data/positions/owner",
        ] {
            assert!(text.contains(part), "{part}: {text}");
        }
    }
    assert_eq!(handled(folder, "second"), "");
    assert!(!folder.join("second-queues").exists(), "nothing was made");
    // Neither a read-only command nor an app without positions is refused.
    let output = |arguments: &[&str]| output(folder, arguments);
    assert!(output(&["prune", "second.toml"]).status.success());
    let memory = [
        "run",
        "second.toml",
        "--until-idle",
        "--transport",
        "memory:",
    ];
    assert!(output(&memory).status.success());
    assert_eq!(handled(folder, "second"), lines);
    run(folder, "first");
    assert_eq!(handled(folder, "first"), lines, "it went on from the end");
}

#[test]
fn a_renamed_app_continues_once_the_mark_is_removed_and_so_does_an_app_without_a_mark() {
    let folder = tempfile::tempdir().expect("a folder can be made");
    let folder = folder.path();
    for app in ["old", "new"] {
        write(folder, app);
    }
    let append = |line: &str| {
        let lines = std::fs::read_to_string(folder.join("lines.jsonl")).unwrap_or_default();
        std::fs::write(folder.join("lines.jsonl"), lines + line).expect("it can be written");
    };
    append("{\"n\":1}\n");
    run(folder, "old");
    let mark = folder.join("data/positions/owner");
    assert_eq!(std::fs::read_to_string(&mark).expect("a mark"), "old\n");
    std::fs::remove_file(&mark).expect("it can be removed");
    append("{\"n\":2}\n");
    run(folder, "new");
    assert_eq!(
        handled(folder, "new"),
        "{\"n\":2}\n",
        "only the later lines"
    );
    assert_eq!(std::fs::read_to_string(&mark).expect("a mark"), "new\n");
    let back = output(folder, &["check", "old.toml"]);
    assert!(
        said(&back).contains("those of the app new"),
        "{}",
        said(&back)
    );
}

const LINES: Output<u32> = Output::new("out");
const IN: Input<u32> = Input::new("in");

/// A channel between the test and the service.
struct Way<T>(SyncSender<T>, Mutex<Receiver<T>>);

impl<T> Way<T> {
    fn new() -> Self {
        let (sender, receiver) = sync_channel(16);
        Self(sender, Mutex::new(receiver))
    }

    fn send(&self, value: T) {
        self.0.try_send(value).expect("there is room");
    }

    /// Blocks the thread until a value comes.
    fn wait(&self) -> T {
        let receiver = self.1.lock().expect("no thread panics while holding it");
        let value = receiver.recv_timeout(Duration::from_secs(60));
        value.expect("it comes in time")
    }
}

/// The position and the context of each run of the source; the context outlives the run.
static RUNS: LazyLock<Way<(Option<u32>, SourceContext)>> = LazyLock::new(Way::new);
/// Releases the handler that blocks its thread.
static GO_ON: LazyLock<Way<()>> = LazyLock::new(Way::new);

/// A source that saves 1 in its first run, then ten times its position, and sends a line.
struct Steps;

impl Source for Steps {
    const NAME: &'static str = "steps";
    type Config = NoConfig;

    fn ports(_: &NoConfig, ports: &mut SourcePorts) {
        ports.output(&LINES);
    }

    async fn run(_: &NoConfig, out: &mut SourceContext) -> Result<(), Failure> {
        let found: Option<u32> = out.position()?;
        out.save_position(&found.map_or(1, |found| 10 * found))
            .await?;
        RUNS.send((found, out.clone()));
        if found.is_none() {
            out.send(&LINES, 1).await?;
        }
        out.stopping().await;
        Ok(())
    }
}

/// Blocks its thread on the first attempt.
struct Blocker;

impl Service for Blocker {
    const NAME: &'static str = "blocker";
    type Config = NoConfig;

    fn ports(_: &NoConfig, ports: &mut Ports<Self>) {
        ports.input(&IN);
    }

    async fn start(_: &NoConfig, _: &mut Context) -> Result<Self, Failure> {
        Ok(Self)
    }
}

impl Handle<u32> for Blocker {
    async fn handle(&mut self, _: u32, cx: &mut Context) -> Result<(), Failure> {
        if cx.attempt() == 1 {
            GO_ON.wait();
        }
        Ok(())
    }
}

#[test]
fn a_source_on_a_replaced_thread_cannot_overwrite_the_position_of_the_next_run() {
    let folder = tempfile::tempdir().expect("a folder can be made");
    let file = folder.path().join("app.toml");
    let text = r#"
        [app]
        name = "late"
        transport = "embedded:queues"
        workers = 1
        [admin]
        listen = "off"
        [services.steps]
        out = "lines"
        [services.blocker]
        in = "lines"
        handler_timeout = "1s"
    "#;
    std::fs::write(&file, text).expect("it can be written");
    really(async {
        let catalog = Catalog::new().with_source::<Steps>().with::<Blocker>();
        let transports = brickwork_bridges::all();
        let plan = manifest::load(&file, &manifest::Options::default(), &catalog, &transports);
        let plan = plan.unwrap_or_else(|report| panic!("{}", report.render(false)));
        let app = App::start(plan, &transports, Workers::Threads, Clock::SYSTEM);
        let app = app.await.expect("the app starts");
        let next = async || {
            let waiting = tokio::task::spawn_blocking(|| RUNS.wait());
            waiting.await.expect("it comes in time")
        };
        let (found, first) = next().await;
        assert_eq!(found, None);
        let (found, second) = next().await;
        assert_eq!(found, Some(1), "the next life goes on from there");

        // Simulates that the first thread continues and its source saves its position.
        let refused = first.save_position(&2).await;
        let position = second.position::<u32>().expect("it can be read");
        assert_eq!(position, Some(10), "the next life's");
        let refused = refused.expect_err("it is over").to_string();
        assert!(
            refused.contains("this run of the source is over"),
            "{refused}"
        );
        second.save_position(&11).await.expect("this one is not");
        GO_ON.send(());
        app.stop().await;
        let position = second.position::<u32>().expect("it can be read");
        assert_eq!(position, Some(11));
    });
}
