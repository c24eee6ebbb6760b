//! A careless service: it shows its secret wherever it can.

use brickwork::config::Secret;
use brickwork::prelude::*;

/// The secret that the tests configure.
pub const SECRET: &str = "tok\"en\\with-quotes-5d1e";

/// Config of a [`Leaky`].
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LeakyConfig {
    /// The secret.
    token: Secret,
    /// Fail in start with the secret in the error.
    #[serde(default)]
    fail_start: bool,
}

/// An instruction for the service.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub struct Act {
    act: String,
}

const ACTS: Input<Act> = Input::new("in");

/// The careless service.
pub struct Leaky(String);

impl Service for Leaky {
    const NAME: &'static str = "leaky";
    type Config = LeakyConfig;

    fn ports(_: &LeakyConfig, ports: &mut Ports<Self>) {
        ports.input(&ACTS);
    }

    async fn start(config: &LeakyConfig, _: &mut Context) -> Result<Self, Failure> {
        tracing::info!(?config, "started with {config:?}");
        if config.fail_start {
            return Err(Failure::retry(format!(
                "can't log in with {}",
                config.token.reveal()
            )));
        }
        Ok(Self(config.token.reveal().to_owned()))
    }
}

impl Handle<Act> for Leaky {
    async fn handle(&mut self, act: Act, _: &mut Context) -> Result<(), Failure> {
        let token = &self.0;
        match &*act.act {
            "fail" => Err(Failure::retry(format!("refused: {token:?}"))),
            "reject" => Err(Failure::reject(format!("never with {token}"))),
            "panic" => panic!("could not use {token}"),
            _ => {
                tracing::warn!(%token, ?token, "the token is {token}");
                Ok(())
            }
        }
    }
}
