//! `stock`: goods on shelves. Each item has a shelf, and each shelf is a [book](mod@crate::book).

use std::collections::BTreeMap;

use brickwork::prelude::*;

use crate::book;
use crate::messages::{Release, Reserve, StockAnswer};

const RESERVE: Input<Reserve> = Input::new("reserve");
const RELEASE: Input<Release> = Input::new("release");
const ANSWERS: Output<StockAnswer> = Output::new("answers");

/// Config of `stock`.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct StockConfig {
    /// Initial quantity of each item.
    shelves: BTreeMap<String, i64>,
}

pub(crate) struct Stock;

impl Service for Stock {
    const NAME: &'static str = "stock";
    const SUMMARY: &'static str = "reserves and releases goods";
    const STORE: &'static [Migration] = &[book::BOOKS];
    type Config = StockConfig;

    fn ports(_: &StockConfig, ports: &mut Ports<Self>) {
        ports.input(&RESERVE).input(&RELEASE).output(&ANSWERS);
    }

    async fn start(config: &StockConfig, cx: &mut Context) -> Result<Self, Failure> {
        let shelves = config.shelves.clone();
        let fill = move |tx: &mut Tx<'_>| {
            let mut shelves = shelves.iter();
            shelves.try_for_each(|(item, quantity)| book::open(tx, &shelf(item), *quantity))
        };
        cx.store()?.transact(fill).await?;
        Ok(Self)
    }
}

fn shelf(item: &str) -> String {
    format!("shelf/{item}")
}

impl Handle<Reserve> for Stock {
    async fn handle(&mut self, Reserve(order): Reserve, cx: &mut Context) -> Result<(), Failure> {
        let reserve = move |tx: &mut Tx<'_>| {
            let shelf = shelf(&order.item);
            let (_, available) = book::last(tx, &shelf)?;
            let answer = if available < order.quantity {
                StockAnswer::SoldOut { order }
            } else {
                let entry = book::enter(tx, &shelf, &order.id, -order.quantity)?;
                StockAnswer::Reserved { order, entry }
            };
            tx.emit(&ANSWERS, answer)
        };
        cx.store()?.transact(reserve).await
    }
}

impl Handle<Release> for Stock {
    async fn handle(&mut self, Release(order): Release, cx: &mut Context) -> Result<(), Failure> {
        let release = move |tx: &mut Tx<'_>| {
            let entry = book::enter(tx, &shelf(&order.item), &order.id, order.quantity)?;
            tx.emit(&ANSWERS, StockAnswer::Released { order, entry })
        };
        cx.store()?.transact(release).await
    }
}
