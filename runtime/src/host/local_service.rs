//! What a message trace reads from a service: see [`LocalService`].

use std::sync::Arc;

use super::service_handle::ServiceHandle;
use crate::clock::Clock;
use crate::delivery::Delivery;
use crate::message_trace::{AttemptHistory, LocalService};

impl LocalService for ServiceHandle {
    fn label(&self) -> &str {
        &self.label
    }

    fn is_remote(&self) -> bool {
        self.is_apart()
    }

    fn input(&self, number: usize) -> &Arc<str> {
        &self.inputs[number]
    }

    fn output(&self, number: usize) -> &Arc<str> {
        &self.outputs[number].name
    }

    fn clock(&self) -> &Clock {
        &self.clock
    }

    fn history(&self) -> &AttemptHistory {
        &self.history
    }

    fn each_in_flight(&self, visit: &mut dyn FnMut(&Delivery, bool)) {
        let run = self.env();
        run.mailbox.each(|delivery| visit(delivery, false));
        for in_flight in &*run.hands.lock() {
            in_flight.each(|delivery| visit(delivery, true));
        }
    }
}
