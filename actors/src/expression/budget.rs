//! Bounds an evaluation: the steps that it takes, and the bytes that it makes.
//!
//! The `cel` crate (0.15) evaluates without a bound, and calls functions without a context. So
//! the budget belongs to the thread, and the functions that [`rewrite`](super::rewrite) puts
//! into an expression spend it. An error of an evaluation may be caught by `||`; a budget that
//! is spent stays spent, so the evaluation fails whatever its value is.

use std::cell::Cell;
use std::fmt;

use cel::ExecutionError;
use cel::common::types::{CelBytes, CelList, CelMap, CelMapKey, CelOptional, CelString};
use cel::common::value::Val;

/// Divisor of the bounds in unit tests, so that reaching them takes no minutes.
const SHARE: u64 = if cfg!(test) { 10 } else { 1 };
/// Maximum steps of an evaluation. A step is one operation, or a few bytes of a text.
pub(super) const STEPS_MAX: u64 = 5_000_000 / SHARE;
/// Maximum bytes that an evaluation makes, whether it keeps them or not.
pub(super) const BYTES_MAX: u64 = (256 << 20) / SHARE;

/// Bytes of a text that are read or copied in one step.
const BYTES_PER_STEP: u64 = 64;
/// Bytes of a value beside its text, with the allocation.
const VALUE_BYTES: u64 = 64;

/// The part of the budget that an evaluation has spent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Spent {
    Steps,
    Bytes,
}

#[derive(Debug, Clone, Copy)]
struct Budget {
    steps: u64,
    bytes: u64,
    spent: Option<Spent>,
}

thread_local! {
    static BUDGET: Cell<Budget> = const {
        Cell::new(Budget { steps: 0, bytes: 0, spent: None })
    };
}

/// Runs an evaluation with a new budget.
///
/// # Errors
/// The evaluation has spent its budget.
pub(super) fn bounded<T>(evaluation: impl FnOnce() -> T) -> Result<T, Spent> {
    BUDGET.set(Budget {
        steps: STEPS_MAX,
        bytes: BYTES_MAX,
        spent: None,
    });
    let value = evaluation();
    match BUDGET.get().spent {
        Some(spent) => Err(spent),
        None => Ok(value),
    }
}

/// Spends steps.
///
/// # Errors
/// The budget is spent.
pub(super) fn spend(steps: u64) -> Result<(), ExecutionError> {
    pay(steps, 0)
}

/// Spends the steps of reading a text.
pub(super) fn spend_reading(bytes: usize) -> Result<(), ExecutionError> {
    pay(bytes as u64 / BYTES_PER_STEP, 0)
}

/// Spends bytes and the steps of writing them, before they are made.
pub(super) fn spend_making(bytes: usize) -> Result<(), ExecutionError> {
    pay(bytes as u64 / BYTES_PER_STEP, bytes as u64)
}

/// Spends the steps of a copy that does not last.
pub(super) fn spend_visit(value: &dyn Val) -> Result<(), ExecutionError> {
    walk(value, &mut |bytes| pay(bytes / BYTES_PER_STEP, 0))
}

/// Spends the bytes and steps of a copy.
pub(super) fn spend_copy(value: &dyn Val) -> Result<(), ExecutionError> {
    walk(value, &mut |bytes| pay(bytes / BYTES_PER_STEP, bytes))
}

fn pay(steps: u64, bytes: u64) -> Result<(), ExecutionError> {
    let mut budget = BUDGET.get();
    if budget.spent.is_none() {
        budget.spent = if budget.steps < steps {
            Some(Spent::Steps)
        } else if budget.bytes < bytes {
            Some(Spent::Bytes)
        } else {
            budget.steps -= steps;
            budget.bytes -= bytes;
            None
        };
        BUDGET.set(budget);
    }
    match budget.spent {
        Some(spent) => Err(ExecutionError::InternalError(spent.to_string())),
        None => Ok(()),
    }
}

/// Pays for each value inside a value. A text that borrows is not copied with its value.
fn walk(
    value: &dyn Val,
    pay: &mut dyn FnMut(u64) -> Result<(), ExecutionError>,
) -> Result<(), ExecutionError> {
    let text_bytes = |text: &CelString<'_>| match text.as_borrowed() {
        Some(_) => 0,
        None => text.inner().len() as u64,
    };
    if let Some(text) = value.downcast_ref::<CelString<'_>>() {
        return pay(VALUE_BYTES + text_bytes(text));
    }
    if let Some(bytes) = value.downcast_ref::<CelBytes<'_>>() {
        return pay(VALUE_BYTES + bytes.inner().len() as u64);
    }
    pay(VALUE_BYTES)?;
    if let Some(list) = value.downcast_ref::<CelList<'_>>() {
        for item in list.inner() {
            walk(item.as_ref(), pay)?;
        }
    } else if let Some(map) = value.downcast_ref::<CelMap<'_>>() {
        for (key, value) in map.inner() {
            let key_bytes = match key {
                CelMapKey::String(text) => text_bytes(text),
                _ => 0,
            };
            pay(VALUE_BYTES + key_bytes)?;
            walk(value.as_ref(), pay)?;
        }
    } else if let Some(optional) = value.downcast_ref::<CelOptional<'_>>()
        && let Some(inner) = optional.inner()
    {
        walk(inner, pay)?;
    }
    Ok(())
}

impl fmt::Display for Spent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Steps => write!(f, "it takes more than {STEPS_MAX} steps for this message"),
            Self::Bytes => write!(
                f,
                "it makes more than {} MiB of values from this message",
                BYTES_MAX >> 20
            ),
        }
    }
}
