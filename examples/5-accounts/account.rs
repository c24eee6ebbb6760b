//! `account`: an entity for each account.
//!
//! A transfer takes three steps, each a message to one account: the debit, the credit, and, if the
//! other account is at its limit, the return of the money. Each step changes one account and emits
//! the next step; both commit together, once.

use std::time::Duration;

use brickwork::prelude::*;

use crate::messages::{
    Credit, Deposit, End, Entry, Outcome, Return, Statement, StatementDue, Transfer,
};

/// Config of `account`.
#[config]
pub(crate) struct AccountConfig {
    /// Highest balance, in cents: a credit above it is returned.
    #[default(100_000)]
    limit: i64,
    /// Time from the first entry to the statement that lists it, in milliseconds; 0 for no
    /// statements.
    #[default(2_000)]
    statement_after_ms: u64,
}

/// The state of one account.
#[message]
#[derive(Default)]
pub(crate) struct Account {
    /// Never below 0.
    balance: i64,
    /// Entries since the last statement.
    entries: Vec<Entry>,
    statements: u64,
    /// Whether a statement is due.
    is_due: bool,
    /// Transfers that it was asked for.
    transfers: u64,
}

/// Holds an account for each customer.
#[entity(key = "account", idle = "30s", active_max = 1_000)]
impl Account {
    #[input]
    fn deposits(&mut self, deposit: Deposit, config: &AccountConfig, cx: &Context) -> Result {
        self.enter("deposit", deposit.cents, config);
        self.statement_later(deposit.account, config, cx)
    }

    /// The debit.
    #[input]
    fn transfers(
        &mut self,
        transfer: Transfer,
        credit: Out<Credit>,
        outcomes: Out<Outcome>,
        config: &AccountConfig,
        cx: &Context,
    ) -> Result {
        let Transfer { account, to, cents } = transfer;
        self.transfers += 1;
        if self.balance < cents {
            return outcomes.emit(Outcome {
                account,
                to,
                cents,
                end: End::NoMoney,
            });
        }
        self.enter(&format!("to {to}"), -cents, config);
        credit.emit(Credit {
            account: to,
            from: account.clone(),
            cents,
        })?;
        self.statement_later(account, config, cx)
    }

    /// The credit, or the return of the money.
    #[input]
    fn credits(
        &mut self,
        credit: Credit,
        back: Out<Return>,
        outcomes: Out<Outcome>,
        config: &AccountConfig,
        cx: &Context,
    ) -> Result {
        let Credit {
            account,
            from,
            cents,
        } = credit;
        if self.balance + cents > config.limit {
            return back.emit(Return {
                account: from,
                refused_by: account,
                cents,
            });
        }
        self.enter(&format!("from {from}"), cents, config);
        outcomes.emit(Outcome {
            account: from,
            to: account.clone(),
            cents,
            end: End::Done,
        })?;
        self.statement_later(account, config, cx)
    }

    /// The money is back. It was in this account before, so no limit keeps it out.
    #[input]
    fn returns(
        &mut self,
        back: Return,
        outcomes: Out<Outcome>,
        config: &AccountConfig,
        cx: &Context,
    ) -> Result {
        let to = back.refused_by;
        self.enter(&format!("refused by {to}"), back.cents, config);
        outcomes.emit(Outcome {
            account: back.account.clone(),
            to,
            cents: back.cents,
            end: End::Returned,
        })?;
        self.statement_later(back.account, config, cx)
    }

    /// A reminder of the account to itself.
    #[reminder]
    fn statement_due(&mut self, due: StatementDue, statements: Out<Statement>) -> Result {
        self.is_due = false;
        self.statements += 1;
        statements.emit(Statement {
            account: due.account,
            number: self.statements,
            balance: self.balance,
            entries: std::mem::take(&mut self.entries),
        })
    }

    fn enter(&mut self, text: &str, cents: i64, config: &AccountConfig) {
        self.balance += cents;
        if config.statement_after_ms > 0 {
            let text = text.to_owned();
            self.entries.push(Entry { text, cents });
        }
    }

    fn statement_later(&mut self, account: String, config: &AccountConfig, cx: &Context) -> Result {
        if !self.is_due && config.statement_after_ms > 0 {
            let after = Duration::from_millis(config.statement_after_ms);
            cx.remind(&Self::STATEMENT_DUE, StatementDue { account }, after)?;
            self.is_due = true;
        }
        Ok(())
    }
}
