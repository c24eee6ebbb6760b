//! The hop with RustStream and its broker for RabbitMQ.

use std::sync::LazyLock;
use std::sync::atomic::{AtomicUsize, Ordering};

use brickwork_bench_peers::{Stopwatch, messages, setting};
use ruststream::OutSlot;
use ruststream_lapin::prelude::*;
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;

#[derive(Clone, Serialize, Deserialize, Outgoing)]
#[outgoing(name = "done")]
struct Order {
    order: u64,
    sku: String,
    quantity: u32,
    note: String,
}

static LEFT: LazyLock<AtomicUsize> = LazyLock::new(|| AtomicUsize::new(messages()));
static DONE: Notify = Notify::const_new();

#[derive(OutSlot)]
#[publishes(Order)]
struct Done;

// One worker per prefetched message: otherwise each waits for the confirm of the one before.
#[subscriber(RabbitQuorumQueue::new("bench.hop.in"), workers(256))]
async fn hop(order: &Order, Out(done): Out<impl Publisher, Done>) -> HandlerOutcome {
    let mut order = order.clone();
    order.quantity += 1;
    if done.message(&order).publish().await.is_err() {
        return HandlerOutcome::retry();
    }
    if LEFT.fetch_sub(1, Ordering::Relaxed) == 1 {
        DONE.notify_one();
    }
    HandlerOutcome::ack()
}

fn main() {
    let url = setting("AMQP_URL");
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    let stopwatch = Stopwatch::start();
    let app = RustStream::new(AppInfo::new("hop", "0.1.0")).with_broker(
        LapinBroker::new(url).prefetch(nonzero!(256)),
        |b| {
            let policy = TransactionalPublish::default()
                .exchange("bench")
                .persistent(true);
            b.include(hop).out(Done, policy).build();
        },
    );
    let ended = runtime.block_on(app.run_until(DONE.notified()));
    ended.expect("it runs");
    stopwatch.tell();
}
