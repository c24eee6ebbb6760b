//! Values that the instances of one service share, one per type.

use std::any::{Any, TypeId};
use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::OnceCell;

use crate::failure::Failure;

type Slot = Arc<OnceCell<Arc<dyn Any + Send + Sync>>>;

/// Shared values by type.
#[derive(Default)]
pub(crate) struct SharedValues(Mutex<HashMap<TypeId, Slot>>);

impl SharedValues {
    /// Returns the value of this type. The first caller makes it with `make`, others wait.
    /// After a failure or a panic of `make` the next caller tries again.
    pub(crate) async fn get<T, F>(&self, make: F) -> Result<Arc<T>, Failure>
    where
        T: Send + Sync + 'static,
        F: AsyncFnOnce() -> Result<T, Failure>,
    {
        let slot = self.0.lock().entry(TypeId::of::<T>()).or_default().clone();
        let value = slot
            .get_or_try_init(async || make().await.map(|value| Arc::new(value) as _))
            .await?
            .clone();
        Ok(value
            .downcast::<T>()
            .expect("the slot of a type holds a value of this type"))
    }
}
