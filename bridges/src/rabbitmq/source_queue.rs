//! Where deliveries come from: the queue on the broker, and the topic that they have.
//!
//! Owns the rule by which what somebody else published, with a routing key that means
//! something there, gets the topic that the manifest gave it. Knows no message.

use std::sync::Arc;

use brickwork::supervision::quarantine::SUSPECT_AFTER;
use brickwork::transport::ExternalSource;
use lapin::BasicProperties;
use lapin::types::ShortString;

use super::codec;
use super::routing::Queue;

/// What a consumer takes from.
#[derive(Clone)]
pub(super) struct SourceQueue {
    /// Whose deliveries these are, and where what is tried again waits.
    pub(super) queue: Arc<Queue>,
    /// The name of what is consumed: the app's own queue, or one of somebody else.
    pub(super) name: ShortString,
}

/// How a message's topic is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TopicSource<'a> {
    /// It was published to this topic.
    Topic(&'a str),
    /// It was put into the queue of this name, past all topics: a header of it says which
    /// it had, and how often it was tried.
    Queue(&'a str),
}

impl SourceQueue {
    /// The app's own queue.
    pub(super) fn app_queue(queue: Arc<Queue>) -> Self {
        let name = queue.name.clone();
        Self { queue, name }
    }

    /// The queue of somebody else that feeds this one, if one does.
    pub(super) fn external_queue(queue: &Arc<Queue>) -> Option<Self> {
        let name = queue.feeds.iter().find_map(|feed| match &feed.from {
            ExternalSource::Queue(name) => Some(ShortString::from(&**name)),
            ExternalSource::Exchange { .. } => None,
        })?;
        let queue = queue.clone();
        Some(Self { queue, name })
    }

    /// Whether it isn't the app's own.
    pub(super) fn is_external(&self) -> bool {
        self.name != self.queue.name
    }

    /// Whether a delivery was in hand at two crashes, as far as this process knows (`alibi`:
    /// how often it came back otherwise), or is known for it. A queue that doesn't count (a
    /// classic one) says only that it was in hand before: then once is enough.
    pub(super) fn is_suspect(
        &self,
        redelivered: bool,
        exchange: &str,
        properties: &BasicProperties,
        non_crash: impl FnOnce() -> u64,
    ) -> bool {
        const AFTER: u64 = SUSPECT_AFTER as u64;
        // A first delivery may have a count of its publisher's making.
        let suspicious = redelivered
            && match codec::deliveries_before(properties) {
                Some(count) => count >= AFTER && count.saturating_sub(non_crash()) >= AFTER,
                None => self.is_external() && non_crash() == 0,
            };
        let past_topics = !self.is_external() && exchange.is_empty();
        suspicious || (past_topics && codec::was_suspected(properties))
    }

    /// How the topic of a delivery is known, from the exchange and the key that it came by.
    pub(super) fn topic_source<'a>(&'a self, exchange: &str, key: &'a str) -> TopicSource<'a> {
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
        // One that takes no notice of keys, or has another meaning for them, is rarely read
        // as several topics: then the first one is as good as any.
        let first = by_key.clone().next();
        let matching = by_key.find(|(pattern, _)| matches(pattern, key));
        TopicSource::Topic(matching.or(first).map_or(key, |(_, topic)| topic))
    }
}

/// Whether a routing key matches the pattern of a binding to a topic exchange: `*` is one
/// word, `#` any number of them (AMQP 0-9-1, section 3.1.3.3).
fn matches(pattern: &str, key: &str) -> bool {
    let words = |text| str::split(text, '.').filter(|_| !text.is_empty());
    let key: Vec<&str> = words(key).collect();
    // Which beginnings of the key match the pattern so far, by their length: the work is
    // bounded by words times words, however many `#` there are.
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
            delayed: DelayCount::new(),
            high_water: 1,
            single_active: false,
            feeds: feeds.collect(),
        })
    }

    fn exchange(key: &str) -> ExternalSource {
        ExternalSource::Exchange {
            name: "legacy".into(),
            key: key.into(),
        }
    }

    #[test]
    fn what_comes_from_elsewhere_has_the_topic_that_the_manifest_says() {
        let queue = queue(&[
            ("orders", exchange("order.#")),
            ("invoices", exchange("INVOICE.*")),
        ]);
        let source = SourceQueue::app_queue(queue);
        for (exchange, key, topic_source) in [
            ("shop", "parcels", TopicSource::Topic("parcels")),
            ("legacy", "order.created.eu", TopicSource::Topic("orders")),
            ("legacy", "INVOICE.new", TopicSource::Topic("invoices")),
            // A fanout exchange, say.
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
    fn what_is_in_their_queue_has_the_topic_that_the_manifest_says() {
        let queue = queue(&[("orders", ExternalSource::Queue("legacy.orders".into()))]);
        let external = SourceQueue::external_queue(&queue).unwrap();
        assert_eq!(external.name.as_str(), "legacy.orders");
        for (exchange, key) in [("", "legacy.orders"), ("legacy", "order.created")] {
            assert_eq!(
                external.topic_source(exchange, key),
                TopicSource::Topic("orders")
            );
        }
        // What is tried again comes by the app's own, and says so itself.
        let app = SourceQueue::app_queue(queue);
        let again = app.topic_source("", "shop.stock.requests");
        assert_eq!(again, TopicSource::Queue("shop.stock.requests"));
    }

    #[test]
    fn what_others_write_makes_nothing_suspect_but_being_in_hand_at_crashes_does() {
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
            // It is ours to say, in what goes past all topics.
            let said = Some(("brickwork-suspect", 1));
            assert!(!suspect(source, "shop", said, false));
            let passed = suspect(source, "", said, false);
            assert_eq!(passed, !source.is_external());
        }
        // Theirs may be of a kind that doesn't count.
        assert!(suspect(&external, "", None, true) && !suspect(&app, "", None, true));
        assert!(!suspect_but(1, &external, "", None, true));
    }

    #[test]
    fn patterns_match_as_they_do_on_a_topic_exchange() {
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
