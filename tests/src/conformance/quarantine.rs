//! Laws on quarantine: messages that were in flight when their process crashed.
//!
//! A crash is a transport that is dropped with deliveries in flight: the broker, or the next
//! process that opens the folder, sees the same.

use brickwork::transport::{AskError, Keyed};
use brickwork::{Key, KeyRule, ReadKey, Settlement};
use bytes::Bytes;
use futures_util::future::BoxFuture;

use super::*;

const NOT_DURABLE: Verdict = Verdict::DoesNotApply("it isn't durable");
/// Waits for a message that must not come: longer than it would take.
const A_WHILE: Duration = Duration::from_millis(300);

/// Three services, one queue each.
const SHOP: Queues<'_> = &[
    ("stock.requests", &[ORDERS]),
    ("prices.requests", &["prices"]),
    ("web.requests", &["web"]),
];

impl App {
    /// Ends the process with these deliveries in flight.
    fn crash(self, takers: Vec<Taker>, in_flight: Vec<Delivery>) {
        drop((self, takers));
        drop(in_flight);
    }

    /// Publishes a request for `prices` in the name of a service.
    fn ask_prices(&self, asker: &str, number: u32) -> Asking {
        let mut request = message("prices", number).edit();
        request.source = format!("/{}/{asker}", self.topology.app).into();
        self.transport.ask(request.into(), SOON)
    }
}

type Asking = BoxFuture<'static, Result<Message, AskError>>;

impl Taker {
    /// Whether no delivery comes for a while.
    async fn is_quiet(&mut self) -> bool {
        let mut taken = VecDeque::new();
        let taking = take(&mut *self.0, &mut taken, 1);
        timeout(A_WHILE, taking).await.is_err()
    }
}

/// Takes this many messages of `stock` and crashes, again and again. They are the numbers
/// from 0.
async fn after_crashes(subject: &Subject, crashes: u32, messages: usize) -> Topology {
    let app = App::new(subject, SHOP).await;
    let topology = app.topology.clone();
    app.send(ORDERS, 0..messages as u32).await;
    let mut next = Some(app);
    for _ in 0..crashes {
        let app = match next.take() {
            Some(app) => app,
            None => App::again(subject, &topology).await,
        };
        let mut stock = app.consume("stock.requests", 10).await;
        let in_flight = stock.exactly(messages).await;
        assert!(in_flight.iter().all(|it| it.crashes() == 0));
        app.crash(vec![stock], in_flight);
    }
    topology
}

fn attempt(delivery: &Delivery) -> (u32, u32) {
    (delivery.attempt(), delivery.crashes())
}

/// Messages that were in flight during two crashes are tried one at a time, beside normal
/// work.
pub async fn suspects_are_tried_one_at_a_time_beside_normal_work(subject: &Subject) -> Verdict {
    if !subject.guarantees().durable {
        return NOT_DURABLE;
    }
    let topology = after_crashes(subject, 2, 3).await;
    let app = App::again(subject, &topology).await;
    let mut stock = app.consume("stock.requests", 10).await;
    let first = stock.one().await;
    assert_eq!(attempt(&first), (1, 0));
    assert!(stock.is_quiet().await, "a second suspect is handed out");
    app.send(ORDERS, 3..4).await;
    let normal = stock.one().await;
    assert_eq!(number(normal.message()), 3);
    normal.ack();
    let mut seen = vec![number(first.message())];
    first.ack();
    for _ in 0..2 {
        let next = stock.one().await;
        seen.push(number(next.message()));
        next.ack();
    }
    assert_eq!(sorted(seen), [0, 1, 2]);
    app.flush().await;
    assert_eq!(app.depth("stock.requests").await, Depth::default());
    app.close().await;
    Verdict::Kept
}

/// A crash beside normal work is not blamed on the suspect. After it the suspect is tried
/// alone, and each crash counts. No other message is blamed.
pub async fn a_suspect_is_blamed_for_crashes_while_it_is_tried_alone(subject: &Subject) -> Verdict {
    if !subject.guarantees().durable {
        return NOT_DURABLE;
    }
    let topology = after_crashes(subject, 2, 3).await;
    let mut culprit = None;
    for (life, blamed) in (0..).zip([0, 0, 1, 2]) {
        let app = App::again(subject, &topology).await;
        let mut stock = app.consume("stock.requests", 10).await;
        let suspect = stock.one().await;
        let first = *culprit.get_or_insert(number(suspect.message()));
        assert_eq!(number(suspect.message()), first, "another one is first");
        assert_eq!(attempt(&suspect), (blamed + 1, blamed));
        app.send(ORDERS, 10 + life..11 + life).await;
        match life {
            0 => stock.one().await.ack(),
            _ => assert!(stock.is_quiet().await, "the suspect isn't tried alone"),
        }
        app.flush().await;
        app.crash(vec![stock], vec![suspect]);
    }
    let app = App::again(subject, &topology).await;
    let mut stock = app.consume("stock.requests", 10).await;
    let suspect = stock.one().await;
    assert_eq!(attempt(&suspect), (4, 3));
    suspect.ack();
    let mut seen = Vec::new();
    for _ in 0..5 {
        let next = stock.one().await;
        assert_eq!(attempt(&next), (1, 0), "{next:?}");
        seen.push(number(next.message()));
        next.ack();
    }
    let mut expected = vec![0, 1, 2, 11, 12, 13];
    expected.retain(|it| Some(*it) != culprit);
    assert_eq!(sorted(seen), expected);
    app.flush().await;
    assert_eq!(app.depth("stock.requests").await, Depth::default());
    app.close().await;
    Verdict::Kept
}

/// A suspect that is requeued is not blamed, and keeps the crashes that it is blamed for.
pub async fn a_requeued_suspect_is_not_blamed(subject: &Subject) -> Verdict {
    if !subject.guarantees().durable {
        return NOT_DURABLE;
    }
    let topology = after_crashes(subject, 2, 1).await;
    for blamed in [0, 0, 1] {
        // A process that stops in order.
        let app = App::again(subject, &topology).await;
        let mut stock = app.consume("stock.requests", 10).await;
        for _ in 0..4 {
            let suspect = stock.one().await;
            assert_eq!(attempt(&suspect), (blamed + 1, blamed));
            suspect.nack_requeue();
        }
        let suspect = stock.one().await;
        stock.0.stop();
        suspect.nack_requeue();
        app.flush().await;
        app.close().await;
        // And a process that crashes.
        let app = App::again(subject, &topology).await;
        assert_eq!(app.depth("stock.requests").await.total(), 1);
        let mut stock = app.consume("stock.requests", 10).await;
        let suspect = stock.one().await;
        assert_eq!(attempt(&suspect), (blamed + 1, blamed));
        app.crash(vec![stock], vec![suspect]);
    }
    Verdict::Kept
}

/// A suspect that fails without a crash is retried like any other message.
pub async fn a_failed_suspect_is_retried_like_any_message(subject: &Subject) -> Verdict {
    if !subject.guarantees().durable {
        return NOT_DURABLE;
    }
    let topology = after_crashes(subject, 2, 3).await;
    let app = App::again(subject, &topology).await;
    let mut stock = app.consume("stock.requests", 10).await;
    let suspect = stock.one().await;
    let failed = number(suspect.message());
    suspect.settle(Settlement::Retry {
        after: Duration::ZERO,
        attempt: 2,
    });
    let mut attempts = Vec::new();
    for _ in 0..3 {
        let next = stock.one().await;
        attempts.push((number(next.message()) == failed, next.attempt()));
        next.ack();
    }
    attempts.sort_unstable();
    assert_eq!(attempts, [(false, 1), (false, 1), (true, 2)]);
    app.flush().await;
    assert_eq!(app.depth("stock.requests").await, Depth::default());
    app.close().await;
    Verdict::Kept
}

/// A suspect of an input that this version of the app does not have waits for a version that
/// has the input.
pub async fn a_suspect_waits_for_a_version_with_its_input(subject: &Subject) -> Verdict {
    if !subject.guarantees().durable {
        return NOT_DURABLE;
    }
    let topology = after_crashes(subject, 2, 3).await;
    // Moves all three to the quarantine, and tries one of them.
    let app = App::again(subject, &topology).await;
    let mut stock = app.consume("stock.requests", 10).await;
    stock.one().await.ack();
    stock.0.stop();
    app.flush().await;
    assert_eq!(app.depth("stock.requests").await.total(), 2);
    app.close().await;

    let other = Topology {
        queues: vec![spec("stock.returns", &["returns"])],
        ..topology.clone()
    };
    let app = App::again(subject, &other).await;
    let mut returns = app.consume("stock.returns", 10).await;
    assert!(returns.is_quiet().await, "a suspect of another input comes");
    assert_eq!(app.depth("stock.dlq").await.total(), 0);
    app.close().await;

    let app = App::again(subject, &topology).await;
    let mut stock = app.consume("stock.requests", 10).await;
    for _ in 0..2 {
        let suspect = stock.one().await;
        assert_eq!(attempt(&suspect), (1, 0));
        suspect.ack();
    }
    app.flush().await;
    assert_eq!(app.depth("stock.requests").await, Depth::default());
    app.close().await;
    Verdict::Kept
}

/// Answers a request for `prices`.
async fn answer(request: Delivery, asking: Asking) {
    let asked = number(request.message());
    request.settle(Settlement::Ack(Some(Ok(Bytes::from("7")))));
    let reply = timeout(SOON, asking).await.expect("asking ends");
    assert_eq!(reply.expect("it is answered").payload, "7", "{asked}");
}

/// A suspect that asks while it is tried alone gets its answer: the queue in which it asked
/// hands out messages until then, in order. No other queue does.
pub async fn a_suspect_that_asks_while_it_is_tried_alone_is_answered(subject: &Subject) -> Verdict {
    if !subject.guarantees().durable {
        return NOT_DURABLE;
    }
    let topology = after_crashes(subject, 3, 1).await;
    let app = App::again(subject, &topology).await;
    app.send("prices", 1..2).await;
    app.send("web", 2..3).await;
    let mut stock = app.consume("stock.requests", 10).await;
    let suspect = stock.one().await;
    let mut prices = app.consume("prices.requests", 10).await;
    let mut web = app.consume("web.requests", 10).await;
    assert!(prices.is_quiet().await, "the suspect isn't tried alone");
    // `outside` has no input: no message in flight waits for the answer.
    let outside = app.ask_prices("outside", 3);
    assert!(prices.is_quiet().await, "the suspect isn't tried alone");

    let asking = app.ask_prices("stock", 4);
    for expected in [1, 3, 4] {
        let next = prices.one().await;
        assert_eq!(number(next.message()), expected, "in order");
        next.settle(Settlement::Ack(Some(Ok(Bytes::from("7")))));
    }
    let answers = [outside, asking].map(|it| timeout(SOON, it));
    for answered in futures_util::future::join_all(answers).await {
        let reply = answered.expect("asking ends").expect("it is answered");
        assert_eq!(reply.payload, "7");
    }
    app.send("prices", 5..6).await;
    assert!(prices.is_quiet().await, "no handler waits for this message");
    assert!(web.is_quiet().await, "no handler asked in this queue");
    suspect.ack();
    prices.one().await.ack();
    web.one().await.ack();
    app.close().await;
    Verdict::Kept
}

/// Before a suspect is tried alone, a handler that asked gets its answer.
pub async fn a_handler_that_asked_is_answered_before_a_suspect_is_tried_alone(
    subject: &Subject,
) -> Verdict {
    if !subject.guarantees().durable {
        return NOT_DURABLE;
    }
    let topology = after_crashes(subject, 3, 1).await;
    let app = App::again(subject, &topology).await;
    let mut prices = app.consume("prices.requests", 10).await;
    let mut web = app.consume("web.requests", 10).await;
    app.send("web", 1..2).await;
    let asker = web.one().await;
    let mut stock = app.consume("stock.requests", 10).await;
    // From now on a suspect waits to be tried alone.
    let asking = app.ask_prices("web", 2);
    let request = prices.one().await;
    assert!(stock.is_empty(), "the suspect isn't tried alone");
    answer(request, asking).await;
    assert!(stock.is_quiet().await, "the suspect isn't tried alone");
    asker.ack();
    stock.one().await.ack();
    app.close().await;
    Verdict::Kept
}

/// Reads one key for all messages.
struct OneKey;

impl ReadKey for OneKey {
    fn read(&self, _: &Message) -> Result<Key, String> {
        Key::new("one")
    }
}

/// In a queue whose messages have keys, no message overtakes a suspect: neither a later suspect nor
/// a later message, also while the suspect waits for its retry.
pub async fn with_keys_no_message_overtakes_a_suspect(subject: &Subject) -> Verdict {
    if !subject.guarantees().durable {
        return NOT_DURABLE;
    }
    if subject.guarantees().crosses_processes {
        return Verdict::DoesNotApply("its partitions have laws of their own");
    }
    let mut topology = after_crashes(subject, 2, 3).await;
    topology.queues[0].keyed = Some(Keyed {
        rule: KeyRule::new("one", Arc::new(OneKey)),
        partitions: 1,
    });
    let app = App::again(subject, &topology).await;
    app.send(ORDERS, 3..5).await;
    let mut stock = app.consume("stock.requests", 10).await;
    let first = stock.one().await;
    assert_eq!((number(first.message()), attempt(&first)), (0, (1, 0)));
    assert!(stock.is_quiet().await, "the suspect is overtaken");
    let after = A_WHILE;
    first.settle(Settlement::Retry { after, attempt: 2 });
    let first = stock.one().await;
    assert_eq!((number(first.message()), attempt(&first)), (0, (2, 0)));
    first.ack();
    let second = stock.one().await;
    assert_eq!(number(second.message()), 1);
    second.nack_requeue();
    for expected in 1..3 {
        let next = stock.one().await;
        assert_eq!(number(next.message()), expected);
        next.ack();
    }
    assert_eq!(numbers(&stock.exactly(2).await), [3, 4]);
    app.close().await;
    Verdict::Kept
}
