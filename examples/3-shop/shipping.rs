//! `shipping`: sends parcels. A [book](mod@crate::book) counts the pieces sent.

use brickwork::prelude::*;

use crate::messages::{Ship, ShippingAnswer};
use crate::{book, luck};

/// Config of `shipping`.
#[config]
pub(crate) struct ShippingConfig {
    /// Share of orders that can't be delivered, from 0 to 1.
    #[default(0.03)]
    undeliverable: f64,
}

#[derive(Default)]
pub(crate) struct Shipping;

#[service(summary = "sends parcels", store = &[book::BOOKS])]
impl Shipping {
    /// The handler runs on the thread of the store, where it has no `self`.
    fn share(config: &ShippingConfig) -> Result<ShippingConfig> {
        Ok(config.clone())
    }

    #[input]
    fn ship(
        Ship(order): Ship,
        config: Shared<ShippingConfig>,
        tx: &mut Tx,
        answers: Out<ShippingAnswer>,
    ) -> Result {
        if luck::happens("undeliverable", &order.id, config.undeliverable) {
            return answers.emit(ShippingAnswer::Undeliverable { order });
        }
        let entry = book::enter(tx, "parcels", &order.id, order.quantity)?;
        answers.emit(ShippingAnswer::Shipped { order, entry })
    }
}
