//! The connection of a verb to an app's transport.

use std::sync::Arc;
use std::time::Duration;

use crate::app::Plan;
use crate::dead_letters::DeadLetters;
use crate::transport::{Backpressure, Connector, Transport, TransportError};

/// Time for closing. A broker that doesn't answer is left alone: the verb is done.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(10);

/// Connects to the app's transport and opens its dead letters. Declares nothing.
pub(super) async fn connect(
    plan: &Plan,
    connector: &dyn Connector,
) -> Result<(Arc<dyn Transport>, DeadLetters), TransportError> {
    let pressure = Arc::<Backpressure>::default();
    let transport = connector.connect(&plan.transport, pressure).await?;
    match DeadLetters::open(transport.clone(), plan.topology()).await {
        Ok(letters) => Ok((transport, letters.redacting(plan.redactor.clone()))),
        Err(error) => {
            close(&*transport).await;
            Err(error)
        }
    }
}

/// Closes the connection.
pub(super) async fn close(transport: &dyn Transport) {
    let _closed = tokio::time::timeout(CLOSE_TIMEOUT, transport.close()).await;
}
