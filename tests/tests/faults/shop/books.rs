//! The shop's stores, read from their files and checked against the rules of the trade, without
//! the code of the example: each store alone, then all of them together.

use std::collections::BTreeMap;
use std::path::Path;

use brickwork::sqlite::rusqlite::Connection;

/// Prices in cents, as in the manifest.
const PRICES: [(&str, i64); 3] = [("tea", 349), ("coffee", 899), ("cup", 1299)];
const STORES: [&str; 6] = [
    "auditor", "ledger", "orders", "payments", "shipping", "stock",
];

/// The recorded effects of one order.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
struct Deeds {
    state: String,
    /// Changes of the till, in order.
    money: Vec<i64>,
    /// Changes of the shelves, in order.
    goods: Vec<i64>,
    item: String,
    parcels: Vec<i64>,
    /// Amounts that the ledger moved into each account.
    sales: Vec<i64>,
    deposits: Vec<i64>,
    customers: Vec<i64>,
}

/// The content of all stores.
pub(crate) struct Books {
    deeds: BTreeMap<String, Deeds>,
    /// Balance of each book: by its last entry, and as the sum of all entries.
    balances: BTreeMap<String, (i64, i64)>,
    /// Messages in outboxes.
    unpublished: i64,
    violations: Vec<String>,
}

impl Books {
    /// Reads the stores.
    ///
    /// # Panics
    /// If they can't be read, or a service has never run.
    pub(crate) fn open(stores: &Path) -> Self {
        let mut books = Self {
            deeds: BTreeMap::new(),
            balances: BTreeMap::new(),
            unpublished: 0,
            violations: Vec::new(),
        };
        for store in STORES {
            let file = stores.join(format!("{store}.sqlite"));
            let db = Connection::open(&file).expect("a store");
            let sound = "PRAGMA integrity_check";
            let sound: String = one(&db, sound);
            assert_eq!(sound, "ok", "{}", file.display());
            books.unpublished += one::<i64>(&db, "SELECT count(*) FROM brickwork_outbox");
            match store {
                "orders" => books.read_orders(&db),
                "auditor" => books.violations = texts(&db, "SELECT text FROM violation"),
                _ => books.read_entries(&db),
            }
        }
        books
    }

    fn read_orders(&mut self, db: &Connection) {
        let mut rows = db.prepare("SELECT id, state FROM orders").expect("orders");
        let rows = rows.query_map([], |row| Ok((row.get::<_, String>(0)?, row.get(1)?)));
        for row in rows.expect("it reads") {
            let (id, state) = row.expect("a row");
            self.deeds.entry(id).or_default().state = state;
        }
    }

    fn read_entries(&mut self, db: &Connection) {
        let sql = "SELECT book, order_id, change, balance FROM entry ORDER BY book, n";
        let mut rows = db.prepare(sql).expect("entries");
        let rows = rows.query_map([], |row| {
            let book: String = row.get(0)?;
            let id: String = row.get(1)?;
            Ok((book, id, row.get::<_, i64>(2)?, row.get::<_, i64>(3)?))
        });
        for row in rows.expect("it reads") {
            let (book, id, change, balance) = row.expect("a row");
            let (last, sum) = self.balances.entry(book.clone()).or_default();
            *last = balance;
            *sum += change;
            if id.is_empty() {
                // The initial stock.
                continue;
            }
            let deeds = self.deeds.entry(id).or_default();
            match book.as_str() {
                "till" => deeds.money.push(change),
                "parcels" => deeds.parcels.push(change),
                "sales" => deeds.sales.push(change),
                "deposits" => deeds.deposits.push(change),
                "customers" => deeds.customers.push(change),
                shelf => {
                    deeds.item = shelf.replace("shelf/", "");
                    deeds.goods.push(change);
                }
            }
        }
    }

    /// Counts the orders whose money was taken or refunded more than once.
    pub(crate) fn charged_twice(&self) -> usize {
        let twice = |deeds: &&Deeds| {
            let taken = deeds.money.iter().filter(|cents| **cents > 0).count();
            taken > 1 || deeds.money.len() - taken > 1
        };
        self.deeds.values().filter(twice).count()
    }

    /// Returns every violation once all `orders` are done.
    pub(crate) fn wrong(&self, orders: u64) -> Vec<String> {
        let mut wrong = Vec::new();
        for n in 0..orders {
            let id = format!("order-1-{n}");
            match self.deeds.get(&id) {
                None => wrong.push(format!("{id} is lost")),
                Some(deeds) if !deeds.are_right() => wrong.push(format!("{id}: {deeds:?}")),
                Some(_) => {}
            }
        }
        if self.deeds.len() as u64 != orders {
            wrong.push(format!("{} orders, not {orders}", self.deeds.len()));
        }
        for (book, (last, sum)) in &self.balances {
            if last != sum {
                wrong.push(format!("{book} holds {last}, and the sum is {sum}"));
            }
        }
        let of_shipped = |what: fn(&Deeds) -> i64| -> i64 {
            let shipped = self.deeds.values().filter(|deeds| deeds.is_shipped());
            shipped.map(what).sum()
        };
        let worth = of_shipped(|deeds| deeds.quantity() * deeds.price());
        for (book, cents) in [
            ("till", worth),
            ("sales", worth),
            ("deposits", 0),
            ("customers", -worth),
            ("parcels", of_shipped(Deeds::quantity)),
        ] {
            let there = self.balance(book);
            if there != cents {
                wrong.push(format!("{book} holds {there}, not {cents}"));
            }
        }
        if self.unpublished > 0 {
            wrong.push(format!("{} messages are unpublished", self.unpublished));
        }
        wrong.extend(self.violations.iter().cloned());
        wrong.truncate(20);
        wrong
    }

    pub(crate) fn orders(&self) -> u64 {
        self.deeds.len() as u64
    }

    /// Returns the violations that the auditor found.
    pub(crate) fn violations(&self) -> &[String] {
        &self.violations
    }

    pub(crate) fn in_state(&self, state: &str) -> usize {
        let orders = self.deeds.values();
        orders.filter(|deeds| deeds.state == state).count()
    }

    fn balance(&self, book: &str) -> i64 {
        self.balances.get(book).map_or(0, |(last, _)| *last)
    }

    /// Returns a summary to print.
    pub(crate) fn summary(&self) -> String {
        let mut states: BTreeMap<&str, usize> = BTreeMap::new();
        for deeds in self.deeds.values() {
            *states.entry(&deeds.state).or_default() += 1;
        }
        format!("{states:?}, {:?}", self.balances)
    }
}

impl Deeds {
    fn is_shipped(&self) -> bool {
        self.state == super::SHIPPED
    }

    fn quantity(&self) -> i64 {
        self.goods.first().map_or(0, |change| -change)
    }

    fn price(&self) -> i64 {
        let price = PRICES.iter().find(|(item, _)| *item == self.item);
        price.map_or(0, |(_, cents)| *cents)
    }

    /// Whether the effects fit the outcome: none is missing and none happened twice.
    fn are_right(&self) -> bool {
        let quantity = self.quantity();
        let cents = quantity * self.price();
        let mut untouched = Self {
            state: self.state.clone(),
            item: self.item.clone(),
            ..Self::default()
        };
        let paid_and_back = Self {
            goods: vec![-quantity, quantity],
            money: vec![cents, -cents],
            // The ledger learns of the two in any order.
            deposits: self.deposits.clone(),
            customers: self.customers.clone(),
            ..untouched.clone()
        };
        let in_any_order = |changes: &[i64]| {
            let mut changes = changes.to_vec();
            changes.sort_unstable();
            changes == [-cents, cents]
        };
        let is_back =
            *self == paid_and_back && in_any_order(&self.deposits) && in_any_order(&self.customers);
        match self.state.as_str() {
            super::SHIPPED => {
                let kept = Self {
                    goods: vec![-quantity],
                    money: vec![cents],
                    parcels: vec![quantity],
                    sales: vec![cents],
                    customers: vec![-cents],
                    deposits: self.deposits.clone(),
                    ..untouched
                };
                quantity > 0 && cents > 0 && *self == kept && in_any_order(&self.deposits)
            }
            r#"{"closed":"sold-out"}"# => *self == untouched,
            r#"{"closed":"refused"}"# => {
                untouched.goods = vec![-quantity, quantity];
                quantity > 0 && *self == untouched
            }
            r#"{"closed":"undeliverable"}"# => is_back,
            r#"{"closed":"overdue"}"# => {
                untouched.goods = vec![-quantity, quantity];
                quantity > 0 && (is_back || *self == untouched)
            }
            _ => false,
        }
    }
}

fn one<T: brickwork::sqlite::rusqlite::types::FromSql>(db: &Connection, sql: &str) -> T {
    let value = db.query_row(sql, [], |row| row.get(0));
    value.unwrap_or_else(|error| panic!("{sql}: {error}"))
}

fn texts(db: &Connection, sql: &str) -> Vec<String> {
    let mut rows = db.prepare(sql).expect("it prepares");
    let rows = rows.query_map([], |row| row.get(0)).expect("it reads");
    rows.map(|row| row.expect("a row")).collect()
}
