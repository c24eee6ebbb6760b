//! Events of a service, for the readers of their topic.

use std::sync::atomic::Ordering::Relaxed;

use super::service_run::ServiceRun;
use super::service_state::ServiceShared;
use super::status::Standing;
use crate::dead_letter::DeadLetter;
use crate::delivery::Delivery;
use crate::events::{Event, follows_from_event};

impl ServiceShared {
    /// Sets the state of the service at its supervisor, and tells it. `reason` is the reason for
    /// a stop.
    pub(crate) fn stand(&self, standing: Standing, reason: Option<&str>) {
        let was_up = self.state.standing() == Standing::Supervised;
        let (service, time_ms) = (|| self.label.to_string(), || self.clock.unix_ms());
        match &standing {
            Standing::Supervised => {}
            // A service that is stopped after it gave up has told so.
            Standing::Stopped if !was_up => {}
            Standing::Stopped => self.down(reason),
            Standing::Isolated { why, again_ms, .. } => {
                self.events.tell_supervision(|| Event::ServiceIsolated {
                    service: service(),
                    reason: why.clone(),
                    again_ms: *again_ms,
                    time_ms: time_ms(),
                });
            }
            Standing::Gone { why } => self.events.tell_supervision(|| Event::ServiceGivenUp {
                service: service(),
                reason: why.clone(),
                time_ms: time_ms(),
            }),
        }
        self.state.stand(standing);
    }

    /// Tells that the service does not run.
    pub(crate) fn down(&self, reason: Option<&str>) {
        self.events.tell_supervision(|| Event::ServiceDown {
            service: self.label.to_string(),
            reason: reason.map(str::to_owned),
            time_ms: self.clock.unix_ms(),
        });
    }

    /// Tells a change of the circuit breaker. `opened` is the failure that opened it.
    pub(super) fn breaker_changed(&self, change: BreakerChange<'_>) {
        self.events.tell(|| {
            let (service, time_ms) = (self.label.to_string(), self.clock.unix_ms());
            match change {
                BreakerChange::Opened(reason) => Event::BreakerOpen {
                    service,
                    reason: reason.to_owned(),
                    time_ms,
                },
                BreakerChange::FirstProbe => Event::BreakerHalfOpen { service, time_ms },
                BreakerChange::Closed => Event::BreakerClosed { service, time_ms },
            }
        });
    }

    /// Tells that an instance is rebuilt, or a source runs again.
    pub(crate) fn instance_restarts(&self, instance: u32, reason: &str) {
        self.events.tell(|| Event::InstanceRestarted {
            service: self.label.to_string(),
            instance,
            reason: reason.to_owned(),
            time_ms: self.clock.unix_ms(),
        });
    }

    /// Tells that a message is given up.
    pub(super) fn gives_up(&self, delivery: &Delivery, letter: &DeadLetter) {
        if follows_from_event(delivery.message()) {
            return;
        }
        self.events.tell(|| Event::DeadLetter {
            service: letter.service.to_string(),
            input: letter.input.to_string(),
            message: delivery.message().id.to_string(),
            reason: letter.reason.to_string(),
            error: letter.error.clone(),
            time_ms: letter.failed_at_ms,
        });
    }
}

/// A change of the circuit breaker that is an event.
pub(super) enum BreakerChange<'a> {
    Opened(&'a str),
    FirstProbe,
    Closed,
}

impl ServiceRun {
    /// Tells that the service is up, once for each run.
    pub(super) fn is_up(&self) {
        if !self.told_up.swap(true, Relaxed) {
            self.events.tell(|| Event::ServiceUp {
                service: self.label.to_string(),
                time_ms: self.clock.unix_ms(),
            });
        }
    }
}
