//! Prints a trace for people: a line for each message and for each input that it came to.

use super::report::{Attempt, EmittedBy, Hop, MessageState, Outboxed, Trace, TracedMessage};
use crate::log::push_visible;

impl Trace {
    /// The trace for people. Control characters in ids and errors are escaped.
    pub fn text(&self) -> String {
        let mut lines = Vec::new();
        match &self.trace_id {
            Some(trace) if self.found => lines.push(format!("trace {trace}")),
            _ => {
                lines.push(format!("{}: no trace of {}", self.app, self.asked));
                lines.push("  its records are gone already, or it never came here".into());
            }
        }
        if !self.came_of.is_empty() {
            let ancestors = self.came_of.join(", which came of ");
            lines.push(format!("came of {ancestors}"));
        }
        for message in &self.messages {
            message.lines("", &mut lines);
        }
        lines.extend(self.cut.iter().map(|cut| format!("there is more: {cut}")));
        lines.extend(self.looked_at.iter().map(|it| format!("looked at {it}")));
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
    fn lines(&self, indent: &str, lines: &mut Vec<String>) {
        let mut heading = indent.to_owned();
        if let Some(EmittedBy {
            service,
            output,
            index,
        }) = &self.by
        {
            heading.push_str(service);
            if let (Some(output), Some(index)) = (output, index) {
                heading.push_str(&format!(".{output} {index}"));
            }
            heading.push_str(" -> ");
        }
        heading.push_str(&self.id);
        if let Some(kind) = &self.kind {
            heading.push_str(&format!(" ({kind})"));
        }
        if !self.topics.is_empty() {
            heading.push_str(&format!(" on {}", self.topics.join(", ")));
        }
        if self.hops.is_empty() && self.outboxes.is_empty() {
            heading.push_str(match self.topics.is_empty() {
                true => ": known only from the messages that it led to",
                false => ": no service of this app reads it",
            });
        }
        lines.push(heading);
        lines.extend(
            self.hops
                .iter()
                .map(|hop| format!("{indent}  {}", hop_text(hop))),
        );
        let outboxes = self.outboxes.iter();
        lines.extend(outboxes.map(|it| format!("{indent}  {}", outbox_text(it))));
        let deeper = format!("{indent}    ");
        self.led_to.iter().for_each(|it| it.lines(&deeper, lines));
    }
}

fn hop_text(hop: &Hop) -> String {
    let mut text = format!("{}.{}: {}", hop.service, hop.input, state_text(&hop.now));
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
    let mut text = format!("{} on attempt {} at {}", it.outcome, it.attempt, it.at);
    match it.took_us {
        0 => {}
        us @ ..1_000 => text.push_str(&format!(", took {us}us")),
        us => text.push_str(&format!(", took {}.{}ms", us / 1_000, us % 1_000 / 100)),
    }
    if it.emitted > 0 {
        text.push_str(&format!(", emitted {}", it.emitted));
    }
    text
}

fn state_text(state: &MessageState) -> String {
    match state {
        MessageState::Done => "done".into(),
        MessageState::Expired => "expired: its deadline passed before it was handled".into(),
        MessageState::Waiting { ahead: Some(ahead) } => format!("waiting, {ahead} before it"),
        MessageState::Waiting { ahead: None } => "waiting".into(),
        MessageState::InFlight { handled, attempt } => match handled {
            true => format!("being handled, attempt {attempt}"),
            false => format!("in flight, for attempt {attempt}"),
        },
        MessageState::Suspect { attempt } => {
            format!(
                "suspect: in flight when a process died, will be retried alone, attempt {attempt}"
            )
        }
        MessageState::Delayed { until, attempt } => {
            format!("waits until {until} for attempt {attempt}")
        }
        MessageState::DeadLettered {
            reason: Some(reason),
            error: Some(error),
            attempts: Some(attempts),
            at: Some(at),
        } => format!("dead-lettered: {reason}: {error} (after attempt {attempts}, at {at})"),
        MessageState::DeadLettered { .. } => "dead-lettered; no record says why".into(),
        MessageState::Unknown => "unknown: no record says where it is".into(),
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
