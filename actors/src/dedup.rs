//! `dedup`: passes on the first message of each key.
//!
//! The store holds the keys that were seen; the oldest are deleted, by age and by number. One
//! transaction records a key and emits its message.

use std::sync::Arc;
use std::time::Duration;

use brickwork::config::HumanDuration;
use brickwork::prelude::*;
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::batch::transact_batch;
use crate::expression::{Expression, Scope};
use crate::key::key_of;
use crate::ports::{IN, OUT, batch_message};

/// Output of messages whose key was seen before.
const DUPLICATES: Output<Raw> = Output::new("duplicates");

/// Messages that share one commit.
const BATCH: Batch = Batch {
    max: 512,
    within: Duration::ZERO,
};

/// New keys between two deletions of old ones.
const CLEAN_EVERY: i64 = 64;
/// Maximum keys per deletion: more than arrive between two deletions.
const CLEAN_MAX: i64 = 128;

/// Passes on the first message of each key, unchanged; acks the others.
#[derive(Debug)]
pub struct Dedup {
    key: Option<Expression>,
    duplicates: bool,
    seen: SeenKeys,
}

/// Config of `dedup`.
#[config]
pub struct DedupConfig {
    /// An expression over `msg` and `meta`: messages with equal values are duplicates; `1` and
    /// `1.0` are equal. A missing field dead-letters the message. By default the message's id; a message that
    /// came without an id is then always passed on.
    pub key: Option<Expression>,
    /// How long a key is remembered, counted from the message that was passed on.
    #[default(HumanDuration(Duration::from_secs(24 * 3600)))]
    pub within: HumanDuration,
    /// Maximum number of keys. Beyond it, the oldest are forgotten early. A million keys take
    /// about 60 MB of disk.
    #[default(1_000_000)]
    pub keys: u64,
    /// Whether duplicates are emitted on the output `duplicates` instead of dropped. A
    /// redelivery with the same id is not emitted there: that message was handled before.
    pub duplicates: bool,
}

impl Service for Dedup {
    const NAME: &'static str = "dedup";
    const SUMMARY: &'static str = "passes on the first message of each key";
    const EXAMPLE: &'static str = r#"[services.once]
use = "dedup"
store = true
in = "orders"
out = "orders.once"
config.key = "[msg.customer, msg.order]"
config.within = "1d"
"#;
    const FAILURES: &'static [&'static str] = &[
        "dead-letters a message on which an expression takes too many steps or too much memory",
        "dead-letters a message whose payload is not JSON, if the key uses msg",
        "dead-letters a message whose key is null, or that lacks a field that has() doesn't guard",
        "passes a duplicate on when more than `keys` other keys came in between",
    ];
    const STORE: &'static [Migration] = &[Migration::new(
        "keys",
        "CREATE TABLE dedup_key (
            n INTEGER PRIMARY KEY,
            key BLOB NOT NULL UNIQUE,
            at_ms INTEGER NOT NULL
        ) STRICT",
    )];
    type Config = DedupConfig;

    fn ports(config: &DedupConfig, ports: &mut Ports<Self>) {
        ports.batch(&IN, BATCH).output(&OUT);
        if config.duplicates {
            ports.output(&DUPLICATES);
        }
    }

    fn check(config: &DedupConfig) -> Result<(), Vec<ConfigError>> {
        let mut errors = Vec::new();
        if config.within.0.is_zero() {
            let text = "it is zero: set a time, such as 24h";
            errors.push(ConfigError::new("within", text));
        }
        if !(1..=KEYS_MAX).contains(&config.keys) {
            let text = format!("it is from 1 to {KEYS_MAX}");
            errors.push(ConfigError::new("keys", text));
        }
        crate::config_errors::result(errors)
    }

    async fn start(config: &DedupConfig, _: &mut Context) -> Result<Self, Failure> {
        Ok(Self {
            key: config.key.clone(),
            duplicates: config.duplicates,
            seen: SeenKeys {
                within_ms: config.within.0.as_millis() as i64,
                keys: config.keys as i64,
            },
        })
    }
}

/// Maximum of `keys`: about 60 GB of disk.
const KEYS_MAX: u64 = 1_000_000_000;

impl Dedup {
    /// The fingerprint of a message's key; `None` if the key is the id, and the message came
    /// without one.
    fn fingerprint(&self, cx: &Context, index: usize) -> Result<Option<Fingerprint>, Failure> {
        let (message, attempt) = batch_message(cx, index);
        let key = match &self.key {
            Some(key) => key_of(key, &mut Scope::new(message, attempt))?,
            None if message.anonymous => return Ok(None),
            // Equal to the expression meta.id.
            None => Value::String(message.id.to_string()).to_string(),
        };
        Ok(Some(Fingerprint::new(&key)))
    }
}

impl HandleBatch<Raw> for Dedup {
    async fn handle_batch(
        &mut self,
        batch: Vec<Raw>,
        cx: &mut Context,
    ) -> Vec<Result<(), Failure>> {
        let (seen, duplicates) = (self.seen, self.duplicates);
        let service: Arc<str> = cx.service().into();
        let transactions = batch.into_iter().enumerate().map(|(index, raw)| {
            let fingerprint = self.fingerprint(cx, index)?;
            let service = service.clone();
            Ok(move |tx: &mut Tx<'_>| {
                let is_first = match &fingerprint {
                    Some(fingerprint) => seen.is_first(tx, fingerprint)?,
                    None => true,
                };
                if is_first {
                    return tx.emit(&OUT, raw);
                }
                if let Some(message) = tx.message() {
                    tracing::debug!(%service, id = %message.id, "duplicate message: its key was seen before");
                }
                match duplicates {
                    true => tx.emit(&DUPLICATES, raw),
                    false => Ok(()),
                }
            })
        });
        let transactions = transactions.collect();
        transact_batch(cx, transactions).await
    }
}

/// Fixed-size stand-in for a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Fingerprint([u8; 16]);

impl Fingerprint {
    /// Half of the key's SHA-256: collisions are practically impossible.
    fn new(key: &str) -> Self {
        let digest = Sha256::digest(key.as_bytes());
        let mut half = [0; 16];
        half.copy_from_slice(&digest[..16]);
        Self(half)
    }
}

/// How many keys the table holds, and for how long. Rows are numbered by age.
#[derive(Debug, Clone, Copy)]
struct SeenKeys {
    within_ms: i64,
    keys: i64,
}

impl SeenKeys {
    /// Records a key. Returns whether it is new, or was seen too long ago.
    fn is_first(self, tx: &Tx<'_>, key: &Fingerprint) -> Result<bool, Failure> {
        let now_ms = tx.now_ms() as i64;
        let too_old_ms = now_ms.saturating_sub(self.within_ms);
        let mut insert = tx.prepare_cached(
            "INSERT INTO dedup_key (key, at_ms) VALUES (?1, ?2) ON CONFLICT (key) DO NOTHING",
        )?;
        if insert.execute((&key.0, now_ms))? == 1 {
            let n = tx.last_insert_rowid();
            if n % CLEAN_EVERY == 0 {
                self.delete_old(tx, n, too_old_ms)?;
            }
            return Ok(true);
        }
        // An expired key counts as new, and becomes the youngest.
        let mut renew = tx.prepare_cached(
            "UPDATE dedup_key SET n = (SELECT max(n) + 1 FROM dedup_key), at_ms = ?2
             WHERE key = ?1 AND at_ms <= ?3",
        )?;
        Ok(renew.execute((&key.0, now_ms, too_old_ms))? == 1)
    }

    fn delete_old(self, tx: &Tx<'_>, last: i64, too_old_ms: i64) -> Result<(), Failure> {
        let mut delete = tx.prepare_cached(
            "DELETE FROM dedup_key
             WHERE n IN (SELECT n FROM dedup_key ORDER BY n LIMIT ?1)
             AND (n <= ?2 OR at_ms <= ?3)",
        )?;
        delete.execute((CLEAN_MAX, last - self.keys, too_old_ms))?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn check(config: Value) -> Vec<String> {
        let config: DedupConfig = serde_json::from_value(config).unwrap();
        let errors = Dedup::check(&config).err().unwrap_or_default();
        errors.into_iter().map(|error| error.path).collect()
    }

    #[test]
    fn a_zero_window_is_refused() {
        assert!(check(json!({})).is_empty());
        assert_eq!(
            check(json!({"within": "0s", "keys": 0})),
            ["within", "keys"]
        );
        assert_eq!(check(json!({"keys": 2_000_000_000})), ["keys"]);
    }

    #[test]
    fn different_keys_have_different_fingerprints() {
        let all: Vec<_> = ["1", "\"1\"", "[1]", ""].map(Fingerprint::new).into();
        for (n, one) in all.iter().enumerate() {
            assert!(!all[n + 1..].contains(one));
        }
        assert_eq!(Fingerprint::new("1"), all[0]);
    }
}
