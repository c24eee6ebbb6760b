//! What the instances of one service share: made once, by whoever needs it first.

use std::any::{Any, TypeId};
use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::OnceCell;

use crate::failure::Failure;

type Slot = Arc<OnceCell<Arc<dyn Any + Send + Sync>>>;

/// Values by type, one of each.
#[derive(Default)]
pub(crate) struct Shared(Mutex<HashMap<TypeId, Slot>>);

impl Shared {
    /// The value of this type, made by `make` if it is the first to ask. Others wait;
    /// after a failure or a panic the next one tries.
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
            .expect("a slot holds the type that it is filed under"))
    }
}
