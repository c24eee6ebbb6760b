//! Polls of a model of an API whose records arrive late and with equal times, with crashes.

use std::collections::BTreeMap;

use proptest::prelude::*;
use serde_json::json;

use super::*;

/// A record of the API.
#[derive(Debug, Clone, Copy)]
struct Record {
    number: usize,
    /// Its cursor value, in seconds.
    value: i64,
    /// The time from which on the API returns it, in seconds.
    visible: i64,
}

/// An API with pages by offset: records that appear meanwhile shift the pages.
struct Api {
    records: Vec<Record>,
    descending: bool,
    page: usize,
}

impl Api {
    fn page(&self, from: Option<&Value>, offset: usize, now: i64) -> Vec<Record> {
        let from = from.and_then(Value::as_i64).unwrap_or(i64::MIN);
        let visible = self.records.iter().copied();
        let mut visible: Vec<Record> = visible
            .filter(|record| record.visible <= now && record.value >= from)
            .collect();
        visible.sort_by_key(|record| (record.value, record.number));
        if self.descending {
            visible.reverse();
        }
        visible.into_iter().skip(offset).take(self.page).collect()
    }
}

fn rules(lag: i64, is_ascending: bool) -> Rules {
    Rules {
        source: CursorSource::Records,
        form: CursorForm::Seconds,
        lag: TimeDelta::seconds(lag),
        is_ascending,
    }
}

/// Emitted messages: how often each record was emitted.
type Emitted = BTreeMap<usize, u32>;

/// Polls once. Time goes on by a second for each page. With `crash` the process ends before
/// the position of that page is saved. Returns the saved position.
fn poll(
    (api, rules): (&Api, Rules),
    saved: Saved,
    now: &mut i64,
    crash: Option<usize>,
    emitted: &mut Emitted,
) -> Saved {
    let mut kept = saved.clone();
    let mut poll = Poll::start(rules, &saved, *now * 1_000).unwrap();
    let mut offset = 0;
    for page in 0.. {
        poll.page(&offset.to_string()).unwrap();
        let records = api.page(poll.cursor(), offset, *now);
        for record in &records {
            let hash = record.number.to_string();
            if poll.record(hash, Some(&json!(record.value))).unwrap() == Fate::Emit {
                *emitted.entry(record.number).or_default() += 1;
            }
        }
        if crash == Some(page) {
            return kept;
        }
        if records.is_empty() {
            return poll.position(Some(*now)).unwrap();
        }
        if poll.is_resumable() {
            kept = poll.position(None).unwrap();
        }
        offset += records.len();
        *now += 1;
    }
    unreachable!("a page is empty")
}

fn records(lag: i64) -> impl Strategy<Value = Vec<Record>> {
    let record = (0..40_i64, 0..=lag);
    prop::collection::vec(record, 0..60).prop_map(|records| {
        let records = records.into_iter().enumerate();
        records
            .map(|(number, (value, late))| Record {
                number,
                value,
                visible: value + late,
            })
            .collect()
    })
}

fn rest(api: &Api, rules: Rules, saved: Saved, emitted: &mut Emitted) {
    let mut now = 1_000;
    poll((api, rules), saved, &mut now, None, emitted);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn records_that_arrive_within_the_lag_are_emitted_once_whatever_their_order(
        (lag, records) in (0..6_i64).prop_flat_map(|lag| (Just(lag), records(lag))),
        descending: bool, page in 1..7_usize,
        pauses in prop::collection::vec(0..8_i64, 1..12),
    ) {
        let total = records.len();
        let api = Api { records, descending, page };
        let rules = rules(lag, false);
        let (mut now, mut saved, mut emitted) = (0, Saved::default(), Emitted::new());
        for pause in pauses {
            now += pause;
            saved = poll((&api, rules), saved, &mut now, None, &mut emitted);
        }
        rest(&api, rules, saved, &mut emitted);
        prop_assert_eq!(emitted.len(), total, "lost");
        prop_assert!(emitted.values().all(|count| *count == 1), "doubled: {:?}", emitted);
    }

    #[test]
    fn a_crash_at_any_page_loses_nothing_and_repeats_only_records_of_its_own_poll(
        (lag, records) in (0..6_i64).prop_flat_map(|lag| (Just(lag), records(lag))),
        page in 1..7_usize, ascending: bool,
        polls in prop::collection::vec((0..8_i64, prop::option::of(0..5_usize)), 1..12),
    ) {
        // Late records make the pages of a running poll no longer ascending.
        let records: Vec<Record> = match ascending {
            true => records.into_iter().map(|it| Record { visible: it.value, ..it }).collect(),
            false => records,
        };
        let total = records.len();
        let api = Api { records, descending: false, page };
        let rules = rules(lag, ascending);
        let (mut now, mut saved, mut emitted) = (0, Saved::default(), Emitted::new());
        let mut crashes = 0;
        for (pause, crash) in polls {
            now += pause;
            crashes += u32::from(crash.is_some());
            saved = poll((&api, rules), saved, &mut now, crash, &mut emitted);
        }
        rest(&api, rules, saved, &mut emitted);
        prop_assert_eq!(emitted.len(), total, "lost");
        prop_assert!(emitted.values().all(|count| *count <= 1 + crashes));
    }
}

#[test]
fn records_with_the_last_value_are_told_apart_by_their_hashes() {
    let rules = rules(0, false);
    let saved = Saved {
        cursor: Some(json!(7)),
        boundary: [("a".to_owned(), json!(7))].into(),
        polled: None,
    };
    let mut poll = Poll::start(rules, &saved, 20_000).unwrap();
    assert_eq!(poll.cursor(), Some(&json!(7)));
    assert_eq!(poll.until(), Some(&json!(20)));
    for (hash, value, fate) in [
        ("a", 7, Fate::Known),
        ("b", 7, Fate::Emit),
        ("b", 7, Fate::Known),
        ("c", 6, Fate::TooOld),
        ("d", 21, Fate::TooNew),
        ("e", 20, Fate::Emit),
    ] {
        assert_eq!(
            poll.record(hash.into(), Some(&json!(value))),
            Ok(fate),
            "{hash}"
        );
    }
    let saved = poll.position(Some(5)).unwrap();
    assert_eq!(saved.cursor, Some(json!(20)));
    assert_eq!(saved.boundary, [("e".to_owned(), json!(20))].into());
}

#[test]
fn a_page_that_repeats_and_values_that_cannot_be_compared_are_errors() {
    let mut poll = Poll::start(rules(0, false), &Saved::default(), 0).unwrap();
    poll.page("a").unwrap();
    poll.page("b").unwrap();
    assert!(poll.page("a").unwrap_err().contains("repeats"));
    let plain = Rules {
        form: CursorForm::Plain,
        ..rules(0, true)
    };
    let mut poll = Poll::start(plain, &Saved::default(), 0).unwrap();
    poll.record("a".into(), Some(&json!(5))).unwrap();
    let error = poll.record("b".into(), Some(&json!("5"))).unwrap_err();
    assert!(error.contains("compared"), "{error}");
    let error = poll.record("c".into(), Some(&json!(4))).unwrap_err();
    assert!(error.contains("ascending"), "{error}");
    let error = poll.record("d".into(), None).unwrap_err();
    assert!(error.contains("null"), "{error}");
}

#[test]
fn an_answers_cursor_is_kept_and_its_repeated_records_are_known() {
    let rules = Rules {
        source: CursorSource::Answer,
        ..rules(0, false)
    };
    let mut poll = Poll::start(rules, &Saved::default(), 0).unwrap();
    assert_eq!(poll.cursor(), None);
    poll.record("a".into(), None).unwrap();
    poll.answered(json!("t1"));
    poll.answered(Value::Null);
    let saved = poll.position(Some(1)).unwrap();
    assert_eq!(saved.cursor, Some(json!("t1")));
    let mut poll = Poll::start(rules, &saved, 0).unwrap();
    assert_eq!(poll.cursor(), Some(&json!("t1")));
    assert_eq!(poll.record("a".into(), None), Ok(Fate::Known));
    assert_eq!(poll.record("b".into(), None), Ok(Fate::Emit));
}
