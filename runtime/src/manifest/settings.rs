//! What is set of a service by numbers and words.

use std::time::Duration;

use super::codes;
use super::report::Problems;
use super::required_guarantees::RequiredGuarantees;
use super::spanned_toml::{Entry, Value};
use super::supervision::{RestartSettings, read_restart};
use super::table_reader::Section;
use crate::app::{Instances, Isolation};
use crate::config::HumanDuration;
use crate::supervision::{Backoff, RetryPolicy};
use crate::transport::Overflow;

const INSTANCES_MAX: u64 = 100_000;
const MAILBOX: u64 = 64;
/// The prefetch of a queue follows the mailbox; AMQP counts it in 16 bits.
const MAILBOX_MAX: u64 = 65_535;
const HANDLER_TIMEOUT: Duration = Duration::from_secs(30);
const ATTEMPTS: u64 = 5;
const ATTEMPTS_MAX: u64 = 1_000_000;
/// Where messages are kept in memory,
const HIGH_WATER: u64 = 10_000;
/// and where they cost disk.
const HIGH_WATER_DURABLE: u64 = 1_000_000;
const RETRY_BACKOFF: Backoff = Backoff {
    min: Duration::from_secs(1),
    max: Duration::from_secs(300),
    jitter: 0.2,
};
/// A wait of nothing would let a service that can't start burn a core.
pub(super) const TICK: Duration = Duration::from_millis(1);

/// What is set of a service.
pub(super) struct Settings {
    pub(super) instances: Instances,
    pub(super) mailbox: usize,
    pub(super) handler_timeout: Duration,
    pub(super) retry: RetryPolicy,
    pub(super) restarts: RestartSettings,
    pub(super) queue: Queue,
    pub(super) isolation: Isolation,
    pub(super) store: bool,
}

/// `queue`: how much is too much.
pub(super) struct Queue {
    pub(super) high_water: u64,
    pub(super) limit: Option<u64>,
    pub(super) overflow: Overflow,
}

impl Settings {
    pub(super) fn read(
        service: &Section<'_>,
        needs: &RequiredGuarantees<'_>,
        out: &mut Problems,
    ) -> Self {
        let retry = service.section("retry", out);
        retry.check_keys(&["attempts", "backoff"], &[], out);
        Self {
            instances: instances(service, out),
            mailbox: service
                .integer("mailbox", 1..=MAILBOX_MAX, out)
                .unwrap_or(MAILBOX) as usize,
            handler_timeout: service
                .duration("handler_timeout", TICK, out)
                .unwrap_or(HANDLER_TIMEOUT),
            retry: RetryPolicy {
                attempts: retry
                    .integer("attempts", 1..=ATTEMPTS_MAX, out)
                    .unwrap_or(ATTEMPTS) as u32,
                backoff: {
                    let section = retry.section("backoff", out);
                    section.check_keys(&["min", "max", "jitter"], &[], out);
                    backoff(&section, RETRY_BACKOFF, Duration::ZERO, out)
                },
            },
            restarts: read_restart(service, out),
            queue: queue(service, needs, out),
            isolation: isolation(service, needs, out),
            store: service.boolean("store", out).unwrap_or(false),
        }
    }
}

/// A number, or `{ min, max }`.
fn instances(service: &Section<'_>, out: &mut Problems) -> Instances {
    let fixed = |count: u64| Instances {
        min: count as usize,
        max: count as usize,
    };
    let entry = service.table.get("instances");
    if !entry.is_some_and(|entry| matches!(entry.node.value, Value::Table(_))) {
        return fixed(
            service
                .integer("instances", 1..=INSTANCES_MAX, out)
                .unwrap_or(1),
        );
    }
    let range = service.section("instances", out);
    range.check_keys(&["min", "max"], &[], out);
    let mut bound = |key| {
        if range.table.get(key).is_none() {
            range.missing(key, "give both: `{ min = 1, max = 8 }`, or a number", out);
        }
        range.integer(key, 1..=INSTANCES_MAX, out)
    };
    let (Some(min), Some(max)) = (bound("min"), bound("max")) else {
        return fixed(1);
    };
    if let Some(entry) = range.table.get("max")
        && max < min
    {
        let message = format!("must be {min}, as `min` is, or more");
        range.bad(entry, message, out);
    }
    Instances {
        min: min as usize,
        max: max as usize,
    }
}

fn queue(service: &Section<'_>, needs: &RequiredGuarantees<'_>, out: &mut Problems) -> Queue {
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
            let message = format!("`{name}` means nothing without `limit`, which is missing");
            let help = Some("add `limit`, or leave it out".to_owned());
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
    // Sources pause above the mark: one below the limit, they do before anything is too
    // much.
    let full = limit.map_or(u64::MAX, |limit| limit - 1);
    let default = match needs.is_durable() {
        true => HIGH_WATER_DURABLE,
        false => HIGH_WATER,
    };
    Queue {
        high_water: high_water.unwrap_or(default.min(full)),
        limit,
        overflow: match overflow {
            Some(1) => Overflow::Reject,
            _ => Overflow::DeadLetter,
        },
    }
}

fn isolation(
    service: &Section<'_>,
    needs: &RequiredGuarantees<'_>,
    out: &mut Problems,
) -> Isolation {
    match service.one_of("isolation", &["shared", "process"], out) {
        Some(1) => {
            let place = service.table.get("isolation").map(Entry::place);
            let name = format!("`{}`", service.name("isolation"));
            needs.crossing(&name, place.unwrap_or(service.place), out);
            Isolation::Process
        }
        _ => Isolation::Shared,
    }
}

pub(super) fn backoff(
    section: &Section<'_>,
    default: Backoff,
    least: Duration,
    out: &mut Problems,
) -> Backoff {
    let (min, max) = (
        section.duration("min", least, out),
        section.duration("max", least, out),
    );
    let backoff = Backoff {
        min: min.unwrap_or(default.min),
        max: max.unwrap_or(default.max),
        jitter: section.share("jitter", out).unwrap_or(default.jitter),
    };
    // Of what is wrong by itself nothing more is said.
    let wrong = |key, read: Option<Duration>| section.table.get(key).is_some() && read.is_none();
    if backoff.min > backoff.max && !wrong("min", min) && !wrong("max", max) {
        let of = |read: Option<Duration>| if read.is_none() { " (the default)" } else { "" };
        let message = format!(
            "`{}`: {}{} is longer than `max`, {}{}",
            section.name("min"),
            HumanDuration(backoff.min),
            of(min),
            HumanDuration(backoff.max),
            of(max),
        );
        let key = if min.is_some() { "min" } else { "max" };
        let span = section.table.get(key).map_or(section.place, Entry::place);
        out.add(codes::BAD_VALUE, span, message, None);
    }
    backoff
}
