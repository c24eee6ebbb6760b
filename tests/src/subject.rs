//! A service and a source that follow a test's script, for tests of supervision.

use std::collections::HashMap;
use std::sync::{LazyLock, Mutex, MutexGuard};
use std::time::Duration;

use brickwork::prelude::*;
use tokio::time::{Instant, sleep};

/// Config of a [`Subject`].
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct SubjectConfig {
    /// Name of the script that it follows; each test has its own.
    pub script: String,
}

/// Instructions of a test for its subjects, and a log of their events.
#[derive(Debug, Default, Clone)]
pub struct Script {
    /// `start LABEL` and `stop LABEL`, and `run LABEL` of sources, in order.
    pub log: Vec<String>,
    /// Time of the first of equal events.
    pub times: HashMap<String, Instant>,
    /// Labels of subjects that fail at their next tick.
    pub fail: Vec<String>,
    /// Number of further starts that fail, by label.
    pub fail_starts: HashMap<String, u32>,
    /// Time that a start takes, by label.
    pub slow_starts: HashMap<String, Duration>,
    /// Time that a handler takes, by label.
    pub slow_handlers: HashMap<String, Duration>,
}

impl Script {
    fn add(&mut self, event: &str, label: &str) {
        let event = format!("{event} {label}");
        self.times.entry(event.clone()).or_insert_with(Instant::now);
        self.log.push(event);
    }
}

static SCRIPTS: LazyLock<Mutex<HashMap<String, Script>>> = LazyLock::new(Mutex::default);

fn scripts() -> MutexGuard<'static, HashMap<String, Script>> {
    SCRIPTS.lock().expect("no test panics with it")
}

/// Calls `with` on the script of a test.
pub fn script<R>(name: &str, with: impl FnOnce(&mut Script) -> R) -> R {
    with(scripts().entry(name.to_owned()).or_default())
}

/// Interval of the subject's tick.
pub const BEAT_MS: u64 = 1_000;
const BEAT: Tick = Tick::new("beat");
const WORK: Input<serde_json::Value> = Input::new("in");

/// A service that follows a [`Script`].
pub struct Subject {
    script: String,
}

impl Service for Subject {
    const NAME: &'static str = "subject";
    type Config = SubjectConfig;

    fn ports(_: &SubjectConfig, ports: &mut Ports<Self>) {
        ports
            .input(&WORK)
            .tick(BEAT, Duration::from_millis(BEAT_MS));
    }

    async fn start(config: &SubjectConfig, cx: &mut Context) -> Result<Self, Failure> {
        let label = cx.service().to_owned();
        let (fails, slow) = script(&config.script, |script| {
            script.add("start", &label);
            let slow = script.slow_starts.get(&label).copied();
            let left = script.fail_starts.entry(label).or_default();
            let fails = *left > 0;
            *left = left.saturating_sub(1);
            (fails, slow)
        });
        if let Some(slow) = slow {
            sleep(slow).await;
        }
        if fails {
            return Err(Failure::retry("told to fail in start"));
        }
        Ok(Self {
            script: config.script.clone(),
        })
    }

    async fn tick(&mut self, _: Tick, cx: &mut Context) -> Result<(), Failure> {
        let label = cx.service().to_owned();
        let fails = script(&self.script, |script| {
            let before = script.fail.len();
            script.fail.retain(|other| *other != label);
            script.fail.len() < before
        });
        if fails {
            return Err(Failure::retry("told to fail"));
        }
        Ok(())
    }

    async fn stop(&mut self, cx: &mut Context) -> Result<(), Failure> {
        let label = cx.service().to_owned();
        script(&self.script, |script| script.add("stop", &label));
        Ok(())
    }
}

impl Handle<serde_json::Value> for Subject {
    async fn handle(&mut self, _: serde_json::Value, cx: &mut Context) -> Result<(), Failure> {
        let slow = script(&self.script, |script| {
            script.add("handle", cx.service());
            script.slow_handlers.get(cx.service()).copied()
        });
        if let Some(slow) = slow {
            sleep(slow).await;
        }
        Ok(())
    }
}

/// Config of an [`Ending`].
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct EndingConfig {
    /// Name of the script that it follows.
    pub script: String,
    /// Its label.
    pub label: String,
}

const NUMBERS: Output<u32> = Output::new("out");

/// A source that emits one number and ends.
pub struct Ending;

impl Source for Ending {
    const NAME: &'static str = "ending";
    type Config = EndingConfig;

    fn ports(_: &EndingConfig, ports: &mut SourcePorts) {
        ports.output(&NUMBERS);
    }

    fn ends(_: &EndingConfig) -> bool {
        true
    }

    async fn run(config: &EndingConfig, out: &mut SourceContext) -> Result<(), Failure> {
        script(&config.script, |script| script.add("run", &config.label));
        out.send(&NUMBERS, 1).await
    }
}
