//! The times of a schedule: a cron expression in a time zone, or an interval.
//!
//! The library matches cron fields against wall-clock times; this file maps them to instants.
//! Both turns of daylight saving are decided here:
//!
//! - **Fixed times** (no `*` and no step in the fields of second, minute and hour): a firing for
//!   each matching wall-clock time. A time that the clock skips fires at the first instant after
//!   the gap. A time that the clock repeats fires once, the first time.
//! - **Repeating times** (all others): a firing for each instant whose wall-clock time matches.
//!   Skipped times don't fire, repeated times fire twice, so `*/15 * * * *` stays a quarter of an
//!   hour apart.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, MappedLocalTime, NaiveDateTime, Offset, TimeDelta, TimeZone, Utc};
use chrono_tz::Tz;
use croner::Cron;
use croner::parser::{CronParser, Seconds, Year};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, de};

/// Milliseconds since 1970-01-01 UTC.
pub(crate) type UnixMs = i64;

/// Longest part of a day around a change of the clock: no zone moves by more than a day.
const CHANGE_MAX: TimeDelta = TimeDelta::hours(26);

/// A cron expression: five fields (minute, hour, day, month, weekday), six with seconds before
/// them, or a nickname such as `@daily`.
#[derive(Clone)]
pub struct CronText {
    text: String,
    cron: Arc<Cron>,
    is_fixed: bool,
}

/// A time zone of the IANA database, such as `Europe/Berlin`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Zone(Tz);

/// The times of one schedule.
#[derive(Debug, Clone)]
pub(crate) enum Timing {
    Cron(CronText, Zone),
    /// Multiples of the interval since 1970-01-01 UTC.
    Every(Duration),
}

impl Timing {
    /// Returns the first time after `after`; `None` if there is none.
    pub(crate) fn next_after(&self, after: UnixMs) -> Option<UnixMs> {
        match self {
            Self::Cron(cron, zone) => {
                let after = DateTime::from_timestamp_millis(after)?;
                let next = match cron.is_fixed {
                    true => next_fixed(&cron.cron, zone.0, after),
                    false => next_repeating(&cron.cron, zone.0, after),
                };
                next.map(|next| next.timestamp_millis())
            }
            Self::Every(every) => {
                let every = i64::try_from(every.as_millis()).ok()?.max(1);
                after.div_euclid(every).checked_add(1)?.checked_mul(every)
            }
        }
    }

    /// Returns the last time in `after < time <= until`; `None` if there is none.
    pub(crate) fn last_within(&self, after: UnixMs, until: UnixMs) -> Option<UnixMs> {
        let next = |after: UnixMs| self.next_after(after).filter(|next| *next <= until);
        let mut last = next(after)?;
        // Nothing fires in (empty, until].
        let mut empty = until;
        while last < empty {
            let middle = last + (empty - last) / 2;
            match next(middle) {
                Some(later) => last = later,
                None => empty = middle,
            }
        }
        Some(last)
    }

    /// Returns a text that changes with the times.
    pub(crate) fn spec(&self) -> String {
        match self {
            Self::Cron(cron, zone) => format!("{} {}", cron.text, zone),
            Self::Every(every) => format!("every {}ms", every.as_millis()),
        }
    }

    /// Returns a time as text of RFC 3339 with the offset of the schedule's zone.
    pub(crate) fn local_text(&self, at: UnixMs) -> String {
        let zone = match self {
            Self::Cron(_, zone) => zone.0,
            Self::Every(_) => Tz::UTC,
        };
        let at = DateTime::from_timestamp_millis(at).unwrap_or(DateTime::UNIX_EPOCH);
        at.with_timezone(&zone).to_rfc3339()
    }
}

/// The next firing of fixed times. The firing of a wall-clock time never decreases with that
/// time, so the first match with a firing after `after` is the next one.
fn next_fixed(cron: &Cron, zone: Tz, after: DateTime<Utc>) -> Option<DateTime<Utc>> {
    let mut wall = after.with_timezone(&zone).naive_local();
    loop {
        wall = cron.find_next_occurrence(&wall, false).ok()?;
        let at = match zone.from_local_datetime(&wall) {
            MappedLocalTime::Single(at) | MappedLocalTime::Ambiguous(at, _) => at.to_utc(),
            MappedLocalTime::None => end_of_gap(zone, wall),
        };
        if at > after {
            return Some(at);
        }
    }
}

/// Returns the first instant after the gap in which a wall-clock time lies.
fn end_of_gap(zone: Tz, wall: NaiveDateTime) -> DateTime<Utc> {
    let guess = wall.and_utc();
    let (before, after) = (guess - CHANGE_MAX, guess + CHANGE_MAX);
    change_of_offset(zone, before, after)
}

/// Returns the first instant in `from < instant <= to` whose offset is not that of `from`.
/// The offset changes once in between.
fn change_of_offset(zone: Tz, from: DateTime<Utc>, to: DateTime<Utc>) -> DateTime<Utc> {
    let old = offset(zone, from);
    let (mut before, mut after) = (from.timestamp(), to.timestamp());
    while after - before > 1 {
        let middle = before + (after - before) / 2;
        let at = DateTime::from_timestamp(middle, 0).unwrap_or(from);
        match offset(zone, at) == old {
            true => before = middle,
            false => after = middle,
        }
    }
    DateTime::from_timestamp(after, 0).unwrap_or(to)
}

fn offset(zone: Tz, at: DateTime<Utc>) -> TimeDelta {
    let seconds = zone.offset_from_utc_datetime(&at.naive_utc()).fix();
    TimeDelta::seconds(i64::from(seconds.local_minus_utc()))
}

/// The next firing of repeating times: an instant whose wall-clock time matches.
fn next_repeating(cron: &Cron, zone: Tz, after: DateTime<Utc>) -> Option<DateTime<Utc>> {
    let mut after = after;
    let mut is_inclusive = false;
    loop {
        let shift = offset(zone, after);
        let wall = after.naive_utc() + shift;
        let next = cron.find_next_occurrence(&wall, is_inclusive).ok()?;
        // Nothing matches before, with any offset.
        if next - wall > CHANGE_MAX * 2 {
            after = (next - CHANGE_MAX - shift).and_utc();
            is_inclusive = true;
            continue;
        }
        let at = (next - shift).and_utc();
        if offset(zone, at) == shift {
            return Some(at);
        }
        // The clock is changed before: go on with the new offset.
        let change = change_of_offset(zone, after, at);
        after = change;
        is_inclusive = true;
    }
}

impl FromStr for CronText {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parser = CronParser::builder()
            .seconds(Seconds::Optional)
            .year(Year::Disallowed)
            .build();
        let help = "it has five fields, such as \"30 7 * * MON-FRI\" (minute, hour, day, month, \
                    weekday), or six with seconds before them";
        let wrong = |error: &dyn fmt::Display| {
            format!("{text:?} is not a cron expression: {error}; {help}")
        };
        let cron = parser.parse(text).map_err(|error| wrong(&error))?;
        let start = DateTime::from_timestamp(1_767_225_600, 0).unwrap_or_default();
        if cron.find_next_occurrence(&start.naive_utc(), true).is_err() {
            return Err(wrong(&"no day matches it"));
        }
        Ok(Self {
            is_fixed: is_fixed(text),
            text: text.to_owned(),
            cron: Arc::new(cron),
        })
    }
}

/// Whether an expression names fixed times of the day.
fn is_fixed(text: &str) -> bool {
    let fields: Vec<&str> = text.split_whitespace().collect();
    match fields.len() {
        6 | 5 => {
            let times = &fields[..fields.len() - 3];
            times.iter().all(|field| !field.contains(['*', '/', '?']))
        }
        _ => !text.eq_ignore_ascii_case("@hourly"),
    }
}

impl FromStr for Zone {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Tz::from_str(text).map(Self).map_err(|_| {
            format!(
                "{text:?} is not a time zone of the IANA database, such as Europe/Berlin or UTC"
            )
        })
    }
}

impl Default for Zone {
    fn default() -> Self {
        Self(Tz::UTC)
    }
}

impl fmt::Display for Zone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.name())
    }
}

impl fmt::Debug for CronText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.text)
    }
}

/// Implements serde and schemars for a type that is written as a text.
macro_rules! from_text {
    ($type:ty, $name:literal) => {
        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = Cow::<'de, str>::deserialize(deserializer)?;
                text.parse().map_err(de::Error::custom)
            }
        }

        impl JsonSchema for $type {
            fn schema_name() -> Cow<'static, str> {
                $name.into()
            }

            fn inline_schema() -> bool {
                true
            }

            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!({ "type": "string" })
            }
        }
    };
}

from_text!(CronText, "Cron");
from_text!(Zone, "Zone");

#[cfg(test)]
#[path = "timing_tests.rs"]
mod tests;
