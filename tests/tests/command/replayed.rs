//! Dead letters on `embedded:` are replayed while the tool, the app or both are killed at random
//! moments. No letter is lost, and a service with a store handles each once, judged by its store.

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use brickwork_tests::kept::Queues;
use brickwork_tests::process::Process;
use brickwork_tests::seed::Seed;
use brickwork_tests::tally::Counts;
use fastrand::Rng;

const PROGRAM: &str = env!("CARGO_BIN_EXE_puppets");
/// Milliseconds from the start of a tool or an app to its kill.
const LIFE_MS: std::ops::Range<u64> = 5..180;
/// Maximum rounds; fewer are enough.
const ROUNDS_MAX: usize = 2_000;

/// Returns the number of letters and the maximum replay rate per second, low enough that several
/// kills are needed.
fn tier() -> (u64, u64) {
    match std::env::var_os("BRICKWORK_FULL") {
        Some(_) => (10_000, 2_000),
        None => (1_000, 1_000),
    }
}

struct Site {
    folder: tempfile::TempDir,
    letters: u64,
    lives: usize,
}

impl Site {
    /// Creates an app whose service has dead-lettered `letters` messages, and will handle them
    /// when replayed, with its inbox or without.
    fn new(letters: u64, inbox: bool) -> Self {
        let folder = tempfile::tempdir().expect("a folder can be made");
        let manifest = r#"
            [app]
            name = "replayed"
            transport = "embedded:data/queues"
            [admin]
            listen = "off"
            [services.lines]
            use = "file-in"
            out = "lines"
            config.path = "lines.jsonl"
            [services.tally]
            use = "tally"
            store = true
            in = "lines"
            instances = 8
            retry.backoff.min = "100ms"
            config.rejects = true
        "#;
        let healed = format!("[services.tally.config]\nrejects = false\ninbox = {inbox}\n");
        let lines: String = (0..letters).map(|n| format!("{{\"n\":{n}}}\n")).collect();
        for (file, text) in [
            ("app.toml", manifest),
            ("healed.toml", &*healed),
            ("lines.jsonl", &lines),
        ] {
            std::fs::write(folder.path().join(file), text).expect("it can be written");
        }
        let site = Self {
            folder,
            letters,
            lives: 0,
        };
        site.to_the_end(&["run", "app.toml", "--until-idle"]);
        assert_eq!(site.left(), letters);
        site
    }

    fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    fn queues(&self) -> Queues {
        Queues::open(&self.data().join("queues")).expect("they are there")
    }

    /// Counts the remaining dead letters.
    fn left(&self) -> u64 {
        self.queues().dead_letters().len() as u64
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(PROGRAM);
        command.args(arguments).current_dir(self.folder.path());
        command
    }

    fn to_the_end(&self, arguments: &[&str]) {
        let mut command = self.command(arguments);
        let output = command.stdout(Stdio::null()).output().expect("it runs");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{arguments:?}: {said}");
    }

    fn start(&mut self, arguments: &[&str]) -> Process {
        self.lives += 1;
        let logs = self.folder.path().join(format!("life-{}", self.lives));
        std::fs::create_dir(&logs).expect("a folder can be made");
        Process::start(self.command(arguments), &logs, "it was just built")
    }

    fn start_app(&mut self) -> Process {
        self.start(&["run", "app.toml", "--with", "healed.toml"])
    }

    fn start_tool(&mut self, rate: u64) -> Process {
        let rate = rate.to_string();
        let replay = ["dlq", "replay", "app.toml", "--with", "healed.toml"];
        let which = ["--service", "tally", "--all", "--rate", &rate];
        self.start(&[&replay[..], &which].concat())
    }

    /// Handles the remaining messages and checks that each was handled once.
    fn check(&self) {
        self.to_the_end(&[
            "run",
            "app.toml",
            "--with",
            "healed.toml",
            "--until-idle",
            "--fail-on-dlq",
        ]);
        let counts = Counts::read(&self.data(), "tally");
        assert_eq!(counts, Counts::once(self.letters));
        let queues = self.queues();
        queues.check();
        assert_eq!((queues.left(), self.left()), (0, 0));
    }
}

/// Sleeps for a random time: the moment of the kill is random.
fn wait(random: &mut Rng) {
    std::thread::sleep(Duration::from_millis(random.u64(LIFE_MS)));
}

/// Numbers of kills.
#[derive(Debug, Default)]
struct Killed {
    tools: usize,
    apps: usize,
    /// Letters replayed before each kill.
    halfway: Vec<u64>,
}

#[test]
fn letters_replayed_in_a_running_app_are_handled_once_despite_kills() {
    let seed = Seed::or(5);
    let mut random = seed.random();
    let began = Instant::now();
    let mut site = Site::new(tier().0, true);
    let mut killed = Killed::default();
    let mut app = site.start_app();
    for round in 0.. {
        assert!(round < ROUNDS_MAX, "{killed:?}: {} are left", site.left());
        // Over the app's control socket, if it exists already.
        let tool = site.start_tool(tier().1);
        wait(&mut random);
        if random.bool() {
            tool.stop();
            killed.tools += 1;
            // Replayed messages may be in flight.
            wait(&mut random);
        }
        if random.bool() {
            app.stop();
            killed.apps += 1;
            app = site.start_app();
        }
        match site.left() {
            0 => break,
            left if left < site.letters => killed.halfway.push(left),
            _ => {}
        }
    }
    app.stop();
    site.check();
    said(&killed, &site, began);
    assert!(killed.apps > 0);
}

#[test]
fn letters_replayed_while_the_app_is_stopped_are_handled_once_despite_kills() {
    let seed = Seed::or(6);
    let mut random = seed.random();
    let began = Instant::now();
    let mut site = Site::new(2 * tier().0, true);
    let mut killed = Killed::default();
    for round in 0.. {
        assert!(round < ROUNDS_MAX, "{killed:?}: {} are left", site.left());
        // A tool that opens the files itself must live until it has removed a batch of letters,
        // also on a busy machine.
        let tool = site.start_tool(2 * tier().1);
        wait(&mut random);
        wait(&mut random);
        tool.stop();
        killed.tools += 1;
        match site.left() {
            0 => break,
            left if left < site.letters => killed.halfway.push(left),
            _ => {}
        }
        // Sometimes the app handles messages in between.
        if random.u8(..) < 64 {
            let app = site.start_app();
            wait(&mut random);
            app.stop();
            killed.apps += 1;
        }
    }
    site.check();
    said(&killed, &site, began);
}

/// Counter-check: without the inbox the tests above fail.
#[test]
fn without_its_inbox_a_service_handles_some_letters_again() {
    /// Maximum kills; a few are enough.
    const KILLS_MAX: usize = 40;
    let seed = Seed::or(7);
    let mut random = seed.random();
    let mut site = Site::new(5_000, false);
    let replay = ["dlq", "replay", "app.toml", "--with", "healed.toml"];
    site.to_the_end(&[&replay[..], &["--service", "tally", "--all"]].concat());
    let again = (1..=KILLS_MAX).find_map(|kills| {
        let app = site.start_app();
        wait(&mut random);
        app.stop();
        let again = Counts::read(&site.data(), "tally").again;
        (again > 0).then_some((kills, again))
    });
    let (kills, again) = again.expect("some are handled again");
    println!("{again} were handled again after {kills} kills");
}

fn said(killed: &Killed, site: &Site, began: Instant) {
    let Killed {
        tools,
        apps,
        halfway,
    } = killed;
    println!(
        "{} letters, {tools} tools and {apps} apps killed, {} of the times halfway, in {:?}",
        site.letters,
        halfway.len(),
        began.elapsed()
    );
    assert!(*tools > 0 && halfway.len() >= 2, "{killed:?}");
}
