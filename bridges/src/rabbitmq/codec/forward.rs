//! The properties of a message that goes on to another queue, or to several.

use lapin::BasicProperties;
use lapin::types::{AMQPValue, FieldTable, ShortString};

use super::table::text;
use super::{ATTEMPT, SUSPECT, SUSPECT_CRASHES, SUSPECT_DEATHS, TARGET, TOPIC, is_broker_header};

/// Returns the properties of a delayed message without the headers that belong to its delay. With
/// the headers of the broker, the broker would take the message for one in a loop.
pub(crate) fn without_delay(properties: &BasicProperties) -> BasicProperties {
    let mut headers = FieldTable::default();
    for (name, value) in properties.headers().as_ref().into_iter().flatten() {
        if name.as_str() != TARGET && !is_broker_header(name.as_str()) {
            headers.insert(name.clone(), value.clone());
        }
    }
    properties.clone().with_headers(headers)
}

/// Returns the properties of a message without the headers of the broker, with a target.
pub(crate) fn with_target(properties: &BasicProperties, target: &ShortString) -> BasicProperties {
    let properties = without_delay(properties);
    let mut headers = properties.headers().clone().unwrap_or_default();
    let value = AMQPValue::LongString(target.as_str().into());
    headers.insert(TARGET.into(), value);
    properties.with_headers(headers)
}

/// Adds routing keys in the header `BCC`: the broker routes the message by them, too, and removes the
/// header.
pub(crate) fn also_to<'a>(
    properties: BasicProperties,
    keys: impl Iterator<Item = &'a ShortString>,
) -> BasicProperties {
    let keys: Vec<AMQPValue> = keys
        .map(|key| AMQPValue::LongString(key.as_str().into()))
        .collect();
    if keys.is_empty() {
        return properties;
    }
    let mut headers = properties.headers().clone().unwrap_or_default();
    headers.insert("BCC".into(), AMQPValue::FieldArray(keys.into()));
    properties.with_headers(headers)
}

/// Returns about how many bytes the headers have.
pub(crate) fn header_bytes(properties: &BasicProperties) -> usize {
    let headers = properties.headers().as_ref().into_iter().flatten();
    let bytes = headers.map(|(name, value)| 8 + name.as_str().len() + text(value).len());
    bytes.sum()
}

/// Returns the properties of a delivery that moves to another queue of its input, without the headers
/// of the broker. `topic` is its topic if it was published to one: then the headers that only the app
/// itself sets are left out.
pub(crate) fn moved_on(
    properties: &BasicProperties,
    topic: &str,
    from_topic: bool,
) -> BasicProperties {
    let mut headers = FieldTable::default();
    let own = [ATTEMPT, SUSPECT, SUSPECT_DEATHS, SUSPECT_CRASHES];
    for (name, value) in properties.headers().as_ref().into_iter().flatten() {
        let is_forged = from_topic && own.contains(&name.as_str());
        let routes = matches!(name.as_str(), TARGET | TOPIC | "CC" | "BCC");
        if !is_forged && !routes && !is_broker_header(name.as_str()) {
            headers.insert(name.clone(), value.clone());
        }
    }
    headers.insert(TOPIC.into(), AMQPValue::LongString(topic.into()));
    properties.clone().with_headers(headers)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_that_moves_keeps_its_properties_and_only_the_app_counts_attempts() {
        let mut headers = FieldTable::default();
        for (name, value) in [
            (ATTEMPT, "3"),
            (SUSPECT, "in"),
            ("x-delivery-count", "1"),
            ("a", "b"),
        ] {
            headers.insert(name.into(), AMQPValue::LongString(value.into()));
        }
        let properties = BasicProperties::default()
            .with_headers(headers)
            .with_message_id("7".into());
        for (is_fresh, expected) in [
            (true, "a b, brickwork-topic orders"),
            (
                false,
                "a b, brickwork-attempt 3, brickwork-suspect in, brickwork-topic orders",
            ),
        ] {
            let moved = moved_on(&properties, "orders", is_fresh);
            assert_eq!(moved.message_id(), properties.message_id());
            let headers = moved.headers().clone().unwrap();
            let mut headers: Vec<String> = headers
                .into_iter()
                .map(|(name, value)| format!("{name} {}", text(value)))
                .collect();
            headers.sort();
            assert_eq!(headers.join(", "), expected);
        }
    }
}
