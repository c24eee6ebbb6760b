//! `shoppers`: customers who order, so many and at such a rate.
//!
//! What the nth order is depends on the seed and `n` only, and so does its id. When the app
//! is killed, the source goes on from the position that it saved last; what it sends a second
//! time has the same id, and whoever keeps an inbox knows it.

use std::collections::BTreeMap;
use std::time::Duration;

use brickwork::prelude::*;
use tokio::time::{Instant, sleep_until};

use crate::luck;
use crate::messages::{Order, Wanted};

const ORDERS: Output<Wanted> = Output::new("orders");
/// The position is saved after so many.
const TURN: u64 = 25;

/// Config of `shoppers`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct ShoppersConfig {
    /// How many orders there are.
    orders: u64,
    /// How many a second.
    rate: f64,
    /// Another seed, other orders.
    seed: u64,
    /// How many customers there are.
    customers: u64,
    /// What there is, and what it costs, in cents.
    prices: BTreeMap<String, i64>,
}

impl Default for ShoppersConfig {
    fn default() -> Self {
        Self {
            orders: 1000,
            rate: 100.0,
            seed: 1,
            customers: 50,
            prices: BTreeMap::from([("tea".into(), 349)]),
        }
    }
}

impl ShoppersConfig {
    fn order(&self, n: u64) -> Order {
        let id = format!("order-{}-{n}", self.seed);
        let draw = |what| luck::number(&[what, &id]);
        let (item, price) = self
            .prices
            .iter()
            .nth(draw("item") as usize % self.prices.len())
            .expect("there is something to buy: it was checked");
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

/// How far it has come.
#[derive(Serialize, Deserialize)]
struct Position {
    seed: u64,
    next: u64,
}

pub(crate) struct Shoppers;

impl Source for Shoppers {
    const NAME: &'static str = "shoppers";
    const SUMMARY: &'static str = "customers who order";
    type Config = ShoppersConfig;

    fn ports(_: &ShoppersConfig, ports: &mut SourcePorts) {
        ports.output(&ORDERS);
    }

    fn check(config: &ShoppersConfig) -> Result<(), Vec<ConfigError>> {
        let wrong = [
            ("rate", config.rate <= 0.0 || !config.rate.is_finite()),
            ("customers", config.customers == 0),
            ("prices", config.prices.is_empty()),
        ];
        let wrong = wrong.iter().filter(|(_, is_wrong)| *is_wrong);
        let errors: Vec<_> = wrong
            .map(|(name, _)| ConfigError::new(*name, "say more than nothing"))
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
        let began = Instant::now();
        let mut next = first;
        while next < config.orders {
            let mut under_way = Vec::new();
            for n in next..config.orders.min(next + TURN) {
                let due = Duration::from_secs_f64((n - first) as f64 / config.rate);
                if out.or_stop(sleep_until(began + due)).await.is_err() {
                    // What is under way is sent again next time.
                    return Ok(());
                }
                let order = config.order(n);
                let id = order.id.parse()?;
                let draft = MessageBuilder::new(Wanted(order)).id(id);
                under_way.push(out.submit(&ORDERS, draft).await?);
            }
            next += under_way.len() as u64;
            for taken_over in under_way {
                taken_over.await?;
            }
            // Never sooner: what is before the position isn't sent again.
            let seed = config.seed;
            out.save_position(&Position { seed, next }).await?;
        }
        Ok(())
    }
}
