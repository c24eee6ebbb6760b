//! A service with two inputs that says who got what, for tests of many queues.

use brickwork::prelude::*;

/// A message that both inputs take.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub struct Numbered {
    /// Its number.
    pub n: u64,
}

/// Who got it.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub struct Got {
    /// The message's number.
    pub n: u64,
    /// The service's label.
    pub service: String,
    /// The topic that it came by.
    pub topic: String,
}

const LEFT: Input<Numbered> = Input::new("left");
const RIGHT: Input<Numbered> = Input::new("right");
const GOT: Output<Got> = Output::new("out");

/// See the module.
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
        let message = cx.message().expect("a message is in hand");
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
