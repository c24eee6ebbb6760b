//! TCP connections to one of several addresses.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};

/// Connects to the first address that accepts. Each one gets an equal share of the time that is
/// left.
///
/// # Errors
/// The error of the last address.
pub(crate) async fn connect_first(
    addresses: &[SocketAddr],
    within: Duration,
) -> Result<TcpStream, String> {
    let deadline = Instant::now() + within;
    let mut last = "no address".to_owned();
    for (nth, address) in addresses.iter().enumerate() {
        let now = Instant::now();
        let share = deadline.saturating_duration_since(now) / (addresses.len() - nth) as u32;
        match timeout_at(now + share, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => {
                // A request is one write: it must not wait for an answer to the last one.
                let _unsupported = stream.set_nodelay(true);
                return Ok(stream);
            }
            Ok(Err(error)) => last = error.to_string(),
            Err(_) => last = "no answer to the connect".to_owned(),
        }
    }
    Err(last)
}
