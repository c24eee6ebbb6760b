//! The payload of the topic `brickwork.events`.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// An event in the life of a service, as published to the topic `brickwork.events`.
///
/// In JSON, the field `event` names the variant: `{"event": "service-isolated", "service":
/// "stock", "reason": "…", "time_ms": 1767225600000}`. Times are milliseconds since 1970-01-01
/// UTC.
///
/// ```
/// use brickwork::prelude::*;
/// use brickwork::Event;
///
/// /// Alerts when a service is isolated.
/// #[service]
/// fn watch(event: Event, alerts: Out<String>) -> Result {
///     match event {
///         Event::ServiceIsolated { service, reason, .. } => {
///             alerts.emit(format!("{service} is down: {reason}"))
///         }
///         _ => Ok(()),
///     }
/// }
/// # use brickwork::testing::TestApp;
/// # let app = TestApp::of::<watch>(NoConfig {});
/// # let isolated = serde_json::json!({
/// #     "event": "service-isolated", "service": "stock", "reason": "no disk", "time_ms": 1,
/// #     "again_ms": 2
/// # });
/// # app.send(&watch::IN, serde_json::from_value::<Event>(isolated).unwrap());
/// # assert_eq!(app.expect(&watch::ALERTS), "stock is down: no disk");
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "event", rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Event {
    /// The service has started: its first instance is ready, or the source runs.
    ServiceUp {
        /// Label of the service.
        service: String,
        /// Time.
        time_ms: u64,
    },
    /// The service has stopped, because it gave up and its group decides, or its group restarts,
    /// or its child process has ended. The end of the app is no event.
    ServiceDown {
        /// Label of the service.
        service: String,
        /// The reason, if it is known.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        reason: Option<String>,
        /// Time.
        time_ms: u64,
    },
    /// The service gave up and is isolated: it is started again later.
    ServiceIsolated {
        /// Label of the service.
        service: String,
        /// The last failure.
        reason: String,
        /// Time of the next start.
        again_ms: u64,
        /// Time.
        time_ms: u64,
    },
    /// The service gave up for good.
    ServiceGivenUp {
        /// Label of the service.
        service: String,
        /// The last failure.
        reason: String,
        /// Time.
        time_ms: u64,
    },
    /// The circuit breaker has opened: messages wait in their queue.
    BreakerOpen {
        /// Label of the service.
        service: String,
        /// The failure that opened it.
        reason: String,
        /// Time.
        time_ms: u64,
    },
    /// The circuit breaker tries the first message since it opened. Further probes of the same
    /// outage are no events.
    BreakerHalfOpen {
        /// Label of the service.
        service: String,
        /// Time.
        time_ms: u64,
    },
    /// The circuit breaker has closed: the service works again.
    BreakerClosed {
        /// Label of the service.
        service: String,
        /// Time.
        time_ms: u64,
    },
    /// An instance is rebuilt, or a source runs again, after a failure.
    InstanceRestarted {
        /// Label of the service.
        service: String,
        /// Number of the instance, from 0; 0 for a source.
        instance: u32,
        /// The failure.
        reason: String,
        /// Time.
        time_ms: u64,
    },
    /// A service gave a message up. Messages that a transport gives up, such as those for a full
    /// queue, are no events.
    DeadLetter {
        /// Label of the service.
        service: String,
        /// Input of the service.
        input: String,
        /// Id of the message.
        message: String,
        /// The reason: `error`, `reject`, `panic`, `timeout` or `crash`.
        reason: String,
        /// The last failure.
        error: String,
        /// Time.
        time_ms: u64,
    },
    /// An event that this version does not know.
    #[serde(other)]
    Unknown,
}

impl Event {
    /// Returns the label of the service; empty for an unknown event.
    pub fn service(&self) -> &str {
        match self {
            Self::ServiceUp { service, .. }
            | Self::ServiceDown { service, .. }
            | Self::ServiceIsolated { service, .. }
            | Self::ServiceGivenUp { service, .. }
            | Self::BreakerOpen { service, .. }
            | Self::BreakerHalfOpen { service, .. }
            | Self::BreakerClosed { service, .. }
            | Self::InstanceRestarted { service, .. }
            | Self::DeadLetter { service, .. } => service,
            Self::Unknown => "",
        }
    }
}
