//! Prints a trace for people: a line for each message and for each input that it came to.

use super::report::{Attempt, Hop, MessageState, Outboxed, Trace, TracedMessage};
use crate::log::push_visible;
use crate::redact::Redactor;

/// Messages of one output without any record that are printed; the others are counted.
const UNKNOWN_SHOWN_MAX: usize = 3;

impl Trace {
    /// The same without secrets.
    pub(super) fn clean(mut self, redactor: &Redactor) -> Self {
        let clean = |text: &mut String| *text = redactor.clean(text).into_owned();
        clean(&mut self.asked);
        let texts = self.came_of.iter_mut().chain(&mut self.looked_at);
        texts.chain(&mut self.missed).for_each(clean);
        self.messages.iter_mut().for_each(|it| it.clean(&clean));
        self
    }

    /// The trace for people. Control characters in ids and errors are escaped.
    pub fn text(&self) -> String {
        let mut lines = Vec::new();
        if !self.found {
            lines.push(format!("{}: no trace of {}", self.app, self.asked));
            lines.push("  its records are gone already, or it never came here".into());
        }
        if let Some(trace) = self.trace_id.as_ref().filter(|_| self.found) {
            lines.push(format!("trace {trace}"));
        }
        if !self.came_of.is_empty() {
            let ancestors = self.came_of.join(", which came of ");
            lines.push(format!("came of {ancestors}"));
        }
        for message in &self.messages {
            message.lines(0, &mut lines);
        }
        if let Some(cut) = &self.cut {
            lines.push(format!("there is more: {cut}"));
        }
        // The sources matter only where something is unknown.
        if !self.found || self.messages.iter().any(TracedMessage::has_gaps) {
            lines.extend(self.looked_at.iter().map(|it| format!("looked at {it}")));
        }
        lines.extend(self.missed.iter().map(|it| format!("not looked at: {it}")));
        let mut text = String::new();
        for line in lines {
            push_visible(&mut text, &line);
            text.push('\n');
        }
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

    /// Whether the state of this message, or of one that it led to, is not known.
    fn has_gaps(&self) -> bool {
        let gaps = [MessageState::Unknown, MessageState::Handled];
        let has_gap = self.hops.iter().any(|hop| gaps.contains(&hop.now));
        has_gap || self.led_to.iter().any(Self::has_gaps)
    }

    fn is_unknown(&self) -> bool {
        let unknown = self.hops.iter().all(|hop| hop.now == MessageState::Unknown);
        unknown && self.outboxes.is_empty() && self.led_to.is_empty() && !self.shown_before
    }

    fn lines(&self, depth: usize, lines: &mut Vec<String>) {
        let indent = "    ".repeat(depth);
        let mut heading = format!("{indent}{}", self.heading());
        if self.shown_before {
            heading.push_str(": shown above");
            return lines.push(heading);
        }
        if self.hops.is_empty() && self.outboxes.is_empty() {
            heading.push_str(match self.topics.is_empty() {
                true => ": known only from the messages that it led to",
                false => ": no service of this app reads it",
            });
        }
        lines.push(heading);
        let hops = self
            .hops
            .iter()
            .map(|hop| format!("{indent}  {}", hop_text(hop)));
        lines.extend(hops);
        let outboxes = self.outboxes.iter();
        lines.extend(outboxes.map(|it| format!("{indent}  {}", outbox_text(it))));
        let output = |child: &Self| {
            let by = child.by.as_ref();
            by.map(|by| (by.service.clone(), by.output.clone()))
        };
        let is_alike =
            |a: &Self, b: &Self| a.is_unknown() && b.is_unknown() && output(a) == output(b);
        for alike in self.led_to.chunk_by(is_alike) {
            let shown = alike.len().min(UNKNOWN_SHOWN_MAX);
            alike[..shown]
                .iter()
                .for_each(|it| it.lines(depth + 1, lines));
            if alike.len() > shown {
                let more = alike.len() - shown;
                lines.push(format!("{indent}    {more} more like this"));
            }
        }
    }

    fn heading(&self) -> String {
        let mut text = String::new();
        if let Some(by) = &self.by {
            text.push_str(&by.service);
            if let (Some(output), Some(index)) = (&by.output, by.index) {
                text.push_str(&format!(".{output} {index}"));
            }
            text.push_str(" -> ");
        }
        text.push_str(&self.id);
        if let Some(kind) = &self.kind {
            text.push_str(&format!(" ({kind})"));
        }
        if !self.topics.is_empty() {
            text.push_str(&format!(" on {}", self.topics.join(", ")));
        }
        text
    }
}

fn hop_text(hop: &Hop) -> String {
    let state = match hop.now {
        MessageState::Unknown if !hop.attempts.is_empty() => {
            "unknown since its last attempt".to_owned()
        }
        ref now => state_text(now),
    };
    let mut text = format!("{}.{}: {state}", hop.service, hop.input);
    if let Some((last, before)) = hop.attempts.split_last() {
        text.push_str(&format!("; {}", attempt_text(last)));
        let before = before.iter();
        let before: Vec<String> = before
            .map(|it| format!("{} on {}", it.outcome, it.attempt))
            .collect();
        if !before.is_empty() {
            text.push_str(&format!(", before that {}", before.join(", ")));
        }
    }
    if let Some(at) = &hop.stored_at {
        text.push_str(&format!("; in its inbox since {at}"));
    }
    text
}

fn attempt_text(it: &Attempt) -> String {
    let took = match it.took_us {
        0 => String::new(),
        us @ ..1_000 => format!(", took {us}us"),
        us @ ..1_000_000 => format!(", took {}.{}ms", us / 1_000, us % 1_000 / 100),
        us => format!(", took {}.{}s", us / 1_000_000, us % 1_000_000 / 100_000),
    };
    let Attempt {
        attempt,
        outcome,
        at,
        ..
    } = it;
    format!("{outcome} on attempt {attempt} at {at}{took}")
}

fn state_text(state: &MessageState) -> String {
    match state {
        MessageState::Done => "done".into(),
        MessageState::Handled => {
            "handled at least once, since it led to a message; the queues can't be read, so it \
             may come again"
                .into()
        }
        MessageState::Expired => "expired: its deadline passed before it was handled".into(),
        MessageState::Waiting { ahead: Some(ahead) } => format!("waiting, {ahead} before it"),
        MessageState::Waiting { ahead: None } => "waiting".into(),
        MessageState::InFlight {
            handled: true,
            attempt,
        } => format!("being handled, attempt {attempt}"),
        MessageState::InFlight {
            handled: false,
            attempt,
        } => format!("in flight, for attempt {attempt}"),
        MessageState::Suspect { attempt } => {
            format!(
                "suspect: in flight when a process died, will be retried alone, attempt {attempt}"
            )
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
                text.push_str(&format!(": {reason}"));
            }
            if let Some(error) = error {
                text.push_str(&format!(": {error}"));
            }
            if let (Some(attempts), Some(at)) = (attempts, at) {
                text.push_str(&format!(" (after attempt {attempts}, at {at})"));
            }
            text
        }
        MessageState::GivenUp => {
            "dead-lettered, but its dead letter was removed or could not be read".into()
        }
        MessageState::Unknown => "unknown: its records are gone, or it never came".into(),
    }
}

fn outbox_text(outbox: &Outboxed) -> String {
    let mut text = format!("in the outbox of {}, for {}", outbox.service, outbox.topic);
    if let Some(until) = &outbox.until {
        text.push_str(&format!(", to be delivered at {until}"));
    }
    if let Some(refused) = &outbox.refused {
        text.push_str(&format!(", can't be published: {refused}"));
    }
    text
}
