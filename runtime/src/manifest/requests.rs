//! Finds requests that no service answers: their callers would get `null`, or wait in vain.

use super::codes;
use super::report::Problems;
use super::suggest::list;
use super::table_reader::Section;
use crate::app::Plan;

/// Reports each request to a topic whose readers never reply. Readers of other apps may.
pub(super) fn check(top: &Section<'_>, plan: &Plan, out: &mut Problems) {
    for service in &plan.services {
        let ports = &service.blueprint.ports().outputs;
        let requests = service.outputs.iter().zip(ports);
        for (wired, _) in requests.filter(|(_, port)| port.awaits_value) {
            let Some(topic) = wired.topics.first() else {
                continue;
            };
            if plan.external.contains(topic) {
                continue;
            }
            let mut silent: Vec<&str> = Vec::new();
            let mut is_answered = false;
            for reader in &plan.services {
                let specs = &reader.blueprint.ports().inputs;
                let inputs = reader.inputs.iter().zip(specs);
                for (_, spec) in inputs.filter(|(input, _)| input.topics.contains(topic)) {
                    is_answered |= spec.reply.is_some();
                    silent.push(&reader.label);
                }
            }
            if is_answered || silent.is_empty() {
                continue;
            }
            let place = top.place_at(&["services", &service.label, "out", &wired.name]);
            let message = format!(
                "`{}` asks for replies on `{topic}`, and no service that reads it replies: {}",
                service.label,
                list(silent)
            );
            let help = "connect a service that replies, such as `process`, `map` or one of your \
                        own; or don't ask (`reply` of http-in)";
            out.add(codes::NO_REPLY, place, message, Some(help.to_owned()));
        }
    }
}
