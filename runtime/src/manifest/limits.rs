//! Reads `[limits.NAME]`: rate limits that services of the app share.

use std::time::Duration;

use super::codes;
use super::report::Problems;
use super::spanned_toml::Value;
use super::suggest::quote;
use super::table_reader::Section;
use crate::key::KeyRule;
use crate::limits::{LimitSpec, Rate};
use crate::names::check_name;
use crate::service::Catalog;

/// Maximum of `rate` and of `burst`.
const RATE_MAX: u64 = 1_000_000;
/// Default of `per`.
const PER: Duration = Duration::from_secs(1);
/// Maximum of `per`.
const PER_MAX: Duration = Duration::from_secs(31 * 86_400);
/// Default and maximum of `keys`.
const KEYS: u64 = 10_000;
const KEYS_MAX: u64 = 1_000_000;
/// Maximum of `processes`.
const PROCESSES_MAX: u64 = 10_000;

/// Returns the names of all limits, including those with problems.
pub(super) fn names<'a>(top: &Section<'a>) -> Vec<&'a str> {
    match top.table.get("limits").map(|entry| &entry.node.value) {
        Some(Value::Table(limits)) => limits.entries.iter().map(|it| it.key.as_str()).collect(),
        _ => Vec::new(),
    }
}

pub(super) fn read(top: &Section<'_>, catalog: &Catalog, out: &mut Problems) -> Vec<LimitSpec> {
    let limits = top.section("limits", out);
    let mut specs = Vec::new();
    for entry in &limits.table.entries {
        let name = entry.key.as_str();
        if let Err(why) = check_name(name) {
            let message = format!("{} can't be a limit's name: {why}", quote(name));
            out.add(codes::BAD_NAME, entry.key_span, message, None);
        }
        let limit = limits.section(name, out);
        if matches!(entry.node.value, Value::Table(_)) {
            specs.extend(spec(name, &limit, catalog, out));
        }
    }
    specs
}

fn spec(
    name: &str,
    limit: &Section<'_>,
    catalog: &Catalog,
    out: &mut Problems,
) -> Option<LimitSpec> {
    let known = ["rate", "per", "burst", "key", "keys", "processes"];
    limit.check_keys(&known, &[], out);
    let rate = limit.integer("rate", 1..=RATE_MAX, out);
    if limit.table.get("rate").is_none() {
        let help = "add the number of messages that may go in `per`, which is 1s by default";
        limit.missing("rate", help, out);
    }
    let per = limit.duration("per", Duration::from_millis(1), out);
    if per.is_some_and(|per| per > PER_MAX)
        && let Some(entry) = limit.table.get("per")
    {
        limit.bad(entry, "must be 31d or shorter", out);
    }
    let burst = limit.integer("burst", 1..=RATE_MAX, out);
    let keys = limit.integer("keys", 1..=KEYS_MAX, out);
    let processes = limit.integer("processes", 1..=PROCESSES_MAX, out);
    let key = match limit.text("key", out) {
        None => None,
        Some((text, entry)) => match catalog.key_expressions() {
            None => {
                let message = format!("`{}`: this program has no expressions", limit.name("key"));
                let help = "remove it, or add `Catalog::with_key_expressions` to the program";
                out.add(
                    codes::UNSUPPORTED,
                    entry.place(),
                    message,
                    Some(help.into()),
                );
                None
            }
            Some(compile) => match compile(text) {
                Ok(reader) => Some(KeyRule::new(text, reader)),
                Err(why) => {
                    limit.bad(entry, why, out);
                    None
                }
            },
        },
    };
    let rate = rate?;
    let per = per.unwrap_or(PER).min(PER_MAX);
    Some(LimitSpec {
        name: name.into(),
        rate: shared_rate(rate, per, burst.unwrap_or(rate), processes.unwrap_or(1)),
        key,
        keys_max: keys.unwrap_or(KEYS) as usize,
    })
}

/// The part of a rate that one of several processes has. Rounded so that all of them together
/// don't exceed the rate; each may send one message.
fn shared_rate(rate: u64, per: Duration, burst: u64, processes: u64) -> Rate {
    let per = per.as_nanos() as u64;
    let interval = u128::from(per) * u128::from(processes);
    let interval = interval.div_ceil(u128::from(rate)).max(1);
    Rate {
        interval: u64::try_from(interval).unwrap_or(u64::MAX),
        burst: (burst / processes).max(1) as u32,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processes_share_a_rate() {
        let second = Duration::from_secs(1);
        let rate = |interval, burst| Rate { interval, burst };
        assert_eq!(shared_rate(3, second, 3, 1), rate(333_333_334, 3));
        assert_eq!(shared_rate(10, second, 5, 4), rate(400_000_000, 1));
        assert_eq!(
            shared_rate(1, PER_MAX, 1, PROCESSES_MAX),
            rate(u64::MAX, 1),
            "too long for the clock"
        );
    }
}
