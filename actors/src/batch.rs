//! Batches with a store: one transaction and one outcome per message.

use brickwork::prelude::*;

/// Runs the transaction of each message that has one, and shares one commit. Returns one
/// outcome per message, in order.
pub(crate) async fn transact_batch<W>(
    cx: &mut Context,
    transactions: Vec<Result<W, Failure>>,
) -> Vec<Result<(), Failure>>
where
    W: FnOnce(&mut Tx<'_>) -> Result<(), Failure> + Send + 'static,
{
    let mut results = Vec::with_capacity(transactions.len());
    let mut valid = Vec::with_capacity(transactions.len());
    for (index, transaction) in transactions.into_iter().enumerate() {
        results.push(transaction.as_ref().map(drop).map_err(Failure::clone));
        valid.extend(transaction.ok().map(|transaction| (index, transaction)));
    }
    let store = match cx.store() {
        Ok(store) => store,
        Err(failure) => return results.into_iter().map(|_| Err(failure.clone())).collect(),
    };
    for (index, result) in store.transact_each(valid).await {
        results[index] = result;
    }
    results
}
