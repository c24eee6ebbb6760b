//! `customers`: a source of deposits and transfers. `n` alone determines the content and the id of
//! the nth message, so one that is sent again after a crash has no second effect.

use std::time::Duration;

use brickwork::prelude::*;
use brickwork::tokio::time::{Instant, sleep_until};

use crate::messages::{Deposit, Transfer};

/// Messages between two saves of the position.
const SAVE_EVERY: u64 = 25;

/// Config of `customers`.
#[config]
pub(crate) struct CustomersConfig {
    #[default(100)]
    accounts: u64,
    /// First deposit of each account, in cents.
    #[default(50_000)]
    cents: i64,
    #[default(2_000)]
    transfers: u64,
    /// Messages per second.
    #[default(400)]
    rate: u64,
}

impl CustomersConfig {
    /// Returns the accounts and the amount of the nth transfer. Small numbers are drawn more
    /// often: some accounts are busy.
    fn transfer(&self, n: u64) -> Transfer {
        let (a, b, c) = (draw(n, 1), draw(n, 2), draw(n, 3));
        let from = (a % self.accounts).min(draw(n, 4) % self.accounts);
        let to = (from + 1 + b % (self.accounts - 1)) % self.accounts;
        Transfer {
            account: name(from),
            to: name(to),
            cents: 1 + (c % 20_000) as i64,
        }
    }
}

fn name(account: u64) -> String {
    format!("account-{account:04}")
}

/// Returns a number that looks random (splitmix64).
fn draw(n: u64, salt: u64) -> u64 {
    let mut z = (n ^ salt.rotate_left(48)).wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Opens accounts, then transfers money between them at a fixed rate.
#[source(ends = true)]
pub(crate) async fn customers(
    config: &CustomersConfig,
    deposits: Feed<Deposit>,
    transfers: Feed<Transfer>,
    mut position: Position<u64>,
) -> Result {
    let accounts = config.accounts.max(2);
    let first = position.get().unwrap_or(0);
    let last = accounts + config.transfers;
    let started = Instant::now();
    let mut in_flight = Vec::new();
    for n in first..last {
        let due = Duration::from_secs_f64((n - first) as f64 / config.rate.max(1) as f64);
        sleep_until(started + due).await;
        let id = format!("customer-{n}").parse()?;
        in_flight.push(match n.checked_sub(accounts) {
            None => {
                let (account, cents) = (name(n), config.cents);
                let deposit = MessageBuilder::new(Deposit { account, cents }).id(id);
                deposits.submit(deposit).await?
            }
            Some(n) => {
                let transfer = MessageBuilder::new(config.transfer(n)).id(id);
                transfers.submit(transfer).await?
            }
        });
        if in_flight.len() as u64 == SAVE_EVERY || n + 1 == last {
            for confirm in in_flight.drain(..) {
                confirm.await?;
            }
            // Only after all confirms: no message before the position is lost.
            position.save(n + 1).await?;
        }
    }
    Ok(())
}
