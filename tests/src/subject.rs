//! A service that fails when a test says so, for tests of supervision.

use std::collections::HashMap;
use std::sync::{LazyLock, Mutex, MutexGuard};
use std::time::Duration;

use brickwork::prelude::*;

/// How a subject is known to its test.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct SubjectConfig {
    /// Whose script it follows: one for each test.
    pub script: String,
}

/// What a test tells its subjects, and what they did.
#[derive(Debug, Default, Clone)]
pub struct Script {
    /// `start LABEL` and `stop LABEL`, in order.
    pub log: Vec<String>,
    /// These fail at their next beat.
    pub fail: Vec<String>,
    /// So many of the next starts of a label fail.
    pub fail_starts: HashMap<String, u32>,
}

static SCRIPTS: LazyLock<Mutex<HashMap<String, Script>>> = LazyLock::new(Mutex::default);

fn scripts() -> MutexGuard<'static, HashMap<String, Script>> {
    SCRIPTS.lock().expect("no test panics with it")
}

/// Changes or reads the script of a test.
pub fn script<R>(name: &str, with: impl FnOnce(&mut Script) -> R) -> R {
    with(scripts().entry(name.to_owned()).or_default())
}

/// The subject's beat.
pub const BEAT_MS: u64 = 1_000;
const BEAT: Tick = Tick::new("beat");
const WORK: Input<serde_json::Value> = Input::new("in");

/// See the module.
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
