//! Metrics: what is counted, and how it is shown to Prometheus.

mod meters;

pub(crate) use meters::{
    AskOutcome, BUCKETS_NS, Cause, Counter, Durations, InputMeter, Meters, Outcome, SharedCounter,
};
