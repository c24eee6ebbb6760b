//! Metrics: what is counted, and how it is shown to Prometheus.

mod collector;
mod family;
mod meters;
mod worker_lag;

pub(crate) use collector::register;
pub(crate) use meters::{AskOutcome, Cause, Durations, InputMeter, Meters, Outcome, SharedCounter};
pub(crate) use worker_lag::{Who, Worker, WorkerLag};
