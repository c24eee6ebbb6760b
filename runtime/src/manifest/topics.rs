//! Checks the topics of the whole app: each needs a publisher and a reader, which may be
//! external.
//!
//! This finds misspelt topics, the most common mistake in a manifest.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::codes;
use super::external_feeds::{self, FeedAt};
use super::report::Problems;
use super::suggest::nearest;
use super::table_reader::Section;
use super::wiring::{Side, TopicAt, is_topic};
use crate::names::{EVENTS_TOPIC, is_of_runtime};

/// Topics that services publish to and read.
#[derive(Default)]
pub(super) struct TopicUsage {
    fed: Vec<TopicAt>,
    read: Vec<TopicAt>,
    /// An output had an invalid topic, so `fed` is incomplete.
    fed_unsure: bool,
    /// An input had an invalid topic, so `read` is incomplete.
    read_unsure: bool,
}

/// A topic of `[topics]`.
struct External {
    topic: TopicAt,
    feeds: bool,
    reads: bool,
    from: Option<FeedAt>,
}

/// Topics that external programs feed or read.
pub(super) struct ExternalAccess {
    /// The topics.
    pub(super) external: Vec<Arc<str>>,
    /// External queues and exchanges that feed some of them.
    pub(super) feeds: Vec<FeedAt>,
}

impl TopicUsage {
    pub(super) fn add(&mut self, inputs: &Side, outputs: &Side) {
        self.read.extend(inputs.all());
        self.fed.extend(outputs.all());
        self.read_unsure |= inputs.broken;
        self.fed_unsure |= outputs.broken;
    }

    /// Reads `[topics]` and checks every topic. `app` is the name of the app.
    pub(super) fn check(&self, top: &Section<'_>, app: &str, out: &mut Problems) -> ExternalAccess {
        let externals = read_externals(top, app, out);
        let outside = |wanted: fn(&External) -> bool| {
            externals.iter().filter(move |external| wanted(external))
        };
        let names = |topics: &[TopicAt]| -> BTreeSet<Arc<str>> {
            topics.iter().map(|topic| topic.name.clone()).collect()
        };
        let (service_fed, service_read) = (names(&self.fed), names(&self.read));
        let mut fed = service_fed.clone();
        if service_read.contains(EVENTS_TOPIC) {
            // The runtime publishes to it if it is read.
            fed.insert(EVENTS_TOPIC.into());
        }
        let fed_outside = externals.iter().filter(|external| external.feeds);
        for topic in self.fed.iter().chain(fed_outside.map(|it| &it.topic)) {
            if is_of_runtime(&topic.name) {
                of_runtime(topic, out);
            }
        }
        fed.extend(outside(|e| e.feeds).map(|e| e.topic.name.clone()));
        let mut read = service_read.clone();
        read.extend(outside(|e| e.reads).map(|e| e.topic.name.clone()));
        if !self.fed_unsure {
            for topic in self.read.iter().filter(|topic| !fed.contains(&topic.name)) {
                unfed(topic, &fed, out);
            }
        }
        if !self.read_unsure {
            for topic in self.fed.iter().filter(|topic| !read.contains(&topic.name)) {
                unread(topic, &read, out);
            }
        }
        if !self.fed_unsure && !self.read_unsure {
            for external in &externals {
                let name = &external.topic.name;
                let is_used = service_fed.contains(name) || service_read.contains(name);
                // A program may read the events without any service that does.
                if !is_used && **name != *EVENTS_TOPIC {
                    unused(&external.topic, service_fed.union(&service_read), out);
                }
            }
        }
        let names = externals.iter().map(|e| e.topic.name.clone());
        ExternalAccess {
            external: names.collect(),
            feeds: externals.into_iter().filter_map(|e| e.from).collect(),
        }
    }
}

fn read_externals(top: &Section<'_>, app: &str, out: &mut Problems) -> Vec<External> {
    let topics = top.section("topics", out);
    let mut externals = Vec::new();
    for entry in &topics.table.entries {
        let name = entry.key.as_str();
        if !is_topic(name, entry.key_span, out) {
            continue;
        }
        let topic = topics.section(name, out);
        topic.check_keys(&["external", "from"], &["schema"], out);
        let choices = ["in", "out", "both"];
        let (feeds, reads) = match topic.one_of("external", &choices, out) {
            Some(0) => (true, false),
            Some(1) => (false, true),
            Some(_) => (true, true),
            None if topic.table.get("external").is_some() => {
                // The value is wrong and was reported. The topic counts as external both ways.
                (true, true)
            }
            None if topic.table.get("from").is_some() => {
                topic.missing("external", "add `external = \"in\"`", out);
                (true, false)
            }
            None => continue,
        };
        let name: Arc<str> = name.into();
        externals.push(External {
            from: external_feeds::read(&topic, &name, feeds, app, out),
            topic: TopicAt {
                name,
                span: entry.key_span,
            },
            feeds,
            reads,
        });
    }
    externals
}

fn of_runtime(topic: &TopicAt, out: &mut Problems) {
    let message = format!("only the runtime publishes to `{}`", topic.name);
    let help = "choose a topic that does not begin with `brickwork.`".to_owned();
    out.add(codes::RUNTIME_TOPIC, topic.span, message, Some(help));
}

fn unfed(topic: &TopicAt, fed: &BTreeSet<Arc<str>>, out: &mut Problems) {
    let name = &topic.name;
    let help = match nearest(name, fed.iter().map(|topic| &**topic)) {
        Some(near) => format!("did you mean `{near}`?"),
        None => format!(
            "connect an output to it, or, if an external program feeds it, add \
             `topics.\"{name}\".external = \"in\"`"
        ),
    };
    let message = format!("nothing feeds the topic `{name}`");
    out.add(codes::UNFED_TOPIC, topic.span, message, Some(help));
}

fn unread(topic: &TopicAt, read: &BTreeSet<Arc<str>>, out: &mut Problems) {
    let name = &topic.name;
    let help = match nearest(name, read.iter().map(|topic| &**topic)) {
        Some(near) => format!("did you mean `{near}`?"),
        None => format!(
            "connect an input to it, or, if an external program reads it, add \
             `topics.\"{name}\".external = \"out\"`"
        ),
    };
    let message = format!("nothing reads the topic `{name}`");
    out.add(codes::UNREAD_TOPIC, topic.span, message, Some(help));
}

fn unused<'a>(topic: &TopicAt, used: impl Iterator<Item = &'a Arc<str>>, out: &mut Problems) {
    let name = &topic.name;
    let help = match nearest(name, used.map(|topic| &**topic)) {
        Some(near) => format!("did you mean `{near}`?"),
        None => "remove it".to_owned(),
    };
    let message = format!("no service uses the topic `{name}`");
    out.add(codes::UNUSED_TOPIC, topic.span, message, Some(help));
}
