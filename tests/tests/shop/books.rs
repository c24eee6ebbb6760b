//! The stores' files, read by somebody who knows what must be true, and nothing of how it is
//! done. Each store is looked at by itself, then all of them together.

use std::collections::BTreeMap;
use std::path::Path;

use brickwork::sqlite::rusqlite::Connection;

/// What an item costs, in cents: as the manifest says.
const PRICES: [(&str, i64); 3] = [("tea", 349), ("coffee", 899), ("cup", 1299)];
const STORES: [&str; 6] = [
    "auditor", "ledger", "orders", "payments", "shipping", "stock",
];

/// What was done for one order.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
struct Deeds {
    state: String,
    /// Changes of the till, in order.
    money: Vec<i64>,
    /// Changes of shelves, in order, and which.
    goods: Vec<i64>,
    item: String,
    parcels: Vec<i64>,
    /// What the ledger has moved into each account.
    sales: Vec<i64>,
    deposits: Vec<i64>,
    customers: Vec<i64>,
}

/// All of them.
pub(crate) struct Books {
    deeds: BTreeMap<String, Deeds>,
    /// For each book: how much is in it, by its last entry, and by the sum of all.
    balances: BTreeMap<String, (i64, i64)>,
    /// Messages in outboxes.
    unpublished: i64,
    violations: Vec<String>,
}

impl Books {
    /// Reads the stores.
    ///
    /// # Panics
    /// They can't be read, or a service has never run.
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
                // What was there from the beginning.
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

    /// Of how many orders the money was taken, or given back, more than once.
    pub(crate) fn charged_twice(&self) -> usize {
        let twice = |deeds: &&Deeds| {
            let taken = deeds.money.iter().filter(|cents| **cents > 0).count();
            taken > 1 || deeds.money.len() - taken > 1
        };
        self.deeds.values().filter(twice).count()
    }

    /// Everything that isn't as it must be when all `orders` are done.
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

    /// What the auditor has found.
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

    /// For people.
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
        self.state == crate::SHIPPED
    }

    fn quantity(&self) -> i64 {
        self.goods.first().map_or(0, |change| -change)
    }

    fn price(&self) -> i64 {
        let price = PRICES.iter().find(|(item, _)| *item == self.item);
        price.map_or(0, |(_, cents)| *cents)
    }

    /// Whether what was done fits the outcome: nothing is missing, nothing was done twice.
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
            // The ledger hears of the two in any order.
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
            crate::SHIPPED => {
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
