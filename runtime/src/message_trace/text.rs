//! A message's way for people: a line for each message and each input that it came to.

use std::fmt::Write as _;

use super::report::{Attempt, Hop, MessageState, Outboxed, Trace, TracedMessage};
use crate::log::push_visible;
use crate::redact::Redactor;

/// After so many messages from one output of which nothing is known, the rest is counted.
const ALIKE_MAX: usize = 3;

impl Trace {
    /// Without secrets, wherever they may be.
    pub(super) fn clean(mut self, redactor: &Redactor) -> Self {
        let clean = |text: &mut String| *text = redactor.clean(text).into_owned();
        clean(&mut self.asked);
        let texts = self.came_of.iter_mut().chain(&mut self.looked_at);
        texts.chain(&mut self.missed).for_each(clean);
        for message in &mut self.messages {
            message.clean(&clean);
        }
        self
    }

    /// For people: a line for each message and each input that it came to. Whatever an id or
    /// a text holds, it does nothing to a terminal.
    pub fn text(&self) -> String {
        let mut text = String::new();
        let mut line = |it: &str| {
            push_visible(&mut text, it);
            text.push('\n');
        };
        if !self.found {
            line(&format!("{}: no trace of {}", self.app, self.asked));
            line("  it was handled longer ago than what is kept, or never came here");
        }
        if let Some(trace) = self.trace_id.as_ref().filter(|_| self.found) {
            line(&format!("trace {trace}"));
        }
        if !self.came_of.is_empty() {
            line(&format!(
                "came of {}",
                self.came_of.join(", which came of ")
            ));
        }
        for message in &self.messages {
            message.lines(0, &mut line);
        }
        if let Some(cut) = &self.cut {
            line(&format!("there is more: {cut}"));
        }
        // When everything is known, it doesn't matter from where.
        if !self.found || self.messages.iter().any(TracedMessage::has_gaps) {
            self.looked_at
                .iter()
                .for_each(|it| line(&format!("looked at {it}")));
        }
        self.missed
            .iter()
            .for_each(|it| line(&format!("not looked at: {it}")));
        text
    }
}

impl TracedMessage {
    fn clean(&mut self, clean: &impl Fn(&mut String)) {
        clean(&mut self.id);
        self.kind.iter_mut().for_each(clean);
        let refused = self.outboxes.iter_mut();
        refused.filter_map(|it| it.refused.as_mut()).for_each(clean);
        for hop in &mut self.hops {
            if let MessageState::DeadLettered { error, .. } = &mut hop.now {
                error.iter_mut().for_each(clean);
            }
        }
        self.led_to.iter_mut().for_each(|it| it.clean(clean));
    }

    /// Whether anything isn't known.
    fn has_gaps(&self) -> bool {
        let gaps = [MessageState::Unknown, MessageState::Handled];
        let unknown = self.hops.iter().any(|hop| gaps.contains(&hop.now));
        unknown || self.led_to.iter().any(Self::has_gaps)
    }

    fn is_unknown(&self) -> bool {
        let unknown = self.hops.iter().all(|hop| hop.now == MessageState::Unknown);
        unknown && self.outboxes.is_empty() && self.led_to.is_empty() && !self.shown_before
    }

    fn lines(&self, depth: usize, line: &mut dyn FnMut(&str)) {
        let indent = "  ".repeat(depth * 2);
        let mut head = format!("{indent}{}", self.heading());
        if self.shown_before {
            head.push_str(": shown above");
            return line(&head);
        }
        if self.hops.is_empty() && self.outboxes.is_empty() {
            match (
                &*self.topics,
                self.by.as_ref().and_then(|by| by.output.as_ref()),
            ) {
                ([], None) => head.push_str(": known only from what it led to"),
                _ => head.push_str(": no service of this app reads it"),
            }
        }
        line(&head);
        for hop in &self.hops {
            line(&format!("{indent}  {}", of_hop(hop)));
        }
        for outbox in &self.outboxes {
            line(&format!("{indent}  {}", of_outbox(outbox)));
        }
        let mut alike = 0;
        let mut last = None;
        let count = self.led_to.len();
        for (number, child) in self.led_to.iter().enumerate() {
            let port = child.by.as_ref().map(|by| (&by.service, &by.output));
            alike = match child.is_unknown() {
                true if port == last => alike + 1,
                true => 1,
                false => 0,
            };
            last = port;
            if alike <= ALIKE_MAX {
                child.lines(depth + 1, line);
            }
            let goes_on = self.led_to.get(number + 1).is_some_and(|next| {
                next.is_unknown() && next.by.as_ref().map(|by| (&by.service, &by.output)) == last
            });
            if alike > ALIKE_MAX && (!goes_on || number + 1 == count) {
                let more = alike - ALIKE_MAX;
                line(&format!("{indent}    {more} more like this"));
            }
        }
    }

    fn heading(&self) -> String {
        let mut text = String::new();
        if let Some(by) = &self.by {
            // Writing to a string can't fail.
            let _infallible = match (&by.output, by.index) {
                (Some(output), Some(index)) => {
                    write!(text, "{}.{output} {index} -> ", by.service)
                }
                _ => write!(text, "{} -> ", by.service),
            };
        }
        text.push_str(&self.id);
        if let Some(kind) = &self.kind {
            let _infallible = write!(text, " ({kind})");
        }
        if !self.topics.is_empty() {
            let _infallible = write!(text, " on {}", self.topics.join(", "));
        }
        text
    }
}

fn of_hop(hop: &Hop) -> String {
    let place = match hop.now {
        MessageState::Unknown if !hop.attempts.is_empty() => {
            "not seen since its last attempt".to_owned()
        }
        ref now => of_place(now),
    };
    let mut text = format!("{}.{}: {place}", hop.service, hop.input);
    if let Some((last, before)) = hop.attempts.split_last() {
        let _infallible = write!(text, "; {}", of_attempt(last));
        if !before.is_empty() {
            let before: Vec<String> = before
                .iter()
                .map(|it| format!("{} on {}", it.outcome, it.attempt))
                .collect();
            let _infallible = write!(text, ", before that {}", before.join(", "));
        }
    }
    if let Some(at) = &hop.stored_at {
        let _infallible = write!(text, "; in its inbox since {at}");
    }
    text
}

fn of_attempt(it: &Attempt) -> String {
    let Attempt {
        attempt,
        outcome,
        at,
        took_us,
    } = it;
    let took = match took_us {
        0 => String::new(),
        us @ ..1_000 => format!(", took {us}us"),
        us @ ..1_000_000 => format!(", took {}.{}ms", us / 1_000, us % 1_000 / 100),
        us => format!(", took {}.{}s", us / 1_000_000, us % 1_000_000 / 100_000),
    };
    format!("{outcome} on attempt {attempt} at {at}{took}")
}

fn of_place(place: &MessageState) -> String {
    match place {
        MessageState::Done => "done".into(),
        MessageState::Handled => {
            "handled at least once, since something came of it: whether it comes again can't be seen"
                .into()
        }
        MessageState::Expired => "too late, nobody waited for its answer any more".into(),
        MessageState::Waiting { ahead: Some(ahead) } => format!("waiting, {ahead} before it"),
        MessageState::Waiting { ahead: None } => "waiting".into(),
        MessageState::InHand {
            handled: true,
            attempt,
        } => format!("being handled, attempt {attempt}"),
        MessageState::InHand {
            handled: false,
            attempt,
        } => format!("in hand, for attempt {attempt}"),
        MessageState::Suspect { attempt } => {
            format!("was in hand when a process died, waits to be tried alone, attempt {attempt}")
        }
        MessageState::Delayed { until, attempt } => {
            format!("waits until {until} for attempt {attempt}")
        }
        MessageState::DeadLettered {
            reason,
            error,
            attempts,
            at,
        } => {
            let mut text = "dead-lettered".to_owned();
            if let Some(reason) = reason {
                let _infallible = write!(text, ": {reason}");
            }
            if let Some(error) = error {
                let _infallible = write!(text, ": {error}");
            }
            if let (Some(attempts), Some(at)) = (attempts, at) {
                let _infallible = write!(text, " (after attempt {attempts}, at {at})");
            }
            text
        }
        MessageState::GivenUp => {
            "given up, and its letter isn't found: taken out since, or not looked for".into()
        }
        MessageState::Unknown => {
            "no trace of it: handled longer ago than what is kept, or never came".into()
        }
    }
}

fn of_outbox(outbox: &Outboxed) -> String {
    let Outboxed {
        service,
        topic,
        until,
        refused,
    } = outbox;
    let mut text = format!("in the outbox of {service}, for {topic}");
    if let Some(until) = until {
        let _infallible = write!(text, ", to be delivered at {until}");
    }
    if let Some(refused) = refused {
        let _infallible = write!(text, ", which can't be published: {refused}");
    }
    text
}
