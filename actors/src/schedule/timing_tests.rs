//! Times across both turns of daylight saving, against a search of every minute.

use chrono::{NaiveDate, Timelike};
use proptest::prelude::*;

use super::*;

fn cron(text: &str, zone: &str) -> Timing {
    Timing::Cron(text.parse().unwrap(), zone.parse().unwrap())
}

fn ms(text: &str) -> UnixMs {
    DateTime::parse_from_rfc3339(text)
        .unwrap()
        .timestamp_millis()
}

/// Returns the local texts of the times within a range.
fn times(timing: &Timing, from: &str, to: &str) -> Vec<String> {
    let (mut at, to) = (ms(from), ms(to));
    let mut found = Vec::new();
    while let Some(next) = timing.next_after(at).filter(|next| *next <= to) {
        found.push(timing.local_text(next));
        at = next;
    }
    found
}

#[test]
fn a_fixed_time_that_the_clock_skips_fires_after_the_gap_and_a_repeated_one_fires_once() {
    let berlin = cron("30 2 * * *", "Europe/Berlin");
    assert_eq!(
        times(&berlin, "2026-03-28T00:00:00Z", "2026-03-30T12:00:00Z"),
        [
            "2026-03-28T02:30:00+01:00",
            "2026-03-29T03:00:00+02:00",
            "2026-03-30T02:30:00+02:00"
        ]
    );
    assert_eq!(
        times(&berlin, "2026-10-24T00:00:00Z", "2026-10-26T12:00:00Z"),
        [
            "2026-10-24T02:30:00+02:00",
            "2026-10-25T02:30:00+02:00",
            "2026-10-26T02:30:00+01:00"
        ]
    );
    // Half an hour: 02:00 to 02:30 is skipped, and 01:30 to 02:00 is repeated.
    let lord_howe = cron("15,45 1,2 * * *", "Australia/Lord_Howe");
    assert_eq!(
        times(&lord_howe, "2026-10-03T14:00:00Z", "2026-10-03T20:00:00Z"),
        [
            "2026-10-04T01:15:00+10:30",
            "2026-10-04T01:45:00+10:30",
            "2026-10-04T02:30:00+11:00",
            "2026-10-04T02:45:00+11:00"
        ]
    );
    assert_eq!(
        times(&lord_howe, "2026-04-04T13:00:00Z", "2026-04-04T20:00:00Z"),
        [
            "2026-04-05T01:15:00+11:00",
            "2026-04-05T01:45:00+11:00",
            "2026-04-05T02:15:00+10:30",
            "2026-04-05T02:45:00+10:30"
        ]
    );
}

#[test]
fn repeating_times_keep_their_distance_over_both_turns() {
    for (zone, day) in [
        ("America/New_York", "2026-03-08"),
        ("America/New_York", "2026-11-01"),
        ("Europe/Berlin", "2026-03-29"),
        ("Europe/Berlin", "2026-10-25"),
    ] {
        let timing = cron("*/15 * * * *", zone);
        let start = ms(&format!("{day}T00:00:00Z"));
        let mut at = start;
        for quarter in 1..=96 {
            at = timing.next_after(at).unwrap();
            assert_eq!(at, start + quarter * 900_000, "{zone} {day}");
        }
    }
}

#[test]
fn an_interval_fires_at_its_multiples() {
    let timing = Timing::Every(Duration::from_secs(90));
    assert_eq!(timing.next_after(0), Some(90_000));
    assert_eq!(timing.next_after(89_999), Some(90_000));
    assert_eq!(timing.next_after(90_000), Some(180_000));
    assert_eq!(timing.last_within(0, 300_000), Some(270_000));
    assert_eq!(timing.last_within(270_000, 300_000), None);
}

#[test]
fn wrong_expressions_are_refused_with_help() {
    for (text, part) in [
        ("", "empty"),
        ("* * *", "five fields"),
        ("61 * * * *", "five fields"),
        ("0 0 30 2 *", "no day matches"),
        ("0 0 * * FUN", "five fields"),
    ] {
        let error = text.parse::<CronText>().unwrap_err();
        assert!(error.contains(part), "{text}: {error}");
    }
    let error = "Europe/Berln".parse::<Zone>().unwrap_err();
    assert!(error.contains("Europe/Berln"), "{error}");
    for text in ["@daily", "0 30 7 * * MON-FRI", "0 0 L * *", "0 9 * * 1#1"] {
        text.parse::<CronText>().unwrap();
    }
}

/// Finds the times of an expression of minutes and hours by looking at every minute.
fn by_search(
    (minutes, hours, is_fixed): (&[u32], &[u32], bool),
    zone: Tz,
    (from, to): (UnixMs, UnixMs),
) -> Vec<UnixMs> {
    let matches =
        |wall: NaiveDateTime| minutes.contains(&wall.minute()) && hours.contains(&wall.hour());
    let local = |at: UnixMs| {
        let at = DateTime::from_timestamp_millis(at).unwrap();
        at.with_timezone(&zone).naive_local()
    };
    let minutes_of = |from: UnixMs, to: UnixMs| (from..=to).step_by(60_000);
    let mut found: Vec<UnixMs> = match is_fixed {
        false => minutes_of(from, to)
            .filter(|at| matches(local(*at)))
            .collect(),
        true => {
            // Every wall-clock minute of the days around, whether it exists or not.
            let first = local(from).date() - TimeDelta::days(2);
            let walls = (0..(6 * 1440))
                .map(|minute| first.and_hms_opt(0, 0, 0).unwrap() + TimeDelta::minutes(minute));
            walls
                .filter(|wall| matches(*wall))
                .filter_map(|wall| {
                    // The first instant whose clock shows this time, or a later one.
                    let start = wall.and_utc().timestamp_millis() - 86_400_000;
                    minutes_of(start, start + 2 * 86_400_000).find(|at| local(*at) >= wall)
                })
                .filter(|at| (from..=to).contains(at))
                .collect()
        }
    };
    found.dedup();
    found
}

fn list(values: &[u32]) -> String {
    let values: Vec<String> = values.iter().map(u32::to_string).collect();
    values.join(",")
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn the_next_time_is_the_one_that_a_search_of_every_minute_finds(
        zone in prop::sample::select(vec![
            ("Europe/Berlin", (2026, 3, 29)), ("Europe/Berlin", (2026, 10, 25)),
            ("America/New_York", (2026, 3, 8)), ("America/New_York", (2026, 11, 1)),
            ("Australia/Lord_Howe", (2026, 4, 5)), ("Australia/Lord_Howe", (2026, 10, 4)),
            ("Pacific/Apia", (2011, 12, 30)), ("UTC", (2026, 6, 1)),
        ]),
        minutes in prop::sample::subsequence(vec![0_u32, 1, 15, 29, 30, 31, 45, 59], 1..4),
        hours in prop::sample::subsequence((0..24_u32).collect::<Vec<_>>(), 1..8),
        kind in 0..3_u8,
        offset in -1000..1000_i64,
    ) {
        let (name, (year, month, day)) = zone;
        let every_hour: Vec<u32> = (0..24).collect();
        // A list that begins with a step is not fixed, although it names the same times.
        let (text, hours, is_fixed) = match kind {
            0 => (format!("{} {} * * *", list(&minutes), list(&hours)), hours, true),
            1 => (format!("{} * * * *", list(&minutes)), every_hour, false),
            _ => {
                let steps = (0..24).filter(|hour| hour % 2 == 0).collect();
                (format!("{} */2 * * *", list(&minutes)), steps, false)
            }
        };
        let timing = cron(&text, name);
        let tz: Tz = name.parse().unwrap();
        let middle = NaiveDate::from_ymd_opt(year, month, day).unwrap();
        let middle = middle.and_hms_opt(0, 0, 0).unwrap().and_utc().timestamp_millis();
        let from = middle - 86_400_000 + offset * 60_000;
        let to = from + 2 * 86_400_000;
        let expected = by_search((&minutes, &hours, is_fixed), tz, (from + 60_000, to));
        let mut found = Vec::new();
        let mut at = from;
        while let Some(next) = timing.next_after(at).filter(|next| *next <= to) {
            found.push(next);
            at = next;
        }
        prop_assert_eq!(&found, &expected, "{} {}", text, name);
        prop_assert_eq!(timing.last_within(from, to), expected.last().copied());
    }
}
