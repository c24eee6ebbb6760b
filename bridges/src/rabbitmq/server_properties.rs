//! Reads a broker's product and version from its first frame, before the login.
//!
//! The client library reads that frame but doesn't expose it. So this opens a connection of its
//! own and closes it after the first frame. Ignores frames of unusual size.

use std::time::Duration;

use futures_util::{AsyncReadExt, AsyncWriteExt};
use lapin::protocol::connection::AMQPMethod;
use lapin::protocol::{AMQPClass, parse_class};
use lapin::types::{AMQPValue, FieldTable};
use tokio::time::timeout;

use super::connect::{PROTOCOL_HEADER, Socket};

const WITHIN: Duration = Duration::from_secs(10);
/// Maximum size of the first frame. RabbitMQ's has about 500 bytes.
const FRAME_BYTES_MAX: usize = 64 * 1024;
const METHOD: u8 = 1;

/// The properties that a broker announces.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct ServerProperties {
    pub(super) product: Option<String>,
    pub(super) version: Option<String>,
    /// Names of its capabilities.
    pub(super) capabilities: Option<Vec<String>>,
}

impl ServerProperties {
    /// Returns whether the broker has a capability. A broker that announces none is assumed to
    /// have it.
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

/// Reads the properties. Returns `None` if they can't be read.
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
