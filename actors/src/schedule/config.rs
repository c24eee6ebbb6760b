//! Config of `schedule`: one schedule, or a table of them with common defaults.

use std::collections::BTreeMap;
use std::time::Duration;

use brickwork::config::HumanDuration;
use brickwork::prelude::*;

use super::decision::{Firing, Overlap, Rules};
use super::payload::{self, Payload};
use super::timing::{CronText, Timing, Zone};
use crate::config_errors;
use crate::expression::Expression;

/// Minimum of `every`.
const EVERY_MIN: Duration = Duration::from_millis(100);
/// Minimum of `catch_up`: a firing on time is a little late, too.
const CATCH_UP_MIN: Duration = Duration::from_secs(10);
/// Default of `catch_up`.
const CATCH_UP: Duration = Duration::from_secs(86_400);
/// Maximum length of a name in `schedules`: the message id must have room for it.
const NAME_BYTES_MAX: usize = 128;

/// Config of `schedule`: either `cron` or `every`, or a table `schedules`.
#[config]
pub struct ScheduleConfig {
    /// Cron expression: minute, hour, day, month and weekday, with seconds before them if there are
    /// six fields; `L`, `W`, `#` and nicknames such as `@daily` are known. Fixed times, such as
    /// `30 2 * * *`, fire once a day on every day: a time that the clock skips fires after the
    /// gap, a repeated one fires once. Expressions with `*`, `?` or a step in minute or hour fire at
    /// each matching time that exists.
    pub cron: Option<CronText>,
    /// Interval instead of `cron`, at least 100ms. Firings are at its multiples since 1970-01-01
    /// UTC: with `1h` at each full hour.
    pub every: Option<HumanDuration>,
    /// Time zone of `cron` by its IANA name, such as `Europe/Berlin`; the default is UTC.
    pub zone: Option<Zone>,
    /// Maximum random delay of each firing, so that not everything starts at the same moment. The
    /// delay of a scheduled time is always the same, and its message names the scheduled time.
    pub jitter: Option<HumanDuration>,
    /// Maximum lateness of a firing, 1d by default and at least 10s. Firings that are later, after
    /// a stop or an outage, are not emitted; the next one counts them in `missed`.
    pub catch_up: Option<HumanDuration>,
    /// Treatment of several firings of one schedule that are due together, after a stop or while
    /// messages were not accepted. `skip` (default): the latest is emitted. `buffer_one`: the
    /// earliest and the latest. `buffer_all`: all, each when the one before was accepted.
    /// `allow_all`: all at once.
    pub overlap: Option<Overlap>,
    /// Expression for the payload, over `msg`: an object of `schedule` (name, or null), `scheduled`
    /// and `previous` (times; null before the first firing), `local` (the scheduled time in the zone)
    /// and `missed` (scheduled times between both that did not fire, at most 10000). By
    /// default the payload is this object.
    pub payload: Option<Expression>,
    /// Message type; by default `schedule`.
    #[serde(rename = "type")]
    pub kind: Option<String>,
    /// Several schedules by name, each with its own settings; the settings beside this table
    /// are their defaults. The name is the subject of the messages.
    pub schedules: BTreeMap<String, Entry>,
}

/// One schedule of a table.
#[config]
pub struct Entry {
    /// Cron expression.
    pub cron: Option<CronText>,
    /// Interval instead of `cron`.
    pub every: Option<HumanDuration>,
    /// Time zone of `cron`.
    pub zone: Option<Zone>,
    /// Maximum random delay of each firing.
    pub jitter: Option<HumanDuration>,
    /// Maximum lateness of a firing.
    pub catch_up: Option<HumanDuration>,
    /// Treatment of several firings that are due together.
    pub overlap: Option<Overlap>,
    /// Expression for the payload.
    pub payload: Option<Expression>,
    /// Message type.
    #[serde(rename = "type")]
    pub kind: Option<String>,
}

/// A schedule with its settings.
#[derive(Debug)]
pub(super) struct Schedule {
    /// `None` for the only schedule of a service.
    pub(super) name: Option<String>,
    pub(super) rules: Rules,
    pub(super) payload: Payload,
}

impl ScheduleConfig {
    pub(super) fn check(&self) -> Result<(), Vec<ConfigError>> {
        let mut errors = Vec::new();
        if self.schedules.is_empty() {
            check_timing("", self.cron.is_some(), self.every, &mut errors);
        } else if self.cron.is_some() || self.every.is_some() {
            errors.push(ConfigError::new(
                "",
                "schedules has several schedules: move cron or every into the table",
            ));
        }
        self.own().check("", &mut errors);
        for (name, entry) in &self.schedules {
            let at = format!("schedules.{name}");
            if name.is_empty() || name.len() > NAME_BYTES_MAX || name.chars().any(char::is_control)
            {
                let text =
                    format!("the name {name:?} is empty, too long or has control characters");
                errors.push(ConfigError::new(&at, text));
            }
            check_timing(&at, entry.cron.is_some(), entry.every, &mut errors);
            entry.check(&at, &mut errors);
        }
        config_errors::result(errors)
    }

    /// Returns the settings beside the table.
    fn own(&self) -> Entry {
        Entry {
            cron: self.cron.clone(),
            every: self.every,
            zone: self.zone,
            jitter: self.jitter,
            catch_up: self.catch_up,
            overlap: self.overlap,
            payload: self.payload.clone(),
            kind: self.kind.clone(),
        }
    }

    /// Returns the schedules of a checked config.
    pub(super) fn schedules(&self, service: &str) -> Vec<Schedule> {
        let own = self.own();
        if self.schedules.is_empty() {
            return own.schedule(service, None, &own).into_iter().collect();
        }
        let named = self.schedules.iter();
        named
            .filter_map(|(name, entry)| entry.schedule(service, Some(name), &own))
            .collect()
    }
}

impl Entry {
    /// Checks all settings but `cron` and `every`.
    fn check(&self, at: &str, errors: &mut Vec<ConfigError>) {
        let mut wrong = |key: &str, text: String| {
            let at = if at.is_empty() {
                key.to_owned()
            } else {
                format!("{at}.{key}")
            };
            errors.push(ConfigError::new(&at, text));
        };
        if let Some(catch_up) = self.catch_up
            && catch_up.0 < CATCH_UP_MIN
        {
            wrong(
                "catch_up",
                format!("{catch_up} is less than 10s: a firing on time is a little late, too"),
            );
        }
        if self.zone.is_some() && self.every.is_some() {
            wrong("zone", "an interval has no time zone: use cron".to_owned());
        }
        if let Some(payload) = &self.payload
            && let Err(error) = payload::check(payload)
        {
            wrong("payload", error);
        }
    }

    fn schedule(&self, service: &str, name: Option<&str>, defaults: &Self) -> Option<Schedule> {
        let timing = match (&self.cron, self.every) {
            (Some(cron), _) => Timing::Cron(
                cron.clone(),
                self.zone.or(defaults.zone).unwrap_or_default(),
            ),
            (None, Some(every)) => Timing::Every(every.0),
            (None, None) => return None,
        };
        let duration = |own: Option<HumanDuration>, default: Option<HumanDuration>| {
            own.or(default).map(|it| it.0)
        };
        Some(Schedule {
            name: name.map(str::to_owned),
            payload: Payload {
                expression: self.payload.clone().or_else(|| defaults.payload.clone()),
                kind: self.kind.clone().or_else(|| defaults.kind.clone()),
            },
            rules: Rules {
                timing,
                catch_up: duration(self.catch_up, defaults.catch_up).unwrap_or(CATCH_UP),
                overlap: self.overlap.or(defaults.overlap).unwrap_or_default(),
                jitter: duration(self.jitter, defaults.jitter).unwrap_or_default(),
                seed: format!("{service}/{}", name.unwrap_or_default()),
            },
        })
    }
}

impl Schedule {
    /// Returns the name in saved positions.
    pub(super) fn key(&self) -> &str {
        self.name.as_deref().unwrap_or_default()
    }

    /// Returns the id of a firing: of the service, the schedule and the scheduled time.
    pub(super) fn id(&self, service: &str, firing: &Firing) -> String {
        let at = payload::utc_text(firing.scheduled);
        match &self.name {
            None => format!("{service}@{at}"),
            Some(name) => format!("{service}/{name}@{at}"),
        }
    }
}

/// Checks that a schedule has either `cron` or `every`.
fn check_timing(
    at: &str,
    has_cron: bool,
    every: Option<HumanDuration>,
    errors: &mut Vec<ConfigError>,
) {
    let text = match (has_cron, every) {
        (false, None) => "it never fires: set cron, such as \"30 7 * * MON-FRI\", or every",
        (true, Some(_)) => "cron and every exclude each other: leave one out",
        (false, Some(every)) if every.0 < EVERY_MIN => "every is less than 100ms",
        _ => return,
    };
    errors.push(ConfigError::new(at, text));
}
