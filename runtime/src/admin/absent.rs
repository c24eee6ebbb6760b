//! The admin endpoint in a build without the feature `admin`: it can't be opened.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use prometheus::Registry;

use crate::status::AppStatus;

/// The running endpoint, which does not exist.
#[derive(Debug)]
pub(crate) enum Admin {}

impl Admin {
    /// # Errors
    /// Always: this build has no endpoint.
    pub(crate) fn start(_: SocketAddr, _: Arc<AppStatus>, _: Registry) -> io::Result<Self> {
        let text = "admin.listen is set, and this program was built without the feature `admin` \
                    of brickwork: build it with the feature, or remove admin.listen";
        Err(io::Error::new(io::ErrorKind::Unsupported, text))
    }

    pub(crate) fn address(&self) -> SocketAddr {
        match *self {}
    }

    pub(crate) fn stop(self) {
        match self {}
    }
}
