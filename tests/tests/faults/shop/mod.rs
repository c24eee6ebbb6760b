//! `examples/3-shop` end to end: money and goods add up to the cent and to the piece, whichever
//! process is killed on the way. The tests read the stores' files without the code of the
//! example; its auditor must reach the same verdict.

mod books;
pub(crate) mod ground;
mod site;
mod storm;

use brickwork_tests::seed::Seed;

use site::{Site, Tier};
use storm::Storm;

const SHIPPED: &str = r#"{"closed":"shipped"}"#;
const BALANCED: &str = "verdict: Balanced";
const VIOLATED: &str = "verdict: Violated";

#[test]
fn every_order_has_one_outcome_and_everything_adds_up() {
    const ORDERS: u64 = 800;
    let load = format!(
        "[services.shoppers.config]\norders = {ORDERS}\nrate = 400\n\
         [services.stock.config]\nshelves = {{ tea = 450, coffee = 450, cup = 450 }}\n"
    );
    let site = Site::new("shop", "", &load);
    let log = site.run_to_the_end("memory:");
    let books = site.books();
    assert_eq!(books.wrong(ORDERS), Vec::<String>::new());
    assert!(log.contains(BALANCED), "{log}");
    // Every outcome of an order occurred.
    for outcome in ["shipped", "sold-out", "refused", "overdue", "undeliverable"] {
        let state = format!(r#"{{"closed":"{outcome}"}}"#);
        assert!(books.in_state(&state) > 0, "{outcome}");
    }
    println!("{}", books.summary());
}

/// The app is killed repeatedly, the broker restarts, services panic.
#[test]
fn killing_the_app_repeatedly_loses_nothing_and_does_nothing_twice() {
    let seed = Seed::or(1);
    for open in ground::ALL {
        let mut ground = open();
        let tier = Tier::now();
        let mut storm = Storm::new(seed.random());
        let load = format!(
            "[services.shoppers.config]\norders = {orders}\nrate = {rate}\n\
             [services.stock.config]\nshelves = {{ tea = {pile}, coffee = {pile}, cup = {pile} }}\n",
            orders = tier.orders,
            rate = tier.rate,
            // Not quite enough for all orders.
            pile = tier.orders * 11 / 20,
        );
        let site = Site::new("storm", &site::chaos(), &load);
        storm.rage(&site, &mut ground, tier.kills);
        let log = site.run_to_the_end(&ground.url);
        // An app does not wait for messages that an earlier process delayed.
        let later = ground.wait_for_delays();
        let log = match later.is_empty() {
            true => log,
            false => site.run_to_the_end(&ground.url),
        };
        let books = site.books();
        let name = ground.name;
        let left = ground.wait_for_delays();
        let wrong = books.wrong(tier.orders);
        assert!(
            wrong.is_empty(),
            "{name}: {wrong:#?}\nlater: {later:#?}\nleft: {left:#?}"
        );
        assert_eq!(left, Vec::<String>::new(), "{name}");
        assert!(log.contains(BALANCED), "{name}: {log}");
        assert!(books.in_state(SHIPPED) > 0);
        site.check_dead_letters(&ground.url);
        println!("{name}: {storm}; {}", books.summary());
    }
}

/// Counter-check: without the inbox the tests above fail.
#[test]
fn without_its_inbox_a_service_takes_money_twice_and_the_auditor_says_so() {
    /// Maximum kills; one or two are enough.
    const KILLS_MAX: usize = 20;
    let seed = Seed::or(1);
    for open in ground::ALL {
        let ground = open();
        let mut storm = Storm::new(seed.random());
        let load = "[services.shoppers.config]\norders = 100000\nrate = 400\n\
                    [services.payments.config]\ninbox = false\n";
        let site = Site::new("forgetful", "", load);
        let doubled = loop {
            assert!(storm.kills < KILLS_MAX, "{storm}: nothing happened twice");
            storm.kill(&site, &ground.url);
            match site.books().charged_twice() {
                0 => {}
                doubled => break doubled,
            }
        };
        let name = ground.name;
        println!("{name}: {storm}; {doubled} charged or refunded twice");
        // No further orders: the rest is finished, and the damage shows.
        let load = "[services.shoppers.config]\norders = 0\n\
                    [services.payments.config]\ninbox = false\n";
        site.set_load(load);
        let log = site.run_to_the_end(&ground.url);
        assert!(
            log.contains(VIOLATED) && !log.contains(BALANCED),
            "{name}: {log}"
        );
        let books = site.books();
        let violations = books.violations();
        let told = violations.iter().any(|text| text.contains("twice"));
        assert!(told, "{name}: {violations:?}");
        assert!(!books.wrong(books.orders()).is_empty(), "{name}");
    }
}
