//! Warns of settings that can't act, and of groups that `--only` splits over processes.

use super::codes;
use super::report::Problems;
use super::suggest::list;
use super::table_reader::Section;
use crate::app::{Plan, ServicePlan};
use crate::service::Kind;
use crate::supervision::{GiveUpPolicy, RestartType};

/// Adds the warnings of a plan without problems.
pub(super) fn check(top: &Section<'_>, plan: &Plan, out: &mut Problems) {
    for service in &plan.services {
        restart(top, service, out);
    }
    for group in &plan.groups {
        let members: Vec<&ServicePlan> = group
            .services
            .iter()
            .map(|it| &plan.services[*it])
            .collect();
        if members.iter().all(|service| !escalates(service)) {
            let name = &*group.name;
            for key in ["strategy", "max_restarts", "within"] {
                let why = "no service of the group escalates: each is `temporary`, or has \
                           `on_give_up = \"isolate\"`";
                warn(top, &["groups", name, key], why, out);
            }
        }
        let here = members.iter().filter(|service| service.runs_here);
        let here: Vec<&str> = here.map(|service| &*service.label).collect();
        if !here.is_empty() && here.len() < members.len() {
            let elsewhere = members.iter().filter(|service| !service.runs_here);
            let message = format!(
                "the group `{}` is split over processes: {} here, without {}; each process restarts \
                 its own services only",
                group.name,
                list(here),
                list(elsewhere.map(|service| &*service.label)),
            );
            let help = "name all services of the group in `--only`, or none".to_owned();
            let at = top.place_at(&["groups", &group.name, "services"]);
            out.add(codes::SPLIT_GROUP, at, message, Some(help));
        }
    }
    if plan.groups.is_empty() && plan.services.iter().all(|service| !escalates(service)) {
        for key in ["strategy", "max_restarts", "within"] {
            let why = "there is no group, and no service has `on_give_up = \"escalate\"`";
            warn(top, &["supervision", key], why, out);
        }
    }
}

/// Warns of keys in `services.S.restart` that can't act.
fn restart(top: &Section<'_>, service: &ServicePlan, out: &mut Problems) {
    let label = &*service.label;
    let restart = &service.settings.restart;
    let is_source = matches!(service.blueprint.role(), Kind::Source(_));
    let mut warn = |key, why| warn(top, &["services", label, "restart", key], why, out);
    if restart.restart_type == RestartType::Temporary {
        for key in ["max_restarts", "within", "on_give_up"] {
            warn(key, "a `temporary` service is never restarted");
        }
    } else if restart.intensity.max_restarts == 0 {
        warn(
            "within",
            "without any restart (`max_restarts = 0`) there is nothing to count",
        );
    }
    if is_source {
        warn("on_panic", "it is about handlers, and a source has none");
    } else if restart.restart_type == RestartType::Transient {
        warn(
            "policy",
            "only a source can reach its end, so this is the same as `permanent`",
        );
    }
}

/// Whether the supervisor above ever gets to decide about a service.
fn escalates(service: &ServicePlan) -> bool {
    let restart = &service.settings.restart;
    restart.restart_type != RestartType::Temporary
        && restart.give_up == Some(GiveUpPolicy::Escalate)
}

/// Warns that a key has no effect, if the manifest has it.
fn warn(top: &Section<'_>, path: &[&str], why: &str, out: &mut Problems) {
    if let Some(place) = top.find(path) {
        let message = format!("`{}` has no effect: {why}", path.join("."));
        out.add(
            codes::NO_EFFECT,
            place,
            message,
            Some("remove it".to_owned()),
        );
    }
}
