//! `dedup`: passes on the first message of each key.
//!
//! Owns which keys were seen, in its store: the oldest are forgotten, by time and by number.
//! That a key is remembered, and that its message goes out, is one transaction.

use std::sync::Arc;
use std::time::Duration;

use brickwork::config::HumanDuration;
use brickwork::prelude::*;
use serde::Deserialize;
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::expression::{Expression, Scope};
use crate::key::key_of;
use crate::ports::{IN, OUT, in_batch};

/// Where messages go whose key was seen before.
const DUPLICATES: Output<Raw> = Output::new("duplicates");

/// What shares one commit: as many messages as are there, up to this.
const BATCH: Batch = Batch {
    max: 512,
    within: Duration::ZERO,
};

/// At every so many-th new key, what is too old is forgotten,
const CLEAN_EVERY: i64 = 64;
/// so many at a time: faster than new ones come.
const CLEAN_MAX: i64 = 128;

/// Passes on the first message of each key, unchanged; the others are done with.
#[derive(Debug)]
pub struct Dedup {
    key: Option<Expression>,
    duplicates: bool,
    seen: SeenKeys,
}

/// Config of `dedup`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct DedupConfig {
    /// An expression over `msg` and `meta`: messages for which it gives the same are
    /// duplicates. A field that isn't there rejects the message. The message's id, if left
    /// out; a message that came without one is then always passed on.
    pub key: Option<Expression>,
    /// For how long a key is remembered, from the message that was passed on.
    pub within: HumanDuration,
    /// How many keys are remembered; of more, the oldest are forgotten before their time. A
    /// million take about 60 MB of disk.
    pub keys: u64,
    /// Emit what was seen before on the output `duplicates`, instead of dropping it. What
    /// comes again under its own id is done already, and is not emitted there either.
    pub duplicates: bool,
}

impl Default for DedupConfig {
    fn default() -> Self {
        Self {
            key: None,
            within: HumanDuration(Duration::from_secs(24 * 3600)),
            keys: 1_000_000,
            duplicates: false,
        }
    }
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
        "rejects a message whose payload is not JSON, if the key looks at msg",
        "rejects a message whose key is null, or lacks a field that has() doesn't guard",
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
            let text = "a key must be remembered for some time, such as 24h";
            errors.push(ConfigError::new("within", text));
        }
        if !(1..=KEYS_MAX).contains(&config.keys) {
            let text = format!("1 to {KEYS_MAX} keys can be remembered");
            errors.push(ConfigError::new("keys", text));
        }
        if errors.is_empty() {
            Ok(())
        } else {
            Err(errors)
        }
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

/// More than anyone has the disk for.
const KEYS_MAX: u64 = 1_000_000_000;

impl Dedup {
    /// What a message is known by; `None` if it came without an id, and that would be it.
    fn fingerprint(&self, cx: &Context, index: usize) -> Result<Option<Fingerprint>, Failure> {
        let (message, attempt) = in_batch(cx, index);
        let key = match &self.key {
            Some(key) => key_of(key, &mut Scope::new(message, attempt))?,
            None if message.anonymous => return Ok(None),
            // As the expression meta.id has it.
            None => Value::String(message.id.to_string()).to_string(),
        };
        Ok(Some(Fingerprint::of(&key)))
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
        let mut results = Vec::with_capacity(batch.len());
        let mut works = Vec::with_capacity(batch.len());
        for (index, raw) in batch.into_iter().enumerate() {
            let fingerprint = self.fingerprint(cx, index);
            results.push(fingerprint.as_ref().map(drop).map_err(Failure::clone));
            let Ok(fingerprint) = fingerprint else {
                continue;
            };
            let service = service.clone();
            works.push((index, move |tx: &mut Tx<'_>| {
                let is_first = match &fingerprint {
                    Some(fingerprint) => seen.is_first(tx, fingerprint)?,
                    None => true,
                };
                if is_first {
                    return tx.emit(&OUT, raw);
                }
                if let Some(message) = tx.message() {
                    tracing::debug!(%service, id = %message.id, "its key was seen before");
                }
                match duplicates {
                    true => tx.emit(&DUPLICATES, raw),
                    false => Ok(()),
                }
            }));
        }
        let store = match cx.store() {
            Ok(store) => store,
            Err(failure) => return results.into_iter().map(|_| Err(failure.clone())).collect(),
        };
        for (index, result) in store.transact_each(works).await {
            results[index] = result;
        }
        results
    }
}

/// Stands for a key, however long that is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Fingerprint([u8; 16]);

impl Fingerprint {
    /// Half of a SHA-256: no two keys meet.
    fn of(key: &str) -> Self {
        let digest = Sha256::digest(key.as_bytes());
        let mut half = [0; 16];
        half.copy_from_slice(&digest[..16]);
        Self(half)
    }
}

/// Which keys count as seen. In the table they are in the order in which they were.
#[derive(Debug, Clone, Copy)]
struct SeenKeys {
    within_ms: i64,
    keys: i64,
}

impl SeenKeys {
    /// Whether a key comes for the first time, within the time and number of those that are
    /// remembered; now it is.
    fn is_first(self, tx: &Tx<'_>, key: &Fingerprint) -> Result<bool, Failure> {
        let now_ms = tx.now_ms() as i64;
        let too_old_ms = now_ms.saturating_sub(self.within_ms);
        let mut insert = tx.prepare_cached(
            "INSERT INTO dedup_key (key, at_ms) VALUES (?1, ?2) ON CONFLICT (key) DO NOTHING",
        )?;
        if insert.execute((&key.0, now_ms))? == 1 {
            let n = tx.last_insert_rowid();
            if n % CLEAN_EVERY == 0 {
                self.forget(tx, n, too_old_ms)?;
            }
            return Ok(true);
        }
        // One whose time is over is the first again, and the last to be forgotten.
        let mut again = tx.prepare_cached(
            "UPDATE dedup_key SET n = (SELECT max(n) + 1 FROM dedup_key), at_ms = ?2
             WHERE key = ?1 AND at_ms <= ?3",
        )?;
        Ok(again.execute((&key.0, now_ms, too_old_ms))? == 1)
    }

    fn forget(self, tx: &Tx<'_>, last: i64, too_old_ms: i64) -> Result<(), Failure> {
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
    fn a_window_that_holds_nothing_is_refused() {
        assert!(check(json!({})).is_empty());
        assert_eq!(
            check(json!({"within": "0s", "keys": 0})),
            ["within", "keys"]
        );
        assert_eq!(check(json!({"keys": 2_000_000_000})), ["keys"]);
    }

    #[test]
    fn keys_have_fingerprints_of_their_own() {
        let all: Vec<_> = ["1", "\"1\"", "[1]", ""].map(Fingerprint::of).into();
        for (n, one) in all.iter().enumerate() {
            assert!(!all[n + 1..].contains(one));
        }
        assert_eq!(Fingerprint::of("1"), all[0]);
    }
}
