//! Settings of one service: the values of `[services.S]` that the host and the supervisors use.
//!
//! `manifest::settings` reads and checks them once. [`ServicePlan`](crate::app::ServicePlan)
//! carries them, and the host uses them unchanged. A new key is a field here and a line in
//! that reader.

use std::time::Duration;

use crate::key::KeyRule;
use crate::supervision::{
    Backoff, BreakerPolicy, GiveUpPolicy, Instances, Intensity, OnPanic, RestartPolicy,
    RestartType, RetryPolicy,
};
use crate::transport::Overflow;

/// Settings of one service.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct ServiceSettings {
    /// `instances`: bounds of the number of instances; equal bounds switch autoscaling off.
    pub(crate) instances: Instances,
    /// `mailbox`: capacity in messages.
    pub(crate) mailbox: usize,
    /// `handler_timeout`: maximum run time of a handler for one message.
    pub(crate) handler_timeout: Duration,
    /// `shutdown_timeout`: maximum time for messages in flight when the service's supervisor
    /// stops it. When the app stops, the app's time counts.
    pub(crate) shutdown_timeout: Duration,
    /// `retry`: attempts per message and the waits between them.
    pub(crate) retry: RetryPolicy,
    /// `breaker`: the circuit breaker of the service; `None` is off.
    pub(crate) breaker: Option<BreakerPolicy>,
    /// `restart`: restarts of the service and of its instances.
    pub(crate) restart: RestartSettings,
    /// `queue`: bounds of each input queue.
    pub(crate) queue: QueueSettings,
    /// `isolation`: the process that runs the service.
    pub(crate) isolation: Isolation,
    /// `store`: whether the service has a private database.
    pub(crate) store: bool,
    /// `key`: order by key; `None` if messages have no keys.
    pub(crate) key: Option<KeySettings>,
}

/// `key` of a service type or of `[services.S]`, and the keys about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct KeySettings {
    /// How messages get their keys; the same for each input.
    pub(crate) rule: KeyRule,
    /// `partitions`: parts of each input queue.
    pub(crate) partitions: u16,
}

impl KeySettings {
    /// Default `partitions`.
    pub(crate) const PARTITIONS: u16 = 16;
    /// Maximum `partitions`.
    pub(crate) const PARTITIONS_MAX: u16 = 256;
}

/// `[services.S.restart]`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct RestartSettings {
    /// `policy`: after which kind of end the service is started again.
    pub(crate) restart_type: RestartType,
    /// `backoff`: the waits before restarts.
    pub(crate) policy: RestartPolicy,
    /// `max_restarts` and `within`: the number of failures that the service may have.
    pub(crate) intensity: Intensity,
    /// `on_give_up`: the consequence of more failures than that. The reader of the manifest fills
    /// it in for members of groups; `None` is the default of other services.
    pub(crate) give_up: Option<GiveUpPolicy>,
    /// `on_panic`: whether a panic in a handler is a failure of the service.
    pub(crate) on_panic: OnPanic,
}

/// `[services.S.queue]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct QueueSettings {
    /// Sources that lead to the queue pause while it holds more messages than this.
    pub(crate) high_water: u64,
    /// Maximum messages in the queue; `None` is no limit.
    pub(crate) limit: Option<u64>,
    /// Fate of a message that exceeds `limit`.
    pub(crate) overflow: Overflow,
}

/// The process that runs a service.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Isolation {
    /// The app's process.
    #[default]
    Shared,
    /// A child process of the service's own.
    Process,
}

impl Default for ServiceSettings {
    fn default() -> Self {
        Self {
            instances: Instances { min: 1, max: 1 },
            mailbox: 64,
            handler_timeout: Duration::from_secs(30),
            shutdown_timeout: Duration::from_secs(5),
            retry: RetryPolicy {
                attempts: 5,
                backoff: Backoff {
                    min: Duration::from_secs(1),
                    max: Duration::from_secs(300),
                    jitter: 0.2,
                },
            },
            breaker: Some(BreakerPolicy::default()),
            restart: RestartSettings::default(),
            queue: QueueSettings::new(false, None),
            isolation: Isolation::default(),
            store: false,
            key: None,
        }
    }
}

impl Default for RestartSettings {
    fn default() -> Self {
        Self {
            restart_type: RestartType::default(),
            policy: RestartPolicy {
                backoff: Backoff {
                    min: Duration::from_millis(100),
                    max: Duration::from_secs(30),
                    jitter: 0.2,
                },
                reset_after: Duration::from_secs(60),
            },
            intensity: Intensity {
                max_restarts: 5,
                within: Duration::from_secs(10),
            },
            give_up: None,
            on_panic: OnPanic::default(),
        }
    }
}

impl QueueSettings {
    /// Default `high_water` of a transport that keeps messages in memory.
    const HIGH_WATER: u64 = 10_000;
    /// Default `high_water` of a transport that keeps messages on disk.
    const HIGH_WATER_DURABLE: u64 = 1_000_000;

    /// Returns the defaults for a transport that is `durable` or not, below `limit`.
    pub(crate) fn new(durable: bool, limit: Option<u64>) -> Self {
        let high_water = match durable {
            true => Self::HIGH_WATER_DURABLE,
            false => Self::HIGH_WATER,
        };
        // Sources pause above the mark. One below the limit, they pause before a message
        // overflows.
        let below_limit = limit.map_or(u64::MAX, |limit| limit - 1);
        Self {
            high_water: high_water.min(below_limit),
            limit,
            overflow: Overflow::DeadLetter,
        }
    }
}
