//! A service that writes into a ledger when it begins and ends each message, and fails as the
//! number of the message decides. [`KeyChecker`](crate::key_checker::KeyChecker) reads the ledger.
//!
//! A line has a letter, the process, the key and the number of the message: `B` begins, `F` is
//! finished, `A` is tried again.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::PathBuf;
use std::time::Duration;

use brickwork::prelude::*;
use tokio::time::sleep;

/// A message: the `n`-th of its key.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct Numbered {
    /// Number of the key.
    pub key: u32,
    /// Number in the key.
    pub n: u32,
}

/// The config of a witness.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct WitnessConfig {
    /// File of the ledger. Several processes may append to it.
    pub ledger: PathBuf,
    /// As `retry.attempts` of the service.
    pub attempts: u32,
    /// Whether some messages fail.
    pub trouble: bool,
    /// While this file exists, every message fails.
    pub outage: PathBuf,
}

/// The service type `key-witness`, or without a key `blind-witness`.
pub struct Witness<const KEYED: bool> {
    config: WitnessConfig,
    ledger: File,
}

/// Input of the messages.
pub const ENTRIES: Input<Numbered> = Input::new("in");
/// Output of the messages that are done.
pub const DONE: Output<Numbered> = Output::new("out");

impl<const KEYED: bool> Service for Witness<KEYED> {
    const NAME: &'static str = match KEYED {
        true => "key-witness",
        false => "blind-witness",
    };
    const KEY: &'static str = match KEYED {
        true => "key",
        false => "",
    };
    type Config = WitnessConfig;

    fn ports(_: &WitnessConfig, ports: &mut Ports<Self>) {
        ports.input(&ENTRIES).output(&DONE);
    }

    async fn start(config: &WitnessConfig, _: &mut Context) -> Result<Self, Failure> {
        let mut options = OpenOptions::new();
        Ok(Self {
            config: config.clone(),
            ledger: options.append(true).create(true).open(&config.ledger)?,
        })
    }
}

/// The fate of a message.
enum Fate {
    Fine,
    /// Fails, until this attempt.
    Fails(u32),
    Panics,
    Rejected,
    /// Fails on every attempt.
    Doomed,
    /// Comes again after a time, once.
    After,
    /// Takes this many milliseconds.
    Slow(u64),
}

impl Fate {
    fn of(message: &Numbered) -> Self {
        let number = u64::from(message.key) << 32 | u64::from(message.n);
        let number = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40;
        match number % 1_000 {
            0..30 => Self::Fails(1 + (number / 1_000 % 2) as u32),
            30..35 => Self::Panics,
            35..40 => Self::Rejected,
            40..43 => Self::Doomed,
            43..53 => Self::After,
            53..83 => Self::Slow(number / 1_000 % 4),
            _ => Self::Fine,
        }
    }
}

impl<const KEYED: bool> Witness<KEYED> {
    fn write(&mut self, letter: char, message: &Numbered) -> Result<(), Failure> {
        let (process, Numbered { key, n }) = (std::process::id(), message);
        // One write, so that lines of several processes don't mix.
        let line = format!("{letter} {process} {key} {n}\n");
        Ok(self.ledger.write_all(line.as_bytes())?)
    }
}

impl<const KEYED: bool> Handle<Numbered> for Witness<KEYED> {
    async fn handle(&mut self, message: Numbered, cx: &mut Context) -> Result<(), Failure> {
        self.write('B', &message)?;
        let attempt = cx.attempt();
        let fate = match self.config.trouble {
            true => Fate::of(&message),
            false => Fate::Fine,
        };
        let failure = match fate {
            Fate::Fine => None,
            Fate::Fails(until) => (attempt <= until).then(|| Failure::retry("it fails")),
            Fate::Doomed => Some(Failure::retry("it is doomed")),
            Fate::Rejected => Some(Failure::reject("it is rejected")),
            Fate::After => {
                let after = Failure::after(Duration::from_millis(5), "later");
                (attempt == 1).then_some(after)
            }
            Fate::Slow(ms) => {
                sleep(Duration::from_millis(ms)).await;
                None
            }
            Fate::Panics if attempt == 1 => {
                self.write('A', &message)?;
                panic!("it panics");
            }
            Fate::Panics => None,
        };
        if self.config.outage.is_file() {
            self.write('A', &message)?;
            return Err(Failure::retry("the outside system is down"));
        }
        if message.n.is_multiple_of(3) {
            tokio::task::yield_now().await;
        }
        let Some(failure) = failure else {
            self.write('F', &message)?;
            return cx.emit(&DONE, message);
        };
        let is_last = attempt >= self.config.attempts;
        let is_final = is_last || failure.kind() == brickwork::FailureKind::Reject;
        self.write(if is_final { 'F' } else { 'A' }, &message)?;
        Err(failure)
    }
}
