//! Payloads of messages, made of bodies, queries and parameters of paths.

use std::sync::Arc;

use bytes::Bytes;

use super::content::BodyFormat;
use super::forms;
use crate::json::JsonText;

/// The UTF-8 byte order mark, which some senders put before their JSON.
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// The payload of a request without a body: its query, and the parameters of the path.
pub(super) fn query_payload(mut query: forms::Fields, params: &[(String, String)]) -> Bytes {
    // The path decides: a parameter of the query can't replace one of the path.
    query.retain(|(name, _)| !params.iter().any(|(param, _)| param == name));
    query.extend_from_slice(params);
    forms::to_json(query)
}

/// The payload of a message, and its content type; `None` means JSON.
///
/// # Errors
/// The body is not in its format.
pub(super) fn payload_of(
    format: BodyFormat,
    body: Bytes,
) -> Result<(Bytes, Option<Arc<str>>), String> {
    match format {
        BodyFormat::Json(content_type) => {
            let start = match body.starts_with(BYTE_ORDER_MARK) {
                true => BYTE_ORDER_MARK.len(),
                false => 0,
            };
            let json = body.slice(start..);
            JsonText::check_readable(&json).map_err(|text| format!("the body: {text}"))?;
            Ok((json, content_type))
        }
        BodyFormat::Form => Ok((forms::to_json(forms::parse(&body)?), None)),
        BodyFormat::Query => Ok((query_payload(Vec::new(), &[]), None)),
        BodyFormat::Other(content_type) => Ok((body, Some(content_type))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_path_decides_over_the_query() {
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let query = vec![pair("id", "forged"), pair("page", "2")];
        let payload = query_payload(query, &[pair("id", "7")]);
        assert_eq!(&payload[..], br#"{"id":"7","page":"2"}"#);
    }
}
