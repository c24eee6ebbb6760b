//! Bodies of answers: bounded before and after decompression.

use std::io::Read;

use bytes::Bytes;
use http::HeaderMap;
use http::header::{CONTENT_ENCODING, CONTENT_LENGTH};
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use hyper::body::Incoming;

use super::request::CallError;

/// Value of `Accept-Encoding`.
pub(crate) const ENCODINGS: &str = "gzip, br";

/// Size of the buffer of a decompressor.
const BUFFER_BYTES: usize = 16 * 1024;

/// Reads a body to its end.
///
/// # Errors
/// The connection breaks, or the body is too large.
pub(crate) async fn read(body: Incoming, bytes_max: usize) -> Result<Bytes, CallError> {
    match Limited::new(body, bytes_max).collect().await {
        Ok(collected) => Ok(collected.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => Err(CallError::TooLarge(bytes_max)),
        Err(error) => Err(CallError::Unknown(format!(
            "the answer has broken off: {error}"
        ))),
    }
}

/// Decompresses a body by its `Content-Encoding`, which is removed from the headers.
///
/// # Errors
/// The body is damaged, or too large.
pub(crate) fn decoded(
    headers: &mut HeaderMap,
    body: Bytes,
    bytes_max: usize,
) -> Result<Bytes, CallError> {
    let encoding = headers.get(CONTENT_ENCODING);
    let encoding = encoding.and_then(|value| value.to_str().ok()).unwrap_or("");
    let plain = match encoding.trim().to_ascii_lowercase().as_str() {
        _ if body.is_empty() => return Ok(body),
        "gzip" | "x-gzip" => bounded(flate2::read::MultiGzDecoder::new(&body[..]), bytes_max)?,
        "br" => bounded(
            brotli_decompressor::Decompressor::new(&body[..], BUFFER_BYTES),
            bytes_max,
        )?,
        _ => return Ok(body),
    };
    headers.remove(CONTENT_ENCODING);
    headers.remove(CONTENT_LENGTH);
    Ok(plain.into())
}

fn bounded(reader: impl Read, bytes_max: usize) -> Result<Vec<u8>, CallError> {
    let mut plain = Vec::new();
    let mut reader = reader.take(bytes_max as u64 + 1);
    reader
        .read_to_end(&mut plain)
        .map_err(|error| CallError::Unknown(format!("the answer is damaged: {error}")))?;
    if plain.len() > bytes_max {
        return Err(CallError::TooLarge(bytes_max));
    }
    Ok(plain)
}
