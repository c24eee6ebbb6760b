//! A service that does as each message tells it, for tests of the host.

use std::collections::HashMap;
use std::sync::{LazyLock, Mutex};
use std::time::Duration;

use brickwork::prelude::*;

/// An instruction for a puppet.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Order {
    /// The order's number.
    pub n: u32,
    /// The act: see [`Puppet`].
    pub act: String,
    /// Last attempt on which the act happens; later attempts succeed. 0: every attempt.
    pub until: u32,
    /// Milliseconds, for acts that take a time.
    pub ms: u64,
}

/// The output of a puppet.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct Done {
    /// The order's number.
    pub n: u32,
    /// The attempt that produced this output.
    pub attempt: u32,
}

/// Behaviour of a puppet apart from its orders.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct PuppetConfig {
    /// Name of the ledger that records its events: see [`ledger`].
    pub ledger: String,
    /// Number of starts that succeed before the first that fails or panics.
    pub good_starts: u32,
    /// Number of starts that fail, after those that panic.
    pub fail_starts: u32,
    /// Number of starts that panic.
    pub panic_starts: u32,
    /// Panic when stopped.
    pub panic_stop: bool,
    /// Panic when dropped.
    pub panic_drop: bool,
    /// Milliseconds between ticks; 0 for no ticks.
    pub tick_ms: u64,
    /// Number of ticks that panic, from the first on.
    pub panic_ticks: u32,
    /// Milliseconds for which each start blocks the thread.
    pub block_start_ms: u64,
    /// Milliseconds for which each tick blocks the thread.
    pub block_tick_ms: u64,
    /// Milliseconds for which a stop blocks the thread.
    pub block_stop_ms: u64,
}

/// Returns the recorded events, in order, of all instances of all puppets with this ledger.
pub fn ledger(name: &str) -> Vec<String> {
    let ledgers = LEDGERS.lock().expect("no test panics with it");
    ledgers
        .get(name)
        .map(|l| l.lines.clone())
        .unwrap_or_default()
}

/// Counts a line in a ledger.
pub fn count(name: &str, line: &str) -> usize {
    let ledgers = LEDGERS.lock().expect("no test panics with it");
    let counts = ledgers.get(name).and_then(|l| l.counts.get(line));
    counts.copied().unwrap_or(0)
}

#[derive(Default)]
struct Ledger {
    lines: Vec<String>,
    counts: HashMap<String, usize>,
}

static LEDGERS: LazyLock<Mutex<HashMap<String, Ledger>>> = LazyLock::new(Mutex::default);

/// Records a line and returns how many equal lines were there before.
fn note(ledger: &str, line: &str) -> usize {
    let mut ledgers = LEDGERS.lock().expect("no test panics with it");
    let ledger = ledgers.entry(ledger.to_owned()).or_default();
    ledger.lines.push(line.to_owned());
    let count = ledger.counts.entry(line.to_owned()).or_default();
    *count += 1;
    *count - 1
}

/// Input of orders.
pub const ORDERS: Input<Order> = Input::new("in");
/// Input of requests. Each is answered with its [`Done`].
pub const QUESTIONS: Input<Order, Done> = Input::new("questions");
/// Output of finished orders.
pub const DONE: Output<Done> = Output::new("out");
const BEAT: Tick = Tick::new("beat");

/// Acts: `emit` (the default), `panic`, `emit-panic`, `await-panic`, `fail`, `emit-fail`,
/// `reject`, `after`, `defer`, `sleep`, `forever`, `block`, `pause`, `twice`, `later`,
/// `bomb` (panics with a payload that panics when dropped), `abort` (the whole process).
pub struct Puppet {
    ledger: String,
    panic_stop: bool,
    panic_drop: bool,
    panic_ticks: u32,
    block_tick_ms: u64,
    block_stop_ms: u64,
    handled: u32,
}

struct Bomb;

impl Drop for Bomb {
    fn drop(&mut self) {
        panic!("the payload of a panic panics");
    }
}

impl Service for Puppet {
    const NAME: &'static str = "puppet";
    type Config = PuppetConfig;

    fn ports(config: &PuppetConfig, ports: &mut Ports<Self>) {
        ports.input(&ORDERS).output(&DONE);
        if config.tick_ms > 0 {
            ports.tick(BEAT, Duration::from_millis(config.tick_ms));
        }
    }

    async fn start(config: &PuppetConfig, _: &mut Context) -> Result<Self, Failure> {
        let started = note(&config.ledger, "start") as u32;
        std::thread::sleep(Duration::from_millis(config.block_start_ms));
        match started.checked_sub(config.good_starts) {
            Some(bad) if bad < config.panic_starts => panic!("told to panic in start"),
            Some(bad) if bad < config.panic_starts + config.fail_starts => {
                return Err(Failure::retry("told to fail in start"));
            }
            _ => {}
        }
        Ok(Self {
            ledger: config.ledger.clone(),
            panic_stop: config.panic_stop,
            panic_drop: config.panic_drop,
            panic_ticks: config.panic_ticks,
            block_tick_ms: config.block_tick_ms,
            block_stop_ms: config.block_stop_ms,
            handled: 0,
        })
    }

    async fn tick(&mut self, _: Tick, cx: &mut Context) -> Result<(), Failure> {
        std::thread::sleep(Duration::from_millis(self.block_tick_ms));
        cx.emit(
            &DONE,
            Done {
                n: 1_000_000,
                attempt: 1,
            },
        )?;
        if (note(&self.ledger, "tick") as u32) < self.panic_ticks {
            panic!("told to panic in a tick");
        }
        Ok(())
    }

    async fn stop(&mut self, _: &mut Context) -> Result<(), Failure> {
        note(&self.ledger, "stop");
        std::thread::sleep(Duration::from_millis(self.block_stop_ms));
        if self.panic_stop {
            panic!("told to panic in stop");
        }
        Ok(())
    }
}

impl Drop for Puppet {
    fn drop(&mut self) {
        note(&self.ledger, "drop");
        if self.panic_drop && !std::thread::panicking() {
            panic!("told to panic in drop");
        }
    }
}

impl Handle<Order> for Puppet {
    async fn handle(&mut self, order: Order, cx: &mut Context) -> Result<(), Failure> {
        let Order { n, ms, .. } = order;
        note(&self.ledger, &format!("handle {n}"));
        self.handled += 1;
        let wait = Duration::from_millis(ms);
        let done = Done {
            n,
            attempt: cx.attempt(),
        };
        let act = if cx.attempt() <= order.until || order.until == 0 {
            &*order.act
        } else {
            ""
        };
        match act {
            "panic" => panic!("told to panic by {n}"),
            "abort" => std::process::abort(),
            "bomb" => std::panic::panic_any(Bomb),
            "emit-panic" => {
                cx.emit(&DONE, done)?;
                panic!("told to panic by {n}");
            }
            "await-panic" => {
                cx.emit(&DONE, done)?;
                tokio::time::sleep(Duration::from_millis(5)).await;
                panic!("told to panic by {n}");
            }
            "fail" => return Err(Failure::retry(format!("told to fail by {n}"))),
            "emit-fail" => {
                cx.emit(&DONE, done)?;
                return Err(Failure::retry(format!("told to fail by {n}")));
            }
            "reject" => return Err(Failure::reject(format!("told to reject {n}"))),
            "after" => return Err(Failure::after(wait, "told to come again")),
            "defer" => return Err(Failure::defer(wait, "told to wait")),
            "sleep" => tokio::time::sleep(wait).await,
            "forever" => std::future::pending().await,
            "block" => std::thread::sleep(wait),
            "pause" => cx.pause(wait),
            "twice" => cx.emit(&DONE, done.clone())?,
            "later" => return cx.emit_after(&DONE, done, wait),
            _ => {}
        }
        cx.emit(&DONE, done)
    }
}
