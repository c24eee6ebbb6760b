//! Reads `topics."T".from`: an external queue or exchange that feeds a topic.
//!
//! A queue gives each message to one consumer, so exactly one input may read the topic of an
//! external queue. All its messages have one topic, so that input may read no other topic.

use std::sync::Arc;

use super::codes;
use super::report::Problems;
use super::source::Span;
use super::spanned_toml::{Entry, Value};
use super::table_reader::Section;
use crate::app::ServicePlan;
use crate::transport::{ExternalBinding, ExternalSource};

/// Maximum length of a name and of a routing key in AMQP, in bytes.
const NAME_BYTES_MAX: usize = 255;

const KEYS: [&str; 3] = ["queue", "exchange", "key"];

/// An external feed and its place in the manifest.
pub(super) struct FeedAt {
    pub(super) feed: ExternalBinding,
    span: Span,
}

/// Reads `from` of a topic. `feeds` tells whether `external` lets programs feed the topic.
pub(super) fn read(
    topic: &Section<'_>,
    name: &Arc<str>,
    feeds: bool,
    app: &str,
    out: &mut Problems,
) -> Option<FeedAt> {
    let entry = topic.table.get("from")?;
    if !feeds {
        let why = "names an external feed, but `external` is `out`";
        topic.bad(entry, format!("{why}: set it to `in` or `both`"), out);
    }
    let from = topic.section("from", out);
    if from.table.entries.is_empty() {
        if matches!(entry.node.value, Value::Table(_)) {
            let help = "name a `queue`, or an `exchange` and a `key`";
            from.missing("queue", help, out);
        }
        return None;
    }
    from.check_keys(&KEYS, &[], out);
    let mut entries = from.table.entries.iter();
    if entries.any(|entry| !KEYS.contains(&entry.key.as_str())) {
        // A key that seems missing may be the misspelt one.
        return None;
    }
    let (queue, exchange, key) = (
        from.table.get("queue"),
        from.table.get("exchange"),
        from.table.get("key"),
    );
    match (queue, exchange, key) {
        (Some(_), Some(extra), _) => {
            let why = "a topic is fed by a queue or by an exchange, not both";
            from.bad(extra, why, out);
            return None;
        }
        (Some(_), None, Some(extra)) => {
            from.bad(extra, "a queue has no routing key: remove it", out);
            return None;
        }
        (None, Some(_), None) => {
            let help = "add a routing key; `key = \"#\"` takes all messages";
            from.missing("key", help, out);
        }
        (None, None, Some(_)) => {
            from.missing("exchange", "name the exchange of the key", out);
        }
        _ => {}
    }
    let from = match queue {
        Some(_) => ExternalSource::Queue(text(&from, "queue", 1, out)?.0),
        None => {
            let exchange = text(&from, "exchange", 1, out);
            let key = text(&from, "key", 0, out);
            let (name, entry) = exchange?;
            if &*name == app {
                let why = "this is the app's own exchange: remove `from`";
                from.bad(entry, why, out);
                return None;
            }
            ExternalSource::Exchange { name, key: key?.0 }
        }
    };
    Some(FeedAt {
        feed: ExternalBinding {
            topic: name.clone(),
            from,
        },
        span: entry.place(),
    })
}

/// Reads a name or a routing key of the broker.
fn text<'a>(
    from: &Section<'a>,
    key: &str,
    bytes_min: usize,
    out: &mut Problems,
) -> Option<(Arc<str>, &'a Entry)> {
    let (text, entry) = from.text(key, out)?;
    let fits = (bytes_min..=NAME_BYTES_MAX).contains(&text.len());
    if !fits || text.chars().any(char::is_control) {
        let why =
            format!("must have {bytes_min} to {NAME_BYTES_MAX} bytes, and no control characters");
        from.bad(entry, why, out);
        return None;
    }
    Some((text.into(), entry))
}

/// Checks that exactly one input reads each external queue, and no other topic.
pub(super) fn check(feeds: &[FeedAt], services: &[ServicePlan], out: &mut Problems) {
    for (index, FeedAt { feed, span }) in feeds.iter().enumerate() {
        let ExternalSource::Queue(queue) = &feed.from else {
            continue;
        };
        let mut before = feeds[..index].iter().map(|before| &before.feed);
        if let Some(before) = before.find(|before| before.from == feed.from) {
            let message = format!(
                "the queue `{queue}` already feeds the topic `{}`",
                before.topic
            );
            let help = Some("remove one: each message would reach only one of the topics");
            out.add(
                codes::EXTERNAL_QUEUE,
                *span,
                message,
                help.map(str::to_owned),
            );
            continue;
        }
        let readers: Vec<_> = services
            .iter()
            .flat_map(|service| service.inputs.iter().map(move |input| (service, input)))
            .filter(|(_, input)| input.topics.contains(&feed.topic))
            .collect();
        if let [(one, input), (other, second), ..] = readers[..] {
            let message = format!(
                "`{}.{}` and `{}.{}` read `{}`, but the queue `{queue}` gives each message to only \
                 one of them",
                one.label, input.name, other.label, second.name, feed.topic
            );
            let help = "let one service read it and pass the messages on, or read the exchange that \
                        feeds the queue: `from = { exchange = \"NAME\", key = \"KEY\" }`";
            out.add(codes::EXTERNAL_QUEUE, *span, message, Some(help.to_owned()));
            continue;
        }
        for (service, input) in readers {
            if let Some(other) = input.topics.iter().find(|topic| **topic != feed.topic) {
                let (label, port) = (&service.label, &input.name);
                let message = format!(
                    "`{label}.{port}` reads the queue `{queue}` for `{}`, and also `{other}`",
                    feed.topic
                );
                let help = "read the other topics with another input";
                out.add(codes::EXTERNAL_QUEUE, *span, message, Some(help.to_owned()));
            }
        }
    }
}
