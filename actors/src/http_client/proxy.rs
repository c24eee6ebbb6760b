//! HTTP proxies: a tunnel by `CONNECT`, for `https` and `http` alike.

use std::net::SocketAddr;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use percent_encoding::percent_decode_str;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use url::Url;

use super::tcp::connect_first;

/// Maximum size of a proxy's answer to `CONNECT`.
const ANSWER_BYTES_MAX: usize = 8 * 1024;

/// A proxy.
pub(crate) struct Proxy {
    host: String,
    port: u16,
    /// Value of `Proxy-Authorization`.
    authorization: Option<String>,
}

impl Proxy {
    /// Reads a URL such as `http://user:password@proxy:3128`.
    ///
    /// # Errors
    /// A text that says how the URL is wrong, without the URL.
    pub(crate) fn parse(url: &str) -> Result<Self, String> {
        let wrong = || "it is not a URL such as http://proxy.example.com:3128".to_owned();
        let url = Url::parse(url).map_err(|_| wrong())?;
        if url.scheme() != "http" {
            return Err("only proxies with http:// are supported".to_owned());
        }
        let host = url.host_str().ok_or_else(wrong)?;
        let decode = |text| percent_decode_str(text).decode_utf8_lossy();
        let authorization = (!url.username().is_empty()).then(|| {
            let password = url.password().map(decode).unwrap_or_default();
            let pair = format!("{}:{password}", decode(url.username()));
            format!("Basic {}", STANDARD.encode(pair))
        });
        Ok(Self {
            host: host.trim_matches(['[', ']']).to_owned(),
            port: url.port().unwrap_or(80),
            authorization,
        })
    }

    /// Opens a tunnel to a host.
    ///
    /// # Errors
    /// The proxy can't be reached, or it refuses.
    pub(crate) async fn connect(
        &self,
        host: &str,
        port: u16,
        within: Duration,
    ) -> Result<TcpStream, String> {
        let found = tokio::net::lookup_host((self.host.as_str(), self.port)).await;
        let addresses: Vec<SocketAddr> = found.map_err(|error| error.to_string())?.collect();
        let mut stream = connect_first(&addresses, within).await?;
        let mut request = format!("CONNECT {host}:{port} HTTP/1.1\r\nHost: {host}:{port}\r\n");
        if let Some(value) = &self.authorization {
            request.push_str(&format!("Proxy-Authorization: {value}\r\n"));
        }
        request.push_str("\r\n");
        let exchange = async {
            stream.write_all(request.as_bytes()).await?;
            head(&mut stream).await
        };
        let head = exchange.await.map_err(|error| error.to_string())?;
        match status(&head) {
            Some(200..=299) => Ok(stream),
            Some(status) => Err(format!("it has answered CONNECT with status {status}")),
            None => Err("its answer is not HTTP".to_owned()),
        }
    }
}

/// Reads an answer's head byte by byte: the bytes after it belong to the tunnel.
async fn head(stream: &mut TcpStream) -> std::io::Result<Vec<u8>> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") && head.len() < ANSWER_BYTES_MAX {
        head.push(stream.read_u8().await?);
    }
    Ok(head)
}

fn status(head: &[u8]) -> Option<u16> {
    let line = std::str::from_utf8(head).ok()?.lines().next()?;
    let mut words = line.split(' ');
    let version = words.next()?;
    words
        .next()
        .filter(|_| version.starts_with("HTTP/1."))?
        .parse()
        .ok()
}
