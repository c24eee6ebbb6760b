//! Reads the settings of one service: the keys of `[services.S]` that tune it.

use std::time::Duration;

use super::codes;
use super::key::KeyReader;
use super::report::Problems;
use super::required_guarantees::RequiredGuarantees;
use super::spanned_toml::{Entry, Value};
use super::supervision::read_restart;
use super::table_reader::Section;
use crate::config::HumanDuration;
use crate::settings::{Isolation, QueueSettings, ServiceSettings};
use crate::supervision::{Backoff, BreakerPolicy, Instances, RetryPolicy};
use crate::transport::Overflow;

/// Keys that set something of the mailbox or the queues. A source has neither.
pub(super) const MAILBOX_KEYS: [&str; 10] = [
    "instances",
    "mailbox",
    "handler_timeout",
    "retry",
    "breaker",
    "queue",
    "store",
    "key",
    "key_on_dead_letter",
    "partitions",
];
/// Keys that every service may have.
pub(super) const COMMON_KEYS: [&str; 3] = ["restart", "shutdown_timeout", "isolation"];

/// Shortest duration that a key takes. A wait of zero before restarts would let a service
/// that can't start use a whole core.
pub(super) const DURATION_MIN: Duration = Duration::from_millis(1);
const INSTANCES_MAX: u64 = 100_000;
/// The prefetch of a queue follows the mailbox, and AMQP counts it in 16 bits.
const MAILBOX_MAX: u64 = 65_535;
const ATTEMPTS_MAX: u64 = 1_000_000;
const MIN_MESSAGES_MAX: u64 = 1_000_000;

/// Reads and checks the settings of one service. A value that is absent or wrong takes its
/// default.
pub(super) fn read(
    service: &Section<'_>,
    needs: &RequiredGuarantees<'_>,
    keys: &KeyReader<'_>,
    out: &mut Problems,
) -> ServiceSettings {
    let default = ServiceSettings::default();
    ServiceSettings {
        instances: instances(service, out).unwrap_or(default.instances),
        mailbox: service
            .integer("mailbox", 1..=MAILBOX_MAX, out)
            .map_or(default.mailbox, |mailbox| mailbox as usize),
        handler_timeout: service
            .duration("handler_timeout", DURATION_MIN, out)
            .unwrap_or(default.handler_timeout),
        shutdown_timeout: service
            .duration("shutdown_timeout", Duration::ZERO, out)
            .unwrap_or(default.shutdown_timeout),
        retry: retry(service, default.retry, out),
        breaker: breaker(service, out).unwrap_or(default.breaker),
        restart: read_restart(service, default.restart, out),
        queue: queue(service, needs, out),
        isolation: isolation(service, needs, out).unwrap_or(default.isolation),
        store: store(service, out).unwrap_or(default.store),
        key: keys.read(service, out),
    }
}

/// Reads a number, or `{ min, max }`.
fn instances(service: &Section<'_>, out: &mut Problems) -> Option<Instances> {
    let entry = service.table.get("instances")?;
    if !matches!(entry.node.value, Value::Table(_)) {
        let count = service.integer("instances", 1..=INSTANCES_MAX, out)? as usize;
        return Some(Instances {
            min: count,
            max: count,
        });
    }
    let range = service.section("instances", out);
    range.check_keys(&["min", "max"], &[], out);
    let mut bound = |key| {
        if range.table.get(key).is_none() {
            range.missing(key, "give both: `{ min = 1, max = 8 }`, or a number", out);
        }
        range.integer(key, 1..=INSTANCES_MAX, out)
    };
    let (min, max) = (bound("min"), bound("max"));
    let (min, max) = (min?, max?);
    if let Some(entry) = range.table.get("max")
        && max < min
    {
        let message = format!("must be {min}, as `min` is, or more");
        range.bad(entry, message, out);
    }
    Some(Instances {
        min: min as usize,
        max: max as usize,
    })
}

fn retry(service: &Section<'_>, default: RetryPolicy, out: &mut Problems) -> RetryPolicy {
    let retry = service.section("retry", out);
    retry.check_keys(&["attempts", "backoff"], &[], out);
    let attempts = retry.integer("attempts", 1..=ATTEMPTS_MAX, out);
    let waits = retry.section("backoff", out);
    waits.check_keys(&["min", "max", "jitter"], &[], out);
    RetryPolicy {
        attempts: attempts.map_or(default.attempts, |attempts| attempts as u32),
        backoff: backoff(&waits, default.backoff, Duration::ZERO, out),
    }
}

/// Reads `"off"`, or the settings of the circuit breaker.
fn breaker(service: &Section<'_>, out: &mut Problems) -> Option<Option<BreakerPolicy>> {
    const FORMS: &str = "`\"off\"` or a table such as `{ failure_rate = 0.5, min_messages = 20 }`";
    let entry = service.table.get("breaker")?;
    match &entry.node.value {
        Value::String(text) if text == "off" => return Some(None),
        Value::Table(_) => {}
        Value::String(_) => {
            service.bad(entry, format!("must be {FORMS}"), out);
            return None;
        }
        _ => {
            service.wrong_type(entry, FORMS, out);
            return None;
        }
    }
    let default = BreakerPolicy::default();
    let breaker = service.section("breaker", out);
    let known = ["failure_rate", "min_messages", "within", "pause"];
    breaker.check_keys(&known, &[], out);
    let failure_rate = breaker.share("failure_rate", out);
    if let Some(entry) = breaker.table.get("failure_rate")
        && failure_rate == Some(0.0)
    {
        let why = "must be above 0: the breaker opens when this share of the attempts fails";
        breaker.bad(entry, why, out);
    }
    let min_messages = breaker.integer("min_messages", 1..=MIN_MESSAGES_MAX, out);
    let pause = breaker.section("pause", out);
    pause.check_keys(&["min", "max"], &[], out);
    let pauses = Backoff {
        min: default.pause_min,
        max: default.pause_max,
        jitter: 0.0,
    };
    let pause = backoff(&pause, pauses, DURATION_MIN, out);
    Some(Some(BreakerPolicy {
        failure_rate: failure_rate.unwrap_or(default.failure_rate),
        min_messages: min_messages.map_or(default.min_messages, |min| min as u32),
        within: breaker
            .duration("within", DURATION_MIN, out)
            .unwrap_or(default.within),
        pause_min: pause.min,
        pause_max: pause.max,
    }))
}

fn queue(
    service: &Section<'_>,
    needs: &RequiredGuarantees<'_>,
    out: &mut Problems,
) -> QueueSettings {
    let queue = service.section("queue", out);
    queue.check_keys(&["high_water", "limit", "overflow"], &[], out);
    let high_water = queue.integer("high_water", 1..=u64::MAX, out);
    let limit = queue.integer("limit", 1..=u64::MAX, out);
    let overflow = queue.one_of("overflow", &["dead-letter", "reject"], out);
    match (queue.table.get("limit"), queue.table.get("overflow")) {
        (Some(entry), _) => {
            needs.limits(&format!("`{}`", queue.name("limit")), entry.key_span, out)
        }
        (None, Some(entry)) => {
            let name = queue.name("overflow");
            let message = format!("`{name}` has no effect without `limit`, which is missing");
            let help = Some(format!("add `limit`, or remove `{name}`"));
            out.add(codes::MISSING_KEY, entry.key_span, message, help);
        }
        (None, None) => {}
    }
    if let (Some(entry), Some(mark), Some(limit)) =
        (queue.table.get("high_water"), high_water, limit)
        && mark > limit
    {
        let message = format!("must be {limit}, as `limit` is, or less");
        queue.bad(entry, message, out);
    }
    let default = QueueSettings::new(needs.is_durable(), limit);
    QueueSettings {
        high_water: high_water.unwrap_or(default.high_water),
        limit,
        overflow: match overflow {
            Some(1) => Overflow::Reject,
            _ => default.overflow,
        },
    }
}

fn store(service: &Section<'_>, out: &mut Problems) -> Option<bool> {
    let store = service.boolean("store", out)?;
    if let Some(entry) = service.table.get("store")
        && store
        && !cfg!(feature = "store")
    {
        let message = format!(
            "`{}`: this program was built without the feature `store` of brickwork",
            service.name("store")
        );
        let help = Some("build the program with the feature, or remove the key".to_owned());
        out.add(codes::UNSUPPORTED, entry.place(), message, help);
    }
    Some(store)
}

fn isolation(
    service: &Section<'_>,
    needs: &RequiredGuarantees<'_>,
    out: &mut Problems,
) -> Option<Isolation> {
    if service.one_of("isolation", &["shared", "process"], out)? == 0 {
        return Some(Isolation::Shared);
    }
    let place = service.table.get("isolation").map(Entry::place);
    let name = format!("`{}`", service.name("isolation"));
    needs.crossing(&name, place.unwrap_or(service.place), out);
    Some(Isolation::Process)
}

/// Reads `min`, `max` and `jitter` of a back-off. `shortest` is the shortest wait allowed.
pub(super) fn backoff(
    section: &Section<'_>,
    default: Backoff,
    shortest: Duration,
    out: &mut Problems,
) -> Backoff {
    let (min, max) = (
        section.duration("min", shortest, out),
        section.duration("max", shortest, out),
    );
    let backoff = Backoff {
        min: min.unwrap_or(default.min),
        max: max.unwrap_or(default.max),
        jitter: section.share("jitter", out).unwrap_or(default.jitter),
    };
    // A bound that is wrong by itself has been reported. The comparison would repeat it.
    let wrong = |key, read: Option<Duration>| section.table.get(key).is_some() && read.is_none();
    if backoff.min > backoff.max && !wrong("min", min) && !wrong("max", max) {
        let note = |read: Option<Duration>| if read.is_none() { " (the default)" } else { "" };
        let message = format!(
            "`{}`: {}{} is longer than `max`, {}{}",
            section.name("min"),
            HumanDuration(backoff.min),
            note(min),
            HumanDuration(backoff.max),
            note(max),
        );
        let key = if min.is_some() { "min" } else { "max" };
        let span = section.table.get(key).map_or(section.place, Entry::place);
        out.add(codes::BAD_VALUE, span, message, None);
    }
    backoff
}
