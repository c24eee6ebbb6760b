//! A service with two inputs that reports which service got which message, for tests of many
//! queues.

use brickwork::prelude::*;

/// A message for either input.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub struct Numbered {
    /// The message's number.
    pub n: u64,
}

/// Report on a received message.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub struct Got {
    /// The message's number.
    pub n: u64,
    /// Label of the service that got the message.
    pub service: String,
    /// Topic of the message.
    pub topic: String,
}

const LEFT: Input<Numbered> = Input::new("left");
const RIGHT: Input<Numbered> = Input::new("right");
const GOT: Output<Got> = Output::new("out");

/// A service with two inputs.
pub struct Pair;

impl Service for Pair {
    const NAME: &'static str = "pair";
    type Config = NoConfig;

    fn ports(_: &NoConfig, ports: &mut Ports<Self>) {
        ports.input(&LEFT).input(&RIGHT).output(&GOT);
    }

    async fn start(_: &NoConfig, _: &mut Context) -> Result<Self, Failure> {
        Ok(Self)
    }
}

impl Handle<Numbered> for Pair {
    async fn handle(&mut self, got: Numbered, cx: &mut Context) -> Result<(), Failure> {
        let message = cx.message().expect("a message is being handled");
        let (topic, service) = (message.topic.to_string(), cx.service().to_owned());
        cx.emit(
            &GOT,
            Got {
                n: got.n,
                service,
                topic,
            },
        )
    }
}
