//! The transports under the app: each durable transport is an entry in [`ALL`].

use std::time::Duration;

use brickwork_tests::broker::Broker;
use brickwork_tests::process::until;

/// Maximum time until all delays are over. The longest delay of the shop is that of a late payment.
const DELAYS_MAX: Duration = Duration::from_secs(60);
/// The broker counts a queue's messages this often; see the settings of test brokers.
const COUNTED_EVERY: Duration = Duration::from_secs(1);

/// The transports on which the app must survive.
pub(crate) const ALL: &[fn() -> Ground] = &[Ground::embedded, Ground::rabbitmq];

/// A transport and its broker.
pub(crate) struct Ground {
    pub(crate) name: &'static str,
    pub(crate) url: String,
    /// The broker, if it can be restarted beside the app.
    pub(crate) broker: Option<Broker>,
}

impl Ground {
    fn embedded() -> Self {
        Self {
            name: "embedded",
            // In the folder of the app.
            url: "embedded:data/queues".into(),
            broker: None,
        }
    }

    fn rabbitmq() -> Self {
        let broker = Broker::start();
        Self {
            name: "rabbitmq",
            url: broker.url(),
            broker: Some(broker),
        }
    }

    /// Returns the app's queues that have messages, each with its counts: all, ready, in flight.
    /// A message that is neither ready nor in flight waits for the broker to move it.
    fn queues_with_messages(&self) -> Vec<String> {
        let Some(broker) = &self.broker else {
            return Vec::new();
        };
        let columns = ["messages", "messages_ready", "messages_unacknowledged"];
        let listed =
            broker.ctl(&[&["list_queues", "--no-table-headers", "name"], &columns[..]].concat());
        let lines = listed.lines().filter(|line| !line.contains("\t0\t0\t0"));
        // Each lease and the list of declared queues are messages, too.
        let lines = lines.filter(|line| !line.contains(".lease\t") && !line.contains(".ledger\t"));
        lines.map(str::to_owned).collect()
    }

    /// Waits until no delay is running, while the app is stopped. Returns the queues that have
    /// messages then.
    pub(crate) fn wait_for_delays(&self) -> Vec<String> {
        if self.broker.is_none() {
            return Vec::new();
        }
        // Older counts may be of the running app.
        std::thread::sleep(2 * COUNTED_EVERY);
        until("no message is delayed", DELAYS_MAX, || {
            let queues = self.queues_with_messages();
            match queues.iter().any(|line| line.contains(".wait.")) {
                true => Err(queues.join("\n")),
                false => Ok(queues),
            }
        })
    }
}
