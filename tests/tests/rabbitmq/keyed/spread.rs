//! Partitions over processes that join, leave and die.

use brickwork::transport::Completion;

use super::*;

/// The messages that the processes of a test have handled.
#[derive(Default)]
struct Seen {
    /// The next number of each customer: every earlier one is done.
    next: BTreeMap<u32, u32>,
    /// The process that received the last message of each customer.
    holder: BTreeMap<u32, usize>,
    problems: Vec<String>,
}

impl Seen {
    fn begin(&mut self, process: usize, customer: u32, number: u32) {
        self.holder.insert(customer, process);
        let next = *self.next.entry(customer).or_default();
        // An earlier number was done before its process died, and comes again.
        if number > next {
            let problem = format!("customer {customer}: {number} before {next}");
            self.problems.push(problem);
        }
    }

    fn done(&mut self, customer: u32, number: u32) {
        let next = self.next.entry(customer).or_default();
        *next = (*next).max(number + 1);
    }
}

/// A process that handles messages until it is stopped or dies.
struct Worker {
    transport: Arc<dyn Transport>,
    stop: tokio::sync::watch::Sender<bool>,
    task: tokio::task::JoinHandle<()>,
}

impl Worker {
    async fn start(broker: &Broker, app: &str, number: usize, seen: &Arc<Mutex<Seen>>) -> Self {
        let transport = process(broker, app, 16).await;
        let (stop, stopped) = tokio::sync::watch::channel(false);
        let task = tokio::spawn(work(transport.clone(), number, seen.clone(), stopped));
        Self {
            transport,
            stop,
            task,
        }
    }

    /// Leaves in order.
    async fn leave(self) {
        self.stop.send_replace(true);
        self.task.await.expect("it ends");
        self.transport.close().await;
    }

    /// Dies with what it has in flight.
    async fn die(self) {
        self.task.abort();
        let _aborted = self.task.await;
        drop(self.transport);
    }
}

async fn work(
    transport: Arc<dyn Transport>,
    process: usize,
    seen: Arc<Mutex<Seen>>,
    mut stopped: tokio::sync::watch::Receiver<bool>,
) {
    loop {
        let Ok(mut consumer) = transport.consume(&requests(), 64).await else {
            return;
        };
        let mut taken: VecDeque<Delivery> = VecDeque::new();
        loop {
            tokio::select! {
                _stop = stopped.wait_for(|stopped| *stopped) => {
                    consumer.stop();
                    return;
                }
                took = take(&mut *consumer, &mut taken, 8) => if took.is_err() { break },
            }
            for delivery in taken.drain(..) {
                let (customer, number) = read(delivery.message());
                seen.lock().unwrap().begin(process, customer, number);
                // A handler that takes a while, so that messages wait.
                tokio::time::sleep(Duration::from_millis(1)).await;
                seen.lock().unwrap().done(customer, number);
                delivery.ack();
            }
        }
    }
}

/// Publishes the next message of each customer, again and again until all are confirmed.
async fn publish_round(transport: &dyn Transport, customers: u32, number: u32) {
    loop {
        let batch = (0..customers).map(|customer| Outgoing::from(order(customer, number)));
        let (done, outcome) = Completion::channel();
        transport.publish(batch.collect(), done);
        if timeout(SOON, outcome).await.expect("an outcome").is_ok() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

async fn wait_until_done(seen: &Mutex<Seen>, customers: u32, rounds: u32) {
    let began = Instant::now();
    loop {
        let done = seen.lock().unwrap().next.clone();
        if done.len() == customers as usize && done.values().all(|next| *next >= rounds) {
            return;
        }
        assert!(began.elapsed() < SOON, "{done:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn order_by_key_holds_while_processes_join_leave_and_die_and_the_broker_restarts() {
    const CUSTOMERS: u32 = 40;
    let (mut broker, app) = (Broker::start(), "keyed-order");
    let seen = Arc::new(Mutex::new(Seen::default()));
    let publisher = process(&broker, app, 16).await;
    let mut workers = VecDeque::from([Worker::start(&broker, app, 0, &seen).await]);
    for round in 0..60_u32 {
        publish_round(&*publisher, CUSTOMERS, round).await;
        // Some rounds wait at any time.
        wait_until_done(&seen, CUSTOMERS, round.saturating_sub(5)).await;
        match round {
            5 | 10 | 35 => {
                workers.push_back(Worker::start(&broker, app, round as usize, &seen).await);
            }
            20 => workers.pop_front().expect("a worker").die().await,
            30 | 50 => workers.pop_front().expect("a worker").leave().await,
            40 => {
                broker.kill();
                broker.start_again();
            }
            _ => {}
        }
    }
    wait_until_done(&seen, CUSTOMERS, 60).await;
    assert_eq!(seen.lock().unwrap().problems, Vec::<String>::new());
}

#[tokio::test]
async fn partitions_spread_over_the_processes() {
    let (broker, app) = (Broker::start(), "keyed-spread");
    let seen = Arc::new(Mutex::new(Seen::default()));
    let publisher = process(&broker, app, 16).await;
    // Each customer stands for its partition.
    let mut customers = BTreeMap::new();
    for customer in 0..1_000_u32 {
        let key = brickwork::Key::new(&customer.to_string()).unwrap();
        customers.entry(key.partition(16)).or_insert(customer);
    }
    assert_eq!(customers.len(), 16);
    let mut workers = Vec::new();
    for number in 0..3 {
        workers.push(Worker::start(&broker, app, number, &seen).await);
    }
    let began = Instant::now();
    for round in 0.. {
        for customer in customers.values() {
            publish(&*publisher, order(*customer, round)).await.unwrap();
        }
        let mut shares: BTreeMap<usize, usize> = BTreeMap::new();
        for process in seen.lock().unwrap().holder.values() {
            *shares.entry(*process).or_default() += 1;
        }
        if shares.len() == 3 && shares.values().all(|share| *share <= 6) {
            break;
        }
        assert!(began.elapsed() < Duration::from_secs(120), "{shares:?}");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    assert_eq!(seen.lock().unwrap().problems, Vec::<String>::new());
    for worker in workers {
        worker.leave().await;
    }
}
