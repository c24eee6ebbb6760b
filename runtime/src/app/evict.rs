//! Removes entities of a running app, for its command line.

use std::sync::Arc;

use crate::control::{Evict, EvictEntity};
use crate::status::AppStatus;

/// Returns the function that removes entities of services in this process.
pub(super) fn evictor(view: Arc<AppStatus>) -> EvictEntity {
    Box::new(move |entity| {
        let view = view.clone();
        Box::pin(async move { evict(&view, entity).await })
    })
}

#[cfg(feature = "store")]
async fn evict(view: &AppStatus, Evict { service, key }: Evict) -> Result<bool, String> {
    let mut services = view.services.iter();
    let Some(found) = services.find(|it| *it.hosted.label == *service) else {
        return Err(format!("this process does not run the service {service}"));
    };
    if found.hosted.is_apart() {
        return Err(format!(
            "{service} runs in a process of its own: stop the app before you evict an entity"
        ));
    }
    match found.hosted.env().store() {
        Some(store) => {
            let evicted = store.evict_entity(&service, &key).await;
            evicted.map_err(|error| error.to_string())
        }
        None => Err(format!("the store of {service} is not open yet")),
    }
}

#[cfg(not(feature = "store"))]
async fn evict(_: &AppStatus, Evict { service, .. }: Evict) -> Result<bool, String> {
    Err(format!("{service} has no store"))
}
