//! Metrics: counters on the hot path and their collection for Prometheus.

mod collector;
mod expired;
mod family;
mod meters;
mod worker_lag;

pub(crate) use collector::register;
pub(crate) use meters::{
    AskOutcome, Cause, Counter, Durations, InputMeter, Meters, Outcome, SharedCounter,
};
pub(crate) use worker_lag::{InstanceRef, Worker, WorkerLag};
