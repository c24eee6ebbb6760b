//! `shipping`: sends parcels. A [book](mod@crate::book) counts the pieces sent.

use brickwork::prelude::*;

use crate::messages::{Ship, ShippingAnswer};
use crate::{book, luck};

const SHIP: Input<Ship> = Input::new("ship");
const ANSWERS: Output<ShippingAnswer> = Output::new("answers");

/// Config of `shipping`.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct ShippingConfig {
    /// Share of orders that can't be delivered, from 0 to 1.
    undeliverable: f64,
}

impl Default for ShippingConfig {
    fn default() -> Self {
        Self {
            undeliverable: 0.03,
        }
    }
}

pub(crate) struct Shipping {
    config: ShippingConfig,
}

impl Service for Shipping {
    const NAME: &'static str = "shipping";
    const SUMMARY: &'static str = "sends parcels";
    const STORE: &'static [Migration] = &[book::BOOKS];
    type Config = ShippingConfig;

    fn ports(_: &ShippingConfig, ports: &mut Ports<Self>) {
        ports.input(&SHIP).output(&ANSWERS);
    }

    async fn start(config: &ShippingConfig, _: &mut Context) -> Result<Self, Failure> {
        let config = config.clone();
        Ok(Self { config })
    }
}

impl Handle<Ship> for Shipping {
    async fn handle(&mut self, Ship(order): Ship, cx: &mut Context) -> Result<(), Failure> {
        let undeliverable = luck::happens("undeliverable", &order.id, self.config.undeliverable);
        let ship = move |tx: &mut Tx<'_>| {
            if undeliverable {
                return tx.emit(&ANSWERS, ShippingAnswer::Undeliverable { order });
            }
            let entry = book::enter(tx, "parcels", &order.id, order.quantity)?;
            tx.emit(&ANSWERS, ShippingAnswer::Shipped { order, entry })
        };
        cx.store()?.transact(ship).await
    }
}
