//! Firings over stops of random length, against a model that lists every time.

use proptest::prelude::*;

use super::*;

const SECOND: i64 = 1_000;

fn rules(every: i64, catch_up: i64, jitter: i64, overlap: Overlap) -> Rules {
    let seconds = |number: i64| Duration::from_secs(number.unsigned_abs());
    Rules {
        timing: Timing::Every(seconds(every)),
        catch_up: seconds(catch_up),
        overlap,
        jitter: seconds(jitter),
        seed: "clock".into(),
    }
}

/// Decides until nothing is due.
fn all(rules: &Rules, progress: &mut Progress, now: UnixMs) -> Vec<Firing> {
    let mut firings = Vec::new();
    loop {
        let batch = rules.decide(progress, now);
        if batch.is_empty() {
            return firings;
        }
        firings.extend(batch);
    }
}

fn scheduled(firings: &[Firing]) -> Vec<UnixMs> {
    firings
        .iter()
        .map(|firing| firing.scheduled / SECOND)
        .collect()
}

#[test]
fn each_policy_keeps_its_firings_of_those_that_are_due_together() {
    for (overlap, expected) in [
        (Overlap::Skip, vec![(50, 4)]),
        (Overlap::BufferOne, vec![(10, 0), (50, 3)]),
        (
            Overlap::BufferAll,
            vec![(10, 0), (20, 0), (30, 0), (40, 0), (50, 0)],
        ),
        (
            Overlap::AllowAll,
            vec![(10, 0), (20, 0), (30, 0), (40, 0), (50, 0)],
        ),
    ] {
        let rules = rules(10, 3600, 0, overlap);
        let mut progress = Progress::new(0);
        let firings = all(&rules, &mut progress, 55 * SECOND);
        let found: Vec<(i64, u32)> = firings
            .iter()
            .map(|firing| (firing.scheduled / SECOND, firing.missed))
            .collect();
        assert_eq!(found, expected, "{overlap:?}");
        assert_eq!(progress.previous, Some(50 * SECOND));
        assert!(all(&rules, &mut progress, 59 * SECOND).is_empty());
        assert_eq!(scheduled(&all(&rules, &mut progress, 60 * SECOND)), [60]);
    }
}

#[test]
fn firings_before_the_catch_up_window_are_missed_and_counted_by_the_next_one() {
    let rules = rules(10, 20, 0, Overlap::BufferAll);
    let mut progress = Progress::new(0);
    let firings = all(&rules, &mut progress, 105 * SECOND);
    assert_eq!(scheduled(&firings), [90, 100]);
    assert_eq!(firings[0].missed, 8);
    assert_eq!(
        (firings[1].missed, firings[1].previous),
        (0, Some(90 * SECOND))
    );
}

#[test]
fn a_stop_of_a_hundred_years_is_decided_at_once() {
    let rules = rules(1, 86_400 * 36_500, 5, Overlap::Skip);
    let mut progress = Progress::new(0);
    let now = 86_400 * 36_500 * SECOND - 1;
    let firings = rules.decide(&mut progress, now);
    assert_eq!(firings.len(), 1);
    assert!(firings[0].scheduled > now - 20 * SECOND);
    assert_eq!(firings[0].missed, COUNT_MAX);
    let rules = Rules {
        catch_up: Duration::from_secs(10),
        ..rules
    };
    let firings = rules.decide(&mut Progress::new(0), now);
    assert_eq!((firings.len(), firings[0].missed), (1, COUNT_MAX));
}

fn overlaps() -> impl Strategy<Value = Overlap> {
    prop::sample::select(vec![
        Overlap::Skip,
        Overlap::BufferOne,
        Overlap::BufferAll,
        Overlap::AllowAll,
    ])
}

proptest! {
    /// Progress is decided at random times. Every time is either emitted once, in order, or
    /// counted as missed once.
    #[test]
    fn every_time_is_emitted_or_counted_as_missed_exactly_once(
        every in 1..30_i64,
        catch_up in 10..300_i64,
        jitter in 0..20_i64,
        overlap in overlaps(),
        pauses in prop::collection::vec(0..200_000_i64, 1..30),
    ) {
        let rules = rules(every, catch_up, jitter, overlap);
        let mut progress = Progress::new(0);
        let (mut now, mut emitted) = (0, Vec::new());
        for pause in pauses {
            now += pause;
            let firings = all(&rules, &mut progress, now);
            for firing in &firings {
                let due = rules.due(firing.scheduled);
                prop_assert!(due <= now && due - firing.scheduled < (jitter * SECOND).max(1));
                let late = now - firing.scheduled;
                prop_assert!(late <= (catch_up + jitter) * SECOND, "{firing:?} at {now}");
            }
            match overlap {
                Overlap::Skip => prop_assert!(firings.len() <= 1),
                Overlap::BufferOne => prop_assert!(firings.len() <= 2),
                _ => {}
            }
            if let Some(next) = rules.next_due(&progress) {
                prop_assert!(next > now, "a firing that is due was left");
            }
            emitted.extend(firings);
        }
        let mut before = 0;
        for firing in &emitted {
            prop_assert_eq!(firing.previous.unwrap_or(0), before);
            let times = (firing.scheduled - before) / (every * SECOND);
            prop_assert_eq!(i64::from(firing.missed) + 1, times, "{:?}", firing);
            before = firing.scheduled;
        }
        let rest = (progress.decided - before) / (every * SECOND);
        prop_assert_eq!(i64::from(progress.missed), rest);
    }

    /// The process is killed before its progress is saved, and decides again.
    #[test]
    fn a_second_decision_of_the_same_times_makes_the_same_firings(
        every in 1..30_i64, jitter in 0..20_i64, start in 0..100_000_i64, later in 0..500_000_i64,
    ) {
        let rules = rules(every, 3600, jitter, Overlap::BufferAll);
        let saved = Progress::new(start);
        let now = start + later;
        let first = all(&rules, &mut saved.clone(), now);
        let again = all(&rules, &mut saved.clone(), now + 100 * SECOND);
        prop_assert_eq!(&again[..first.len()], &first[..]);
    }
}
