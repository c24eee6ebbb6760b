//! Entities on `embedded:`: each touched once, and a few that are warm; beside a service with a
//! store that keeps the same number by key.

use brickwork::Workers;
use brickwork::prelude::*;
use brickwork_bench::flow::{self, Made, Orders, Sink};
use brickwork_bench::rounds::Rounds;

const MESSAGES: u64 = 100_000;
const ROUNDS: usize = 3;
/// Entities that stay in memory.
const WARM: u64 = 256;

#[derive(Clone, Serialize, Deserialize, JsonSchema)]
struct Touch {
    /// Another one for each message.
    once: u64,
    /// One of [`WARM`].
    warm: u64,
}

impl Made for Touch {
    fn made(once: u64, _: usize) -> Self {
        let warm = once % WARM;
        Self { once, warm }
    }
}

#[derive(Default, Serialize, Deserialize)]
struct Once {
    touched: u64,
}

#[entity(key = "once")]
impl Once {
    #[input]
    fn touches(&mut self, touch: Touch, out: Out<Touch>) -> Result {
        self.touched += 1;
        out.emit(touch)
    }
}

#[derive(Default, Serialize, Deserialize)]
struct Warm {
    touched: u64,
}

#[entity(key = "warm")]
impl Warm {
    #[input]
    fn touches(&mut self, touch: Touch, out: Out<Touch>) -> Result {
        self.touched += 1;
        out.emit(touch)
    }
}

const TABLES: &[Migration] = &[Migration::new(
    "numbers",
    "CREATE TABLE number (key INTEGER PRIMARY KEY, touched INTEGER NOT NULL) STRICT",
)];

#[derive(Default)]
struct Plain;

#[service(store = TABLES)]
impl Plain {
    #[input]
    fn touches(touch: Touch, tx: &mut Tx, out: Out<Touch>) -> Result {
        tx.prepare_cached(
            "INSERT INTO number VALUES (?1, 1) ON CONFLICT DO UPDATE SET touched = touched + 1",
        )?
        .execute([touch.warm as i64])?;
        out.emit(touch)
    }
}

/// Returns the messages per second of a service of this type.
fn rate(service_type: &str) -> f64 {
    let folder = tempfile::tempdir_in(".").expect("a folder");
    let store = match service_type {
        "plain" => "store = true\n",
        _ => "",
    };
    let services = format!(
        "[services.orders]\nout = \"orders\"\nconfig.count = {MESSAGES}\nconfig.in_flight = 1024\n\
         [services.touched]\nuse = \"{service_type}\"\nin = \"orders\"\nout = \"kept\"\n{store}\
         instances = 64\nmailbox = 1024\n[services.sink]\nin = \"kept\"\nmailbox = 256\n"
    );
    let catalog = Catalog::new()
        .with_source::<Orders<Touch>>()
        .with::<Sink<Touch>>()
        .with::<Plain>()
        .with_entity::<Once>()
        .with_entity::<Warm>();
    let ran = flow::run(
        folder.path(),
        "transport = \"embedded:queues\"",
        &services,
        &catalog,
        &brickwork_bridges::all(),
        Workers::Threads,
        Some(MESSAGES),
    );
    MESSAGES as f64 / ran.seconds
}

pub(crate) fn run() {
    Rounds::new(format!("{MESSAGES} messages to entities, embedded:"), "/s")
        .with("each entity touched once", || rate("once"))
        .with("256 warm entities", || rate("warm"))
        .with("plain service with a store", || rate("plain"))
        .run(ROUNDS);
}
