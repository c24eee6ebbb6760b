//! What an instance has in hand, where others can reach it.
//!
//! The handler's thread may be stuck: whoever takes a delivery out of here settles it,
//! and the instance finds its hand empty and knows that its result no longer counts.

use parking_lot::Mutex;

use crate::delivery::Delivery;

/// The deliveries that one instance works on.
#[derive(Default)]
pub(crate) struct InFlight(Mutex<Vec<Delivery>>);

impl InFlight {
    pub(crate) fn put(&self, delivery: Delivery) {
        self.0.lock().push(delivery);
    }

    pub(crate) fn put_all(&self, deliveries: Vec<Delivery>) {
        *self.0.lock() = deliveries;
    }

    /// The one delivery in hand, unless somebody took it.
    pub(crate) fn take_one(&self) -> Option<Delivery> {
        self.0.lock().pop()
    }

    /// Everything in hand.
    pub(crate) fn take_all(&self) -> Vec<Delivery> {
        std::mem::take(&mut *self.0.lock())
    }

    /// Looks at everything in hand.
    pub(crate) fn each(&self, look: impl FnMut(&Delivery)) {
        self.0.lock().iter().for_each(look);
    }

    pub(crate) fn len(&self) -> usize {
        self.0.lock().len()
    }
}
