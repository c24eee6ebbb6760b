//! Forms and queries (`application/x-www-form-urlencoded`): names and values as text.

use std::collections::BTreeMap;

use bytes::Bytes;
use percent_encoding::percent_decode_str;

/// The fields of a form, decoded, in the order of the sender.
pub(super) type Fields = Vec<(String, String)>;

/// Parses a form.
///
/// # Errors
/// A name or a value is not UTF-8.
pub(super) fn parse(form: &[u8]) -> Result<Fields, String> {
    let text = std::str::from_utf8(form).map_err(|_| "the form is not text".to_owned())?;
    let pairs = text.split('&').filter(|pair| !pair.is_empty());
    let fields = pairs.map(|pair| {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        Ok((decode(name)?, decode(value)?))
    });
    fields.collect()
}

fn decode(text: &str) -> Result<String, String> {
    let spaced = text.replace('+', " ");
    let decoded = percent_decode_str(&spaced).decode_utf8();
    let decoded = decoded.map_err(|_| "a field of the form is not UTF-8 text".to_owned())?;
    Ok(decoded.into_owned())
}

/// The JSON object of a form: each value is a text, or a list of texts if its name is repeated.
pub(super) fn to_json(fields: Fields) -> Bytes {
    let mut values: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (name, value) in fields {
        values.entry(name).or_default().push(value);
    }
    let object: serde_json::Map<String, serde_json::Value> = values
        .into_iter()
        .map(|(name, mut values)| match values.len() {
            1 => (name, values.remove(0).into()),
            _ => (name, values.into()),
        })
        .collect();
    let json = serde_json::to_vec(&object).expect("an object of texts can be written");
    json.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn json(form: &str) -> String {
        let json = to_json(parse(form.as_bytes()).unwrap());
        String::from_utf8(json.to_vec()).unwrap()
    }

    #[test]
    fn a_form_is_an_object_of_texts_and_a_repeated_name_has_a_list() {
        for (form, expected) in [
            ("", "{}"),
            ("a=1&b=x+y%26z", r#"{"a":"1","b":"x y&z"}"#),
            ("a&=&&b==", r#"{"":"","a":"","b":"="}"#),
            ("to=1&to=2&%C3%BC=%22", r#"{"to":["1","2"],"ü":"\""}"#),
            ("a=%zz%", r#"{"a":"%zz%"}"#),
        ] {
            assert_eq!(json(form), expected, "{form}");
        }
    }

    #[test]
    fn a_form_that_is_not_utf_8_is_refused() {
        for form in [&b"a=%ff"[..], b"%ff=a", b"a=\xff"] {
            assert!(parse(form).is_err(), "{form:?}");
        }
    }
}
