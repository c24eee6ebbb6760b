//! The view of a service for message traces: see [`LocalService`].

use super::service_handle::ServiceHandle;
use crate::delivery::Delivery;
use crate::message_trace::{Findings, LocalService};
use crate::names::QueueId;
use crate::transport::SearchQuery;

impl LocalService for ServiceHandle {
    fn label(&self) -> &str {
        &self.label
    }

    fn is_remote(&self) -> bool {
        self.is_apart()
    }

    fn find(&self, wanted: &SearchQuery, findings: &mut Findings) {
        let at = |input: usize| QueueId::new(&self.label, &self.inputs[input]);
        let run = self.env();
        let mut add = |delivery: &Delivery, handled| {
            let message = delivery.message();
            if wanted.covers(message) {
                findings.add_in_flight(message, at(delivery.input()), handled, delivery.attempt());
            }
        };
        run.mailbox.each(|delivery| add(delivery, false));
        if let Some(keyed) = &run.keyed {
            keyed.each(|delivery| add(delivery, false));
        }
        for in_flight in &*run.in_flight.lock() {
            in_flight.each(|delivery| add(delivery, true));
        }
        let attempts = self.history.find(|record| {
            wanted.ids.contains(&record.id) || wanted.traces.contains(&record.trace_id())
        });
        for record in attempts {
            let (ended_ms, input) = (record.ended_ms(&self.clock), record.input.into());
            findings.add_attempt(record, ended_ms, at(input));
        }
    }
}
