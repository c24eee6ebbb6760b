//! Where sources stopped belongs to their app: another one with the same data folder is told
//! so before it starts, and one that was renamed can take it over. Through the shipped binary.
//! And to the run of a source that began last: in this process, with a thread given up.

use std::path::Path;
use std::process::{Command, Output as ProcessOutput};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{LazyLock, Mutex};
use std::time::Duration;

use brickwork::prelude::*;
use brickwork::{App, Clock, Workers, manifest};
use brickwork_tests::app::really;
use brickwork_tests::binary::brickwork;

/// An app with queues of its own, and the data folder that all have.
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

/// What an app has handled.
fn handled(folder: &Path, app: &str) -> String {
    std::fs::read_to_string(folder.join(format!("{app}.jsonl"))).unwrap_or_default()
}

#[test]
fn another_app_does_not_go_on_from_where_the_first_one_stopped() {
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
    // Who asks isn't in anybody's way; nor is who keeps no positions.
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
fn an_app_that_was_renamed_goes_on_once_the_mark_is_removed_and_so_does_one_from_before_marks() {
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
        "only what came since"
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

/// From one side to the other.
struct Way<T>(SyncSender<T>, Mutex<Receiver<T>>);

impl<T> Way<T> {
    fn new() -> Self {
        let (sender, receiver) = sync_channel(16);
        Self(sender, Mutex::new(receiver))
    }

    fn send(&self, value: T) {
        self.0.try_send(value).expect("there is room");
    }

    /// Blocks the thread.
    fn wait(&self) -> T {
        let receiver = self.1.lock().expect("nobody panics with it");
        let value = receiver.recv_timeout(Duration::from_secs(60));
        value.expect("it comes in time")
    }
}

/// What each run of the source found, and its outlet, which outlives it.
static RUNS: LazyLock<Way<(Option<u32>, SourceContext)>> = LazyLock::new(Way::new);
/// Lets the handler go that blocks its thread.
static GO_ON: LazyLock<Way<()>> = LazyLock::new(Way::new);

/// Saves 1 in its first run, then ten times what it found, and has a line handled.
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

/// Blocks its thread with the first attempt.
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
fn a_source_whose_thread_was_given_up_saves_nothing_over_what_its_next_life_has_saved() {
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

        // As if the first one's thread turned again, and its source saved what it has.
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
