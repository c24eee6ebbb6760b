//! `shoppers`: a source of orders at a fixed rate.
//!
//! The seed and `n` alone determine the content and the id of the nth order. After a crash the
//! source continues from its last saved position. An order that it sends again has the same id,
//! so the inbox of the receiver recognises the duplicate.

use std::collections::BTreeMap;
use std::time::Duration;

use brickwork::prelude::*;
use tokio::time::{Instant, sleep_until};

use crate::luck;
use crate::messages::{Order, Wanted};

const ORDERS: Output<Wanted> = Output::new("orders");
/// Orders between two saves of the position.
const SAVE_EVERY: u64 = 25;

/// Config of `shoppers`.
#[config]
pub(crate) struct ShoppersConfig {
    /// Number of orders.
    #[default(1000)]
    orders: u64,
    /// Orders per second.
    #[default(100.0)]
    rate: f64,
    /// Seed of the orders. Another seed gives other orders.
    #[default(1)]
    seed: u64,
    /// Number of customers.
    #[default(50)]
    customers: u64,
    /// Price of each item, in cents.
    #[default(BTreeMap::from([("tea".into(), 349)]))]
    prices: BTreeMap<String, i64>,
}

impl ShoppersConfig {
    fn order(&self, n: u64) -> Order {
        let id = format!("order-{}-{n}", self.seed);
        let draw = |what| luck::number(&[what, &id]);
        let (item, price) = self
            .prices
            .iter()
            .nth(draw("item") as usize % self.prices.len())
            .expect("`check` refuses an empty price list");
        let quantity = 1 + (draw("quantity") % 3) as i64;
        Order {
            customer: (draw("customer") % self.customers) as u32,
            item: item.clone(),
            quantity,
            cents: quantity * price,
            id,
        }
    }
}

/// Saved position: the number of the next order.
#[derive(Serialize, Deserialize)]
struct Position {
    seed: u64,
    next: u64,
}

pub(crate) struct Shoppers;

impl Source for Shoppers {
    const NAME: &'static str = "shoppers";
    const SUMMARY: &'static str = "emits orders of customers at a fixed rate";
    type Config = ShoppersConfig;

    fn ports(_: &ShoppersConfig, ports: &mut SourcePorts) {
        ports.output(&ORDERS);
    }

    fn check(config: &ShoppersConfig) -> Result<(), Vec<ConfigError>> {
        let rules = [
            (
                "rate",
                config.rate > 0.0 && config.rate.is_finite(),
                "must be a finite number over 0",
            ),
            ("customers", config.customers > 0, "must be at least 1"),
            (
                "prices",
                !config.prices.is_empty(),
                "must list at least one item",
            ),
        ];
        let errors: Vec<_> = rules
            .iter()
            .filter(|(_, holds, _)| !holds)
            .map(|(name, _, rule)| ConfigError::new(*name, *rule))
            .collect();
        if errors.is_empty() {
            Ok(())
        } else {
            Err(errors)
        }
    }

    fn ends(_: &ShoppersConfig) -> bool {
        true
    }

    async fn run(config: &ShoppersConfig, out: &mut SourceContext) -> Result<(), Failure> {
        let saved: Option<Position> = out.position()?;
        let saved = saved.filter(|saved| saved.seed == config.seed);
        let first = saved.map_or(0, |saved| saved.next);
        let started = Instant::now();
        let mut next = first;
        while next < config.orders {
            let mut in_flight = Vec::new();
            for n in next..config.orders.min(next + SAVE_EVERY) {
                let due = Duration::from_secs_f64((n - first) as f64 / config.rate);
                if out.or_stop(sleep_until(started + due)).await.is_err() {
                    // The next run sends the orders in flight again.
                    return Ok(());
                }
                let order = config.order(n);
                let id = order.id.parse()?;
                let message = MessageBuilder::new(Wanted(order)).id(id);
                in_flight.push(out.submit(&ORDERS, message).await?);
            }
            next += in_flight.len() as u64;
            for confirm in in_flight {
                confirm.await?;
            }
            // Only after all confirms: orders before the position are never sent again.
            let seed = config.seed;
            out.save_position(&Position { seed, next }).await?;
        }
        Ok(())
    }
}
