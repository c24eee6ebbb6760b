//! Deliveries in flight of one instance, reachable from any thread.
//!
//! The thread of the handler may be blocked. Another thread that takes a delivery from here
//! settles it; the instance then finds the list empty and knows that its result has no effect.

use parking_lot::Mutex;

use crate::delivery::Delivery;

/// The deliveries that one instance handles, in reverse order.
#[derive(Default)]
pub(crate) struct InFlight(Mutex<Vec<Delivery>>);

impl InFlight {
    pub(crate) fn put(&self, delivery: Delivery) {
        self.0.lock().push(delivery);
    }

    pub(crate) fn put_all(&self, deliveries: Vec<Delivery>) {
        *self.0.lock() = deliveries;
    }

    /// Takes the last delivery; `None` if another thread took it.
    pub(crate) fn take_one(&self) -> Option<Delivery> {
        self.0.lock().pop()
    }

    pub(crate) fn take_all(&self) -> Vec<Delivery> {
        std::mem::take(&mut *self.0.lock())
    }

    pub(crate) fn each(&self, visit: impl FnMut(&Delivery)) {
        self.0.lock().iter().for_each(visit);
    }

    pub(crate) fn len(&self) -> usize {
        self.0.lock().len()
    }
}
