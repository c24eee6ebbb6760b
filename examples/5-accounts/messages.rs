//! The messages. The field `account` is the key of each: it names the account that handles it.

use brickwork::prelude::*;

/// Opens an account, or pays money in.
#[message]
pub(crate) struct Deposit {
    pub(crate) account: String,
    pub(crate) cents: i64,
}

/// Asks `account` to send money to another account.
#[message]
pub(crate) struct Transfer {
    pub(crate) account: String,
    pub(crate) to: String,
    pub(crate) cents: i64,
}

/// Money of another account, already taken from it.
#[message]
pub(crate) struct Credit {
    pub(crate) account: String,
    pub(crate) from: String,
    pub(crate) cents: i64,
}

/// Money that the other account did not accept, on its way back.
#[message]
pub(crate) struct Return {
    pub(crate) account: String,
    pub(crate) refused_by: String,
    pub(crate) cents: i64,
}

/// The end of a transfer.
#[message]
pub(crate) struct Outcome {
    /// The account that the money came from.
    pub(crate) account: String,
    pub(crate) to: String,
    pub(crate) cents: i64,
    pub(crate) end: End,
}

/// The ways in which a transfer ends.
#[message]
#[derive(Copy)]
pub(crate) enum End {
    /// The other account has the money.
    Done,
    /// The account has not so much money.
    NoMoney,
    /// The other account is at its limit: the money is back.
    Returned,
}

/// Reminds an account of its statement.
#[message]
pub(crate) struct StatementDue {
    pub(crate) account: String,
}

/// The entries of an account since its last statement.
#[message]
pub(crate) struct Statement {
    pub(crate) account: String,
    pub(crate) number: u64,
    pub(crate) balance: i64,
    pub(crate) entries: Vec<Entry>,
}

/// One change of a balance.
#[message]
pub(crate) struct Entry {
    pub(crate) text: String,
    pub(crate) cents: i64,
}
