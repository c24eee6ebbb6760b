//! A service that fails when its test tells it to, for tests of supervision.

use std::collections::HashMap;
use std::sync::{LazyLock, Mutex, MutexGuard};
use std::time::Duration;

use brickwork::prelude::*;

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
    /// `start LABEL` and `stop LABEL`, in order.
    pub log: Vec<String>,
    /// Labels of subjects that fail at their next tick.
    pub fail: Vec<String>,
    /// Number of further starts that fail, by label.
    pub fail_starts: HashMap<String, u32>,
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
        let fails = script(&config.script, |script| {
            script.log.push(format!("start {label}"));
            let left = script.fail_starts.entry(label).or_default();
            let fails = *left > 0;
            *left = left.saturating_sub(1);
            fails
        });
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
        script(&self.script, |script| {
            script.log.push(format!("stop {label}"))
        });
        Ok(())
    }
}

impl Handle<serde_json::Value> for Subject {
    async fn handle(&mut self, _: serde_json::Value, _: &mut Context) -> Result<(), Failure> {
        Ok(())
    }
}
