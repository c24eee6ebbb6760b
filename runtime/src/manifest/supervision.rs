//! Reads `[supervision]`, `[groups.G]` and `services.S.restart`.

use std::time::Duration;

use super::codes;
use super::report::Problems;
use super::settings::{DURATION_MIN, backoff};
use super::source::Span;
use super::spanned_toml::{Entry, Node, Value};
use super::suggest::{self, quote};
use super::table_reader::Section;
use crate::app::{GroupPlan, ServicePlan, SupervisorPlan};
use crate::names::check_name;
use crate::settings::RestartSettings;
use crate::supervision::{GiveUpPolicy, Intensity, OnPanic, RestartPolicy, RestartType, Strategy};

const RESTARTS_MAX: u64 = 1_000_000;
const TYPES: [(&str, RestartType); 3] = [
    ("permanent", RestartType::Permanent),
    ("transient", RestartType::Transient),
    ("temporary", RestartType::Temporary),
];
const ROOT: SupervisorPlan = SupervisorPlan {
    strategy: Strategy::OneForOne,
    intensity: Intensity {
        max_restarts: 10,
        within: Duration::from_secs(60),
    },
};
const GROUP: SupervisorPlan = SupervisorPlan {
    strategy: Strategy::OneForAll,
    intensity: Intensity {
        max_restarts: 5,
        within: Duration::from_secs(60),
    },
};
pub(super) fn read_restart(
    service: &Section<'_>,
    default: RestartSettings,
    out: &mut Problems,
) -> RestartSettings {
    let restart = service.section("restart", out);
    let known = [
        "policy",
        "max_restarts",
        "within",
        "backoff",
        "on_give_up",
        "on_panic",
    ];
    restart.check_keys(&known, &[], out);
    let waits = restart.section("backoff", out);
    waits.check_keys(&["min", "max", "jitter", "reset_after"], &[], out);
    let give_up = restart.one_of("on_give_up", &["isolate", "escalate"], out);
    let on_panic = restart.one_of("on_panic", &["instance", "service"], out);
    RestartSettings {
        policy: RestartPolicy {
            backoff: backoff(&waits, default.policy.backoff, DURATION_MIN, out),
            reset_after: waits
                .duration("reset_after", DURATION_MIN, out)
                .unwrap_or(default.policy.reset_after),
        },
        restart_type: restart
            .one_of("policy", &TYPES.map(|(name, _)| name), out)
            .map_or(default.restart_type, |index| TYPES[index].1),
        intensity: intensity(&restart, default.intensity, out),
        give_up: match give_up {
            Some(0) => Some(GiveUpPolicy::Isolate),
            Some(_) => Some(GiveUpPolicy::Escalate),
            None => default.give_up,
        },
        on_panic: match on_panic {
            Some(1) => OnPanic::Service,
            _ => default.on_panic,
        },
    }
}

pub(super) fn read_root(top: &Section<'_>, out: &mut Problems) -> SupervisorPlan {
    let root = top.section("supervision", out);
    root.check_keys(&["strategy", "max_restarts", "within"], &[], out);
    supervisor(&root, ROOT, out)
}

/// Reads the groups. `labels` holds every service, including services with problems. A group has
/// its members in the order of its list, and a member that gives up escalates by default: an
/// isolated one would leave the group half alive.
pub(super) fn read_groups(
    top: &Section<'_>,
    labels: &[&str],
    services: &mut [ServicePlan],
    out: &mut Problems,
) -> Vec<GroupPlan> {
    let groups = top.section("groups", out);
    // Services that are in a group, and the group.
    let mut taken: Vec<(&str, &str)> = Vec::new();
    let mut plans = Vec::new();
    for entry in &groups.table.entries {
        let name = entry.key.as_str();
        if let Err(why) = check_name(name) {
            let message = format!("{} can't be a group's name: {why}", quote(name));
            out.add(codes::BAD_NAME, entry.key_span, message, None);
        }
        let group = groups.section(name, out);
        if !matches!(entry.node.value, Value::Table(_)) {
            continue;
        }
        let known = ["services", "strategy", "max_restarts", "within"];
        group.check_keys(&known, &[], out);
        let supervisor = supervisor(&group, GROUP, out);
        let mut listed = Vec::new();
        for (label, span) in members(&group, labels, out) {
            match taken.iter().find(|(member, _)| *member == label) {
                Some((_, other)) => repeated(&group, label, other, name, span, out),
                None => {
                    taken.push((label, name));
                    listed.extend(services.iter().position(|it| *it.label == *label));
                }
            }
        }
        for member in &listed {
            let restart = &mut services[*member].settings.restart;
            restart.give_up.get_or_insert(GiveUpPolicy::Escalate);
        }
        plans.push(GroupPlan {
            name: name.into(),
            services: listed,
            supervisor,
        });
    }
    plans
}

/// Returns the labels that a group names. Leaves unknown services out and reports them.
fn members<'a>(group: &Section<'a>, labels: &[&str], out: &mut Problems) -> Vec<(&'a str, Span)> {
    let Some(entry) = group.table.get("services") else {
        let help = "list the services of the group: `services = [\"LABEL\", ...]`";
        group.missing("services", help, out);
        return Vec::new();
    };
    let Value::Array(items) = &entry.node.value else {
        group.wrong_type(entry, "a list of labels", out);
        return Vec::new();
    };
    if items.is_empty() {
        group.bad(entry, "must name at least one service", out);
    }
    let items = items.iter();
    items
        .filter_map(|item| Some((label(group, entry, item, labels, out)?, item.span)))
        .collect()
}

fn label<'a>(
    group: &Section<'_>,
    list: &Entry,
    item: &'a Node,
    labels: &[&str],
    out: &mut Problems,
) -> Option<&'a str> {
    let Value::String(label) = &item.value else {
        let got = item.kind();
        group.wrong_value_type(&list.key, item.span, got, "a list of labels", out);
        return None;
    };
    is_service(label, item.span, labels, out).then_some(label)
}

/// Returns whether a service has this label; reports the label if not.
pub(super) fn is_service(label: &str, span: Span, labels: &[&str], out: &mut Problems) -> bool {
    let known = labels.contains(&label);
    if !known {
        let message = format!("no service has the label {}", quote(label));
        let help = suggest::help(label, labels.iter().copied(), "the services");
        out.add(codes::UNKNOWN_SERVICE, span, message, help);
    }
    known
}

fn repeated(
    group: &Section<'_>,
    label: &str,
    other: &str,
    name: &str,
    span: Span,
    out: &mut Problems,
) {
    let services = group.name("services");
    let (message, help) = match other == name {
        true => (format!("`{services}` names `{label}` twice"), "remove one"),
        false => (
            format!("`{services}`: `{label}` is in the group `{other}` already"),
            "a service has one supervisor: remove it from one of the groups",
        ),
    };
    out.add(codes::REPEATED_SERVICE, span, message, Some(help.into()));
}

fn supervisor(
    section: &Section<'_>,
    default: SupervisorPlan,
    out: &mut Problems,
) -> SupervisorPlan {
    SupervisorPlan {
        strategy: section
            .one_of("strategy", &Strategy::ALL.map(Strategy::as_str), out)
            .map_or(default.strategy, |index| Strategy::ALL[index]),
        intensity: intensity(section, default.intensity, out),
    }
}

fn intensity(section: &Section<'_>, default: Intensity, out: &mut Problems) -> Intensity {
    Intensity {
        max_restarts: section
            .integer("max_restarts", 0..=RESTARTS_MAX, out)
            .map_or(default.max_restarts, |restarts| restarts as u32),
        within: section
            .duration("within", DURATION_MIN, out)
            .unwrap_or(default.within),
    }
}
