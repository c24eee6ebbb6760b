//! Order by key: messages of one key are handled one at a time, in order.

use std::collections::VecDeque;

use super::service_run::ServiceRun;
use crate::delivery::Delivery;
use crate::failure::Failure;
use crate::metrics::Outcome;

impl ServiceRun {
    /// Reads the keys of deliveries, if the service has keys. One without a key is dead-lettered.
    pub(super) fn read_keys(&self, taken: &mut VecDeque<Delivery>) {
        let Some(settings) = &self.settings.key else {
            return;
        };
        for _ in 0..taken.len() {
            let Some(mut delivery) = taken.pop_front() else {
                return;
            };
            match settings.rule.key(delivery.message()) {
                Ok(key) => {
                    delivery.set_key(key);
                    taken.push_back(delivery);
                }
                Err(why) => {
                    self.meters.handled(delivery.input(), Outcome::Reject);
                    self.fail(delivery, &Failure::reject(why).into());
                }
            }
        }
    }
}
