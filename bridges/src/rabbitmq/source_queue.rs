//! The queue that a consumer reads, and the topic of its deliveries.
//!
//! Owns the rule that a message from an external queue or exchange, whose routing key has
//! another meaning, gets the topic that the manifest names. Knows no message.

use std::sync::Arc;

use brickwork::supervision::quarantine::SUSPECT_AFTER;
use brickwork::transport::ExternalSource;
use lapin::BasicProperties;
use lapin::types::ShortString;

use super::codec::{self, TopicSource};
use super::routing::Queue;

/// The source of a consumer's deliveries.
#[derive(Clone)]
pub(super) struct SourceQueue {
    /// The app's queue: receives the deliveries and their retries.
    pub(super) queue: Arc<Queue>,
    /// Name of the consumed queue: the app's own or an external one.
    pub(super) name: ShortString,
}

impl SourceQueue {
    /// The app's own queue.
    pub(super) fn app_queue(queue: Arc<Queue>) -> Self {
        let name = queue.name.clone();
        Self { queue, name }
    }

    /// Returns the external queue that feeds this one, if there is one.
    pub(super) fn external_queue(queue: &Arc<Queue>) -> Option<Self> {
        let name = queue.feeds.iter().find_map(|feed| match &feed.from {
            ExternalSource::Queue(name) => Some(ShortString::from(&**name)),
            ExternalSource::Exchange { .. } => None,
        })?;
        let queue = queue.clone();
        Some(Self { queue, name })
    }

    /// Returns whether the consumed queue is external.
    pub(super) fn is_external(&self) -> bool {
        self.name != self.queue.name
    }

    /// Returns whether a delivery is a suspect: it was in flight during two crashes, as far as
    /// this process knows, or was a suspect before. `non_crash` is the number of redeliveries
    /// with another cause. A queue that doesn't count deliveries (a classic queue) only says
    /// that the message was delivered before: then one crash suffices.
    pub(super) fn is_suspect(
        &self,
        redelivered: bool,
        exchange: &str,
        properties: &BasicProperties,
        non_crash: impl FnOnce() -> u64,
    ) -> bool {
        const AFTER: u64 = SUSPECT_AFTER as u64;
        // The headers of a first delivery come from its publisher: ignored.
        let suspicious = redelivered
            && match codec::deliveries_before(properties) {
                Some(count) => count >= AFTER && count.saturating_sub(non_crash()) >= AFTER,
                None => self.is_external() && non_crash() == 0,
            };
        let past_topics = !self.is_external() && exchange.is_empty();
        suspicious || (past_topics && codec::was_suspected(properties))
    }

    /// Returns the source of a delivery's topic, by its exchange and routing key.
    pub(super) fn topic_source<'a>(&'a self, exchange: &str, key: &'a str) -> TopicSource<'a> {
        if self.queue.id.is_dead_letters() {
            return TopicSource::DeadLetters(self.name.as_str());
        }
        let feeds = &self.queue.feeds;
        if self.is_external() {
            let topic = feeds.iter().find_map(|feed| match &feed.from {
                ExternalSource::Queue(name) if **name == *self.name.as_str() => Some(&*feed.topic),
                _ => None,
            });
            return TopicSource::Topic(topic.unwrap_or(key));
        }
        if exchange.is_empty() {
            return TopicSource::Queue(key);
        }
        let mut by_key = feeds.iter().filter_map(|feed| match &feed.from {
            ExternalSource::Exchange { name, key } if **name == *exchange => {
                Some((&**key, &*feed.topic))
            }
            _ => None,
        });
        // An exchange that ignores keys, or reads them differently, rarely feeds several
        // topics: then the first topic is right.
        let first = by_key.clone().next();
        let matching = by_key.find(|(pattern, _)| matches(pattern, key));
        TopicSource::Topic(matching.or(first).map_or(key, |(_, topic)| topic))
    }
}

/// Returns whether a routing key matches the pattern of a topic exchange: `*` is one word, `#`
/// any number of words (AMQP 0-9-1, section 3.1.3.3).
fn matches(pattern: &str, key: &str) -> bool {
    let words = |text| str::split(text, '.').filter(|_| !text.is_empty());
    let key: Vec<&str> = words(key).collect();
    // Prefixes of the key that match the pattern so far, by length. The work is bounded by
    // words times words, for any number of `#`.
    let mut reached = vec![false; key.len() + 1];
    reached[0] = true;
    for word in words(pattern) {
        if word == "#" {
            if let Some(first) = reached.iter().position(|reached| *reached) {
                reached[first..].fill(true);
            }
            continue;
        }
        for end in (1..=key.len()).rev() {
            reached[end] = reached[end - 1] && (word == "*" || word == key[end - 1]);
        }
        reached[0] = false;
    }
    reached[key.len()]
}

#[cfg(test)]
mod tests {
    use brickwork::QueueId;
    use brickwork::transport::ExternalBinding;
    use lapin::types::{AMQPValue, FieldTable};

    use super::*;
    use crate::rabbitmq::delay_count::DelayCount;

    fn queue(feeds: &[(&str, ExternalSource)]) -> Arc<Queue> {
        let feeds = feeds.iter().map(|(topic, from)| ExternalBinding {
            topic: (*topic).into(),
            from: from.clone(),
        });
        Arc::new(Queue {
            id: QueueId::new("stock", "requests"),
            name: "shop.stock.requests".into(),
            delayed: Arc::new(DelayCount::new()),
            high_water: 1,
            single_active: false,
            feeds: feeds.collect(),
            parts: None,
            part_of: None,
        })
    }

    fn exchange(key: &str) -> ExternalSource {
        ExternalSource::Exchange {
            name: "legacy".into(),
            key: key.into(),
        }
    }

    #[test]
    fn a_message_from_an_external_exchange_has_the_manifests_topic() {
        let queue = queue(&[
            ("orders", exchange("order.#")),
            ("invoices", exchange("INVOICE.*")),
        ]);
        let source = SourceQueue::app_queue(queue);
        for (exchange, key, topic_source) in [
            ("shop", "parcels", TopicSource::Topic("parcels")),
            ("legacy", "order.created.eu", TopicSource::Topic("orders")),
            ("legacy", "INVOICE.new", TopicSource::Topic("invoices")),
            // For example a fanout exchange.
            ("legacy", "whatever", TopicSource::Topic("orders")),
            (
                "by-hand",
                "order.created",
                TopicSource::Topic("order.created"),
            ),
            (
                "",
                "shop.stock.requests",
                TopicSource::Queue("shop.stock.requests"),
            ),
        ] {
            assert_eq!(
                source.topic_source(exchange, key),
                topic_source,
                "{exchange} {key}"
            );
        }
        assert!(SourceQueue::external_queue(&source.queue).is_none());
    }

    #[test]
    fn a_message_from_an_external_queue_has_the_manifests_topic() {
        let queue = queue(&[("orders", ExternalSource::Queue("legacy.orders".into()))]);
        let external = SourceQueue::external_queue(&queue).unwrap();
        assert_eq!(external.name.as_str(), "legacy.orders");
        for (exchange, key) in [("", "legacy.orders"), ("legacy", "order.created")] {
            assert_eq!(
                external.topic_source(exchange, key),
                TopicSource::Topic("orders")
            );
        }
        // Retries arrive in the app's own queue and carry their topic.
        let app = SourceQueue::app_queue(queue);
        let again = app.topic_source("", "shop.stock.requests");
        assert_eq!(again, TopicSource::Queue("shop.stock.requests"));
    }

    #[test]
    fn only_crashes_make_a_suspect_and_never_a_header_of_another_program() {
        let feeds = [("orders", ExternalSource::Queue("legacy.orders".into()))];
        let app = SourceQueue::app_queue(queue(&feeds));
        let external = SourceQueue::external_queue(&app.queue).unwrap();
        let suspect_but = |non_crash,
                           source: &SourceQueue,
                           exchange: &str,
                           header: Option<(&str, i64)>,
                           redelivered| {
            let mut headers = FieldTable::default();
            if let Some((name, count)) = header {
                headers.insert(ShortString::from(name), AMQPValue::LongLongInt(count));
            }
            source.is_suspect(
                redelivered,
                exchange,
                &BasicProperties::default().with_headers(headers),
                || non_crash,
            )
        };
        let suspect =
            |source: &SourceQueue, exchange: &str, header: Option<(&str, i64)>, redelivered| {
                suspect_but(0, source, exchange, header, redelivered)
            };
        let count = |count| Some(("x-delivery-count", count));
        for source in [&app, &external] {
            assert!(!suspect_but(2, source, "shop", count(3), true));
            assert!(suspect_but(2, source, "shop", count(4), true));
            assert!(!suspect(source, "shop", None, false));
            assert!(!suspect(source, "shop", count(9), false));
            assert!(!suspect(source, "shop", count(1), true));
            assert!(suspect(source, "shop", count(2), true));
            // Only the app itself publishes to its queues directly.
            let said = Some(("brickwork-suspect", 1));
            assert!(!suspect(source, "shop", said, false));
            let passed = suspect(source, "", said, false);
            assert_eq!(passed, !source.is_external());
        }
        // An external queue may not count deliveries.
        assert!(suspect(&external, "", None, true) && !suspect(&app, "", None, true));
        assert!(!suspect_but(1, &external, "", None, true));
    }

    #[test]
    fn patterns_match_as_on_a_topic_exchange() {
        for (pattern, key, matching) in [
            ("order.created", "order.created", true),
            ("order.created", "order", false),
            ("order.*", "order.created", true),
            ("order.*", "order", false),
            ("order.*", "order.created.eu", false),
            ("*", "", false),
            ("#", "", true),
            ("#", "a.b.c", true),
            ("", "", true),
            ("order.#", "order", true),
            ("order.#", "order.created.eu", true),
            ("#.eu", "order.created.eu", true),
            ("#.eu", "eu", true),
            ("#.eu", "order.created.us", false),
            ("a.#.b.#.c", "a.b.b.c", true),
            ("a.#.b.#.c", "a.c", false),
            ("#.#.#.*", "a", true),
            ("a.*.#", "a", false),
        ] {
            assert_eq!(matches(pattern, key), matching, "{pattern} {key}");
        }
        let (pattern, key) = ("#.a.".repeat(60) + "b", "a.".repeat(120));
        assert!(!matches(&pattern, &key));
    }
}
