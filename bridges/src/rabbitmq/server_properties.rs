//! Who answers: a broker says its product and version in its first frame, before anybody
//! has named himself.
//!
//! The client library reads that frame and keeps nothing of it. So this is a connection
//! of its own, which ends after the greeting. Refuses frames of unusual size.

use std::time::Duration;

use futures_util::{AsyncReadExt, AsyncWriteExt};
use lapin::protocol::connection::AMQPMethod;
use lapin::protocol::{AMQPClass, parse_class};
use lapin::types::{AMQPValue, FieldTable};
use tokio::time::timeout;

use super::connect::{PROTOCOL_HEADER, Socket};

const WITHIN: Duration = Duration::from_secs(10);
/// RabbitMQ's takes about 500 bytes.
const FRAME_BYTES_MAX: usize = 64 * 1024;
const METHOD: u8 = 1;

/// What a broker says of itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct ServerProperties {
    pub(super) product: Option<String>,
    pub(super) version: Option<String>,
    /// What it says that it can do.
    pub(super) capabilities: Option<Vec<String>>,
}

impl ServerProperties {
    /// Whether the broker says that it can do this; one that says nothing may.
    pub(super) fn can(&self, what: &str) -> bool {
        let known = self.capabilities.as_ref();
        known.is_none_or(|all| all.iter().any(|it| it == what))
    }

    fn of(properties: &FieldTable) -> Self {
        let text = |name: &str| match properties.inner().get(name)? {
            AMQPValue::LongString(text) => Some(text.to_string()),
            AMQPValue::ShortString(text) => Some(text.to_string()),
            _ => None,
        };
        let capabilities = match properties.inner().get("capabilities") {
            Some(AMQPValue::FieldTable(table)) => {
                let able = table
                    .inner()
                    .iter()
                    .filter(|(_, able)| **able == AMQPValue::Boolean(true));
                Some(able.map(|(name, _)| name.to_string()).collect())
            }
            _ => None,
        };
        Self {
            product: text("product"),
            version: text("version"),
            capabilities,
        }
    }
}

/// Reads a broker's greeting; `None` if it can't be read.
pub(super) async fn read_server_properties(socket: &Socket) -> Option<ServerProperties> {
    timeout(WITHIN, read(socket)).await.ok().flatten()
}

async fn read(socket: &Socket) -> Option<ServerProperties> {
    let mut stream = socket.open().await.ok()?;
    stream.write_all(PROTOCOL_HEADER).await.ok()?;
    stream.flush().await.ok()?;
    let mut header = [0; 7];
    stream.read_exact(&mut header).await.ok()?;
    let [kind, _, _, size @ ..] = header;
    let size = u32::from_be_bytes(size) as usize;
    if kind != METHOD || size > FRAME_BYTES_MAX {
        return None;
    }
    let mut payload = vec![0; size];
    stream.read_exact(&mut payload).await.ok()?;
    match parse_class(&payload[..]).ok()? {
        (_, AMQPClass::Connection(AMQPMethod::Start(start))) => {
            Some(ServerProperties::of(&start.server_properties))
        }
        _ => None,
    }
}
