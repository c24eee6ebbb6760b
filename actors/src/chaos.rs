//! `chaos`: passes messages on, and fails some attempts on purpose.
//!
//! The fault of an attempt depends only on the seed, the message's id and the attempt number.
//! So a run can be repeated, in any order and with any number of processes, and a retry draws
//! again. Messages are never lost or changed: the faults are those that the host must
//! survive.

use std::time::Duration;

use brickwork::MessageId;
use brickwork::config::HumanDuration;
use brickwork::prelude::*;
use sha2::{Digest, Sha256};

use crate::ports::current_message;

/// Passes messages on, unless an attempt draws a fault.
#[derive(Debug)]
pub struct Chaos {
    faults: FaultRates,
    length: Duration,
}

/// Config of `chaos`. A rate is a share of all attempts, from 0 to 1; the sum of all rates is
/// at most 1.
#[config]
#[derive(Copy)]
pub struct ChaosConfig {
    /// Rate of attempts that return a failure.
    pub fail: f64,
    /// Rate of attempts that panic.
    pub panic: f64,
    /// Rate of attempts that wait for the time in `for`. If that is longer than
    /// `handler_timeout`, the attempt fails.
    pub stall: f64,
    /// Rate of attempts that block their thread for the time in `for`.
    pub block: f64,
    /// Rate of attempts that abort their process.
    pub abort: f64,
    /// Time that a stall or a block takes.
    #[serde(rename = "for")]
    #[default(HumanDuration(Duration::from_secs(60)))]
    pub length: HumanDuration,
    /// Seed of the draw. Another seed selects other messages.
    pub seed: u64,
}

/// The fault of an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    Fail,
    Panic,
    Stall,
    Block,
    Abort,
}

/// Faults with their rates, and the seed of the draw.
#[derive(Debug, Clone, Copy)]
struct FaultRates {
    rates: [(Fault, f64); 5],
    seed: u64,
}

impl FaultRates {
    fn new(config: &ChaosConfig) -> Self {
        Self {
            rates: [
                (Fault::Fail, config.fail),
                (Fault::Panic, config.panic),
                (Fault::Stall, config.stall),
                (Fault::Block, config.block),
                (Fault::Abort, config.abort),
            ],
            seed: config.seed,
        }
    }

    /// The fault of this attempt, if it has one.
    fn draw(&self, id: &MessageId, attempt: u32) -> Option<Fault> {
        let mut left = unit(self.seed, id, attempt);
        for (fault, rate) in self.rates {
            if left < rate {
                return Some(fault);
            }
            left -= rate;
        }
        None
    }
}

/// A number from 0 up to 1, determined by seed, id and attempt.
fn unit(seed: u64, id: &MessageId, attempt: u32) -> f64 {
    let mut hash = Sha256::new();
    hash.update(seed.to_le_bytes());
    hash.update(attempt.to_le_bytes());
    hash.update(id.to_string().as_bytes());
    let digest = hash.finalize();
    let mut bytes = [0; 8];
    bytes.copy_from_slice(&digest[..8]);
    // A double holds exactly 53 bits.
    (u64::from_le_bytes(bytes) >> 11) as f64 / (1u64 << 53) as f64
}

#[service(
    summary = "passes messages on, and fails some attempts on purpose",
    example = r#"[services.weather]
use = "chaos"
in = "orders"
out = "orders.survived"
handler_timeout = "1s"
config = { fail = 0.05, panic = 0.01, stall = 0.01, for = "2s", seed = 7 }
"#,
    failures = ["fails, panics, stalls, blocks its thread or aborts, at the configured rates"]
)]
impl Chaos {
    fn check(config: &ChaosConfig) -> Result<(), Vec<ConfigError>> {
        let rates = [
            ("fail", config.fail),
            ("panic", config.panic),
            ("stall", config.stall),
            ("block", config.block),
            ("abort", config.abort),
        ];
        let mut errors: Vec<ConfigError> = rates
            .iter()
            .filter(|(_, rate)| !(0.0..=1.0).contains(rate))
            .map(|(name, rate)| ConfigError::new(*name, format!("{rate} is not from 0 to 1")))
            .collect();
        let sum: f64 = rates.iter().map(|(_, rate)| rate).sum();
        // Rounding: ten times 0.1 is a little more than 1.
        if errors.is_empty() && sum > 1.0 + 1e-9 {
            let text = format!("the rates add up to {sum}, at most 1 is possible");
            errors.push(ConfigError::new("", text));
        }
        crate::config_errors::result(errors)
    }

    fn start(config: &ChaosConfig) -> Result<Self> {
        Ok(Self {
            faults: FaultRates::new(config),
            length: config.length.0,
        })
    }

    #[input("in")]
    async fn pass(&mut self, raw: Raw, cx: &Context, out: Out<Raw>) -> Result {
        let (message, attempt) = current_message(cx);
        match self.faults.draw(&message.id, attempt) {
            Some(Fault::Fail) => return Err(Failure::retry("chaos: failed on purpose")),
            Some(Fault::Panic) => panic!("chaos: panicked on purpose"),
            Some(Fault::Stall) => tokio::time::sleep(self.length).await,
            Some(Fault::Block) => std::thread::sleep(self.length),
            Some(Fault::Abort) => std::process::abort(),
            None => {}
        }
        out.emit(raw)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn config(config: Value) -> ChaosConfig {
        serde_json::from_value(config).unwrap()
    }

    fn draws(faults: &FaultRates, attempt: u32) -> Vec<Option<Fault>> {
        (0..2000)
            .map(|n| faults.draw(&format!("m-{n}").parse().unwrap(), attempt))
            .collect()
    }

    #[test]
    fn the_draw_depends_on_seed_id_and_attempt_only() {
        let id: MessageId = "order-17".parse().unwrap();
        // A promise: these values never change, so that a run can be repeated after an update.
        let drawn = [unit(0, &id, 1), unit(1, &id, 1), unit(0, &id, 2)];
        assert_eq!(
            drawn,
            [0.43526802191058644, 0.15054576490261573, 0.4131545546802037]
        );
        let faults =
            |seed| FaultRates::new(&config(json!({"fail": 0.2, "panic": 0.2, "seed": seed})));
        assert_eq!(draws(&faults(3), 1), draws(&faults(3), 1));
        assert_ne!(draws(&faults(3), 1), draws(&faults(4), 1));
        assert_ne!(draws(&faults(3), 1), draws(&faults(3), 2));
    }

    #[test]
    fn each_fault_occurs_at_its_rate() {
        let faults = FaultRates::new(&config(
            json!({"fail": 0.3, "panic": 0.2, "stall": 0.1, "block": 0.05, "abort": 0.1}),
        ));
        let drawn = draws(&faults, 1);
        let share = |fault| {
            drawn.iter().filter(|drawn| **drawn == fault).count() as f64 / drawn.len() as f64
        };
        for (fault, rate) in [
            (Some(Fault::Fail), 0.3),
            (Some(Fault::Panic), 0.2),
            (Some(Fault::Stall), 0.1),
            (Some(Fault::Block), 0.05),
            (Some(Fault::Abort), 0.1),
            (None, 0.25),
        ] {
            assert!(
                (share(fault) - rate).abs() < 0.04,
                "{fault:?}: {}",
                share(fault)
            );
        }
    }

    #[test]
    fn rates_of_zero_and_one_are_exact() {
        let none = FaultRates::new(&ChaosConfig::default());
        assert!(draws(&none, 1).iter().all(Option::is_none));
        let always = FaultRates::new(&config(json!({"panic": 1.0})));
        assert!(
            draws(&always, 1)
                .iter()
                .all(|drawn| *drawn == Some(Fault::Panic))
        );
    }

    #[test]
    fn impossible_rates_are_refused() {
        let errors = |value| Chaos::check(&config(value)).unwrap_err();
        let wrong = errors(json!({"fail": -0.1, "block": 1.5}));
        assert_eq!((&*wrong[0].path, &*wrong[1].path), ("fail", "block"));
        assert!(
            errors(json!({"fail": 0.6, "panic": 0.6}))[0]
                .text
                .contains("add up to 1.2")
        );
        assert!(Chaos::check(&config(json!({"fail": 0.5, "panic": 0.5}))).is_ok());
        let nan = ChaosConfig {
            fail: f64::NAN,
            ..ChaosConfig::default()
        };
        assert!(Chaos::check(&nan).is_err());
    }

    #[test]
    fn messages_of_the_example_survive_its_faults_within_their_attempts() {
        let manifest: Value =
            toml::from_str(include_str!("../../examples/2-github-alerts/app.toml")).unwrap();
        let weather = &manifest["services"]["weather"];
        let rates = FaultRates::new(&config(weather["config"].clone()));
        let attempts = weather["retry"]["attempts"].as_u64().unwrap() as u32;
        let data = include_str!("../../examples/2-github-alerts/github-webhooks.jsonl");
        let (mut offset, mut most) = (0, 0);
        let mut faults: Vec<Fault> = Vec::new();
        for line in data.split_inclusive('\n') {
            let id = format!("intake/github-webhooks.jsonl:{offset}")
                .parse()
                .unwrap();
            let drawn = (1..).map_while(|attempt| rates.draw(&id, attempt));
            let drawn: Vec<Fault> = drawn.collect();
            most = most.max(drawn.len() as u32);
            faults.extend(drawn);
            offset += line.len();
        }
        // Two attempts to spare, for time-outs on a slow machine.
        assert!(most < attempts - 2, "{most} faults in a row");
        let count = |fault| faults.iter().filter(|drawn| **drawn == fault).count();
        // The example's README states these numbers.
        assert_eq!(count(Fault::Fail), 18);
        assert_eq!(count(Fault::Panic), 10);
        assert_eq!(count(Fault::Stall), 7);
        assert_eq!(329 + faults.len(), 364);
    }
}
