//! Metrics: counters on the hot path.

mod expired;
mod meters;
mod worker_lag;

pub(crate) use meters::{
    AskOutcome, BUCKETS_NS, Cause, Counter, Durations, InputMeter, Meters, Outcome, SharedCounter,
};
pub(crate) use worker_lag::{InstanceRef, Worker, WorkerLag};
