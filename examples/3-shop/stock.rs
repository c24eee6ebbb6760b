//! `stock`: goods on shelves. Each item has a shelf, and each shelf is a [book](mod@crate::book).

use std::collections::BTreeMap;

use brickwork::prelude::*;

use crate::book;
use crate::messages::{Release, Reserve, StockAnswer};

/// Config of `stock`.
#[config]
pub(crate) struct StockConfig {
    /// Initial quantity of each item.
    shelves: BTreeMap<String, i64>,
}

pub(crate) struct Stock;

#[service(summary = "reserves and releases goods", store = &[book::BOOKS])]
impl Stock {
    async fn start(config: &StockConfig, cx: &Context) -> Result<Self> {
        let shelves = config.shelves.clone();
        let fill = move |tx: &mut Tx<'_>| {
            let mut shelves = shelves.iter();
            shelves.try_for_each(|(item, quantity)| book::open(tx, &shelf(item), *quantity))
        };
        cx.store()?.transact(fill).await?;
        Ok(Self)
    }

    #[input]
    fn reserve(Reserve(order): Reserve, tx: &mut Tx, answers: Out<StockAnswer>) -> Result {
        let shelf = shelf(&order.item);
        let (_, available) = book::last(tx, &shelf)?;
        if available < order.quantity {
            return answers.emit(StockAnswer::SoldOut { order });
        }
        let entry = book::enter(tx, &shelf, &order.id, -order.quantity)?;
        answers.emit(StockAnswer::Reserved { order, entry })
    }

    #[input]
    fn release(Release(order): Release, tx: &mut Tx, answers: Out<StockAnswer>) -> Result {
        let entry = book::enter(tx, &shelf(&order.item), &order.id, order.quantity)?;
        answers.emit(StockAnswer::Released { order, entry })
    }
}

fn shelf(item: &str) -> String {
    format!("shelf/{item}")
}
