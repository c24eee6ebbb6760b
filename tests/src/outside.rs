//! A service that calls an outside system, which its test switches, and outages of that system.

use std::collections::HashMap;
use std::sync::{LazyLock, Mutex};
use std::time::Duration;

use brickwork::prelude::*;
use brickwork::transport::Transports;
use brickwork::{Catalog, QueueId};
use serde_json::json;
use tempfile::TempDir;
use tokio::time::{Instant, sleep};

use crate::app::TestApp;

/// The behaviour of an outside system.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Mode {
    /// It answers.
    #[default]
    Works,
    /// Calls return an error.
    Fails,
    /// Calls with a number below this one return an error.
    FailsBelow(u64),
    /// Calls panic.
    Panics,
    /// Calls never return.
    Hangs,
    /// Calls block the thread for three seconds.
    Blocks,
    /// The handler rejects the message.
    Rejects,
    /// The handler defers the message for a second.
    Defers,
    /// The connection that `start` made is broken, until the instance is rebuilt.
    Disconnects,
}

/// One call.
#[derive(Debug, Clone, Copy)]
pub struct Call {
    /// The time of the call.
    pub at: Instant,
    /// The number of the message.
    pub n: u64,
    /// The attempt.
    pub attempt: u32,
    /// Whether it was answered.
    pub ok: bool,
}

/// An outside system, and the calls to it.
#[derive(Debug, Clone, Default)]
pub struct Outside {
    /// Its behaviour now.
    pub mode: Mode,
    /// All calls, in order.
    pub calls: Vec<Call>,
    /// Number of instances that were started.
    pub starts: u32,
}

static SYSTEMS: LazyLock<Mutex<HashMap<String, Outside>>> = LazyLock::new(Mutex::default);

/// Calls `with` on the outside system of a test.
pub fn outside<R>(name: &str, with: impl FnOnce(&mut Outside) -> R) -> R {
    let mut systems = SYSTEMS.lock().expect("no test panics with it");
    with(systems.entry(name.to_owned()).or_default())
}

/// Switches the outside system of a test.
pub fn switch(name: &str, mode: Mode) {
    outside(name, |it| it.mode = mode);
}

/// Returns the calls so far.
pub fn calls(name: &str) -> Vec<Call> {
    outside(name, |it| it.calls.clone())
}

/// Returns a manifest with a [`Caller`] that follows the topic `numbers`.
pub fn calling(name: &str, transport: &str, caller: &str) -> String {
    format!(
        r#"
        [app]
        name = "{name}"
        transport = "{transport}"
        [admin]
        listen = "off"
        [topics.numbers]
        external = "in"
        [topics.done]
        external = "out"
        [services.caller]
        in = "numbers"
        out = "done"
        config.outside = "{name}"
        {caller}
        "#
    )
}

/// Sends numbers, and waits until the circuit breaker of the [`Caller`] has opened.
pub async fn trip(app: &TestApp, count: u64) {
    for n in 0..count {
        app.send("numbers", json!({ "n": n })).await;
    }
    while app.app.not_ready().is_empty() {
        sleep(Duration::from_millis(1)).await;
    }
}

/// Runs a short outage with the real clock, and checks that the messages wait in their queue and
/// lose no attempt.
///
/// # Panics
/// If they don't.
pub async fn outage_on(folder: TempDir, transports: &Transports, url: &str, name: &str) {
    let caller = "mailbox = 8\nretry.backoff = { min = '50ms', max = '50ms' }\n\
                  breaker = { min_messages = 5, pause = { min = '300ms', max = '300ms' } }";
    let (manifest, catalog) = (calling(name, url, caller), Catalog::new().with::<Caller>());
    switch(name, Mode::Fails);
    let app = TestApp::start_in(folder, &manifest, &catalog, transports).await;
    trip(&app, 40).await;
    sleep(Duration::from_millis(150)).await;
    let depth = app.transport().depth(&QueueId::new("caller", "in")).await;
    let depth = depth.expect("the depth is known");
    assert!(depth.ready >= 30 && depth.in_flight <= 1, "{depth:?}");
    sleep(Duration::from_secs(2)).await;
    let during = calls(name);
    assert!(during.len() <= 5 + 9, "probes only: {}", during.len());
    switch(name, Mode::Works);
    let back = Instant::now();
    while app.summary("caller").ok < 40 {
        let row = app.summary("caller");
        assert!(back.elapsed() < Duration::from_secs(20), "{row:?}");
        sleep(Duration::from_millis(10)).await;
    }
    let tried: Vec<u64> = during.iter().map(|call| call.n).collect();
    let rest = calls(name).into_iter();
    let rest: Vec<Call> = rest
        .filter(|call| call.ok && !tried.contains(&call.n))
        .collect();
    assert!(rest.len() >= 20, "{}", rest.len());
    assert!(
        rest.iter().all(|call| call.attempt == 1),
        "an attempt is lost"
    );
    assert_eq!(app.summary("caller").dead_letters, 0);
    assert!(app.app.not_ready().is_empty(), "{:?}", app.app.not_ready());
    app.stop().await;
}

/// Config of a [`Caller`].
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct CallerConfig {
    /// Name of the outside system; each test has its own.
    pub outside: String,
}

/// A number to call the outside system with.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct Number {
    /// The number.
    pub n: u64,
}

const IN: Input<Number> = Input::new("in");
const OUT: Output<Number> = Output::new("out");

/// A service that calls the outside system for each message, and passes the message on.
pub struct Caller {
    outside: String,
    /// The outside system broke the connections of instances up to this number.
    number: u32,
}

impl Service for Caller {
    const NAME: &'static str = "caller";
    type Config = CallerConfig;

    fn ports(_: &CallerConfig, ports: &mut Ports<Self>) {
        ports.input(&IN).output(&OUT);
    }

    async fn start(config: &CallerConfig, _: &mut Context) -> Result<Self, Failure> {
        let number = outside(&config.outside, |it| {
            it.starts += 1;
            it.starts
        });
        Ok(Self {
            outside: config.outside.clone(),
            number,
        })
    }
}

impl Handle<Number> for Caller {
    async fn handle(&mut self, number: Number, cx: &mut Context) -> Result<(), Failure> {
        let (n, attempt) = (number.n, cx.attempt());
        let mode = outside(&self.outside, |it| {
            let ok = match it.mode {
                Mode::Works => true,
                Mode::FailsBelow(first) => n >= first,
                Mode::Disconnects => self.number > 1,
                _ => false,
            };
            let at = Instant::now();
            it.calls.push(Call { at, n, attempt, ok });
            if ok { Mode::Works } else { it.mode }
        });
        match mode {
            Mode::Works => cx.emit(&OUT, number),
            Mode::Fails | Mode::FailsBelow(_) => Err(Failure::retry("the outside system is down")),
            Mode::Panics => panic!("the outside system is down"),
            Mode::Hangs => std::future::pending().await,
            Mode::Blocks => {
                std::thread::sleep(Duration::from_secs(3));
                Ok(())
            }
            Mode::Rejects => Err(Failure::reject("not for the outside system")),
            Mode::Defers => Err(Failure::defer(Duration::from_secs(1), "not now")),
            Mode::Disconnects => Err(Failure::restart("the connection is broken")),
        }
    }
}
