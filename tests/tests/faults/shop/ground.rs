//! The transports under the app: each durable transport is an entry in [`ALL`].

use brickwork_tests::broker::Broker;

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
}
