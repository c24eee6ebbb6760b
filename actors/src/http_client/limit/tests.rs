use proptest::prelude::*;

use super::*;

fn sample() -> impl Strategy<Value = Sample> {
    prop_oneof![
        1 => Just(Sample::Lost),
        4 => (0u64..100_000).prop_map(|ms| Sample::Answered(Duration::from_millis(ms))),
    ]
}

proptest! {
    #[test]
    fn the_limit_stays_in_its_bounds(
        most in 0usize..500,
        samples in prop::collection::vec((sample(), 0usize..500), 0..300),
    ) {
        let mut limit = Limit::new(most);
        for (sample, in_flight) in samples {
            limit = limit.after(sample, in_flight);
            prop_assert!((1..=most.max(1)).contains(&limit.allowed()), "{limit:?}");
        }
    }

    #[test]
    fn a_limit_that_is_not_used_never_grows(ms in 1u64..10_000, most in 1usize..300) {
        let mut limit = Limit::new(most);
        for _ in 0..100 {
            let next = limit.after(Sample::Answered(Duration::from_millis(ms)), 0);
            prop_assert!(next.allowed() <= limit.allowed());
            limit = next;
        }
    }

    #[test]
    fn a_host_that_answers_as_usual_gets_all(ms in 1u64..10_000, most in 1usize..300) {
        let mut limit = Limit::new(most);
        for _ in 0..1_000 {
            limit = limit.after(Sample::Answered(Duration::from_millis(ms)), limit.allowed());
        }
        prop_assert_eq!(limit.allowed(), most);
    }

    #[test]
    fn losses_lead_to_one_at_a_time_and_answers_back(most in 1usize..300) {
        let mut limit = Limit::new(most);
        for _ in 0..100 {
            limit = limit.after(Sample::Lost, limit.allowed());
        }
        prop_assert_eq!(limit.allowed(), 1);
        for _ in 0..1_000 {
            limit = limit.after(Sample::Answered(Duration::from_millis(5)), limit.allowed());
        }
        prop_assert_eq!(limit.allowed(), most);
    }
}

/// A host that works on eight requests at once and takes 10 ms for each: more of them wait.
#[test]
fn a_host_with_a_queue_gets_about_as_many_as_it_works_on() {
    let mut limit = Limit::new(200);
    let time = |in_flight: usize| Duration::from_millis(10 * in_flight.div_ceil(8) as u64);
    for _ in 0..20 {
        limit = limit.after(Sample::Answered(time(1)), 1);
    }
    for _ in 0..300 {
        limit = limit.after(Sample::Answered(time(limit.allowed())), limit.allowed());
    }
    assert!((8..=40).contains(&limit.allowed()), "{limit:?}");
}
