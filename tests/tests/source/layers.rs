//! Modules import only modules of lower layers.
//!
//! So a reader can learn a crate from its lowest layer up, and no module drags in the whole
//! crate. Exceptions are known faults: the lists may only become shorter.

use std::collections::BTreeSet;

use crate::circles::{Graph, circles};
use crate::imports::Crate;

/// The top-level modules of a crate in layers, the lowest first. A module imports only modules
/// of lower layers, not those of its own.
struct Layers {
    folder: &'static str,
    layers: &'static [&'static [&'static str]],
    /// Imports that break the rule, as (importing module, imported module).
    exceptions: &'static [(&'static str, &'static str)],
}

const RUNTIME: Layers = Layers {
    folder: "runtime/src",
    layers: &[
        &["stderr"],
        &[
            "clock",
            "failure",
            "guide",
            "http",
            "id",
            "lock",
            "log_throttle",
            "names",
            "panic",
            "position",
            "process",
            "rate_limit",
            "redact",
            "service_thread",
        ],
        &["config", "trace_context"],
        &["message"],
        &["dead_letter", "envelope_json", "key"],
        &["delivery", "log", "metrics", "supervision"],
        &["sqlite", "transport"],
        &["dead_letters", "events", "limits", "settings", "store"],
        &["service"],
        &["message_trace", "prelude"],
        &["host"],
        &["status"],
        &["admin", "child_process", "control"],
        &["supervisors"],
        &["app"],
        &["manifest"],
        &["cli", "testing"],
    ],
    exceptions: &[],
};

const BRIDGES: Layers = Layers {
    folder: "bridges/src",
    layers: &[&["embedded", "rabbitmq"]],
    exceptions: &[],
};

const ACTORS: Layers = Layers {
    folder: "actors/src",
    layers: &[
        &[
            "batch",
            "config_errors",
            "json_reader",
            "outage",
            "ports",
            "standard_webhooks",
        ],
        &["expression", "json"],
        &["codec", "key", "log"],
        &[
            "aggregate",
            "chaos",
            "dedup",
            "file_in",
            "file_out",
            "filter",
            "http_client",
            "mail_out",
            "schedule",
            "sql",
        ],
        &[
            "batches",
            "decode",
            "delay",
            "encode",
            "http_call",
            "http_in",
            "map",
            "poll",
            "process",
            "route",
            "split",
            "throttle",
            "validate",
            "webhook_out",
            "zeromq",
        ],
        &["enrich"],
    ],
    exceptions: &[],
};

/// Files of `bridges/src/embedded` that import each other.
const EMBEDDED_CIRCLES: &[&[&str]] = &[];

/// Files of `bridges/src/rabbitmq` that import each other.
const RABBITMQ_CIRCLES: &[&[&str]] = &[];

impl Layers {
    fn layer_of(&self, module: &str) -> Option<usize> {
        self.layers.iter().position(|layer| layer.contains(&module))
    }

    /// Describes each import that breaks the rule, and each exception that no import needs.
    fn problems(&self, graph: &Graph) -> Vec<String> {
        let mut problems = Vec::new();
        let mut unused: BTreeSet<(&str, &str)> = self.exceptions.iter().copied().collect();
        for (from, targets) in graph {
            let Some(own) = self.layer_of(from) else {
                problems.push(format!("{from}: not in the list of layers, add it there"));
                continue;
            };
            for to in targets {
                let lower = self.layer_of(to).is_some_and(|layer| layer < own);
                if !lower && !unused.remove(&(from.as_str(), to.as_str())) {
                    problems.push(format!("{from} imports {to}, which isn't in a lower layer"));
                }
            }
        }
        for module in self.layers.iter().copied().flatten() {
            if !graph.contains_key(*module) {
                problems.push(format!(
                    "{module}: in the list of layers, but not in the crate"
                ));
            }
        }
        for (from, to) in unused {
            problems.push(format!(
                "{from} no longer imports {to}: remove the exception"
            ));
        }
        problems
    }

    fn assert_kept(&self) {
        let read = Crate::read(self.folder);
        print_files_in_circles(self.folder, &read);
        let problems = self.problems(&read.top_level());
        assert!(
            problems.is_empty(),
            "{}:\n{}",
            self.folder,
            problems.join("\n")
        );
    }
}

fn print_files_in_circles(folder: &str, read: &Crate) {
    let circles = circles(&read.every_file());
    let files: usize = circles.iter().map(Vec::len).sum();
    println!("{folder}: {files} files in {} circles", circles.len());
}

/// Asserts that the files of a module have no circles but parts of the known ones.
fn assert_circles(module: &str, known: &[&[&str]]) {
    let found = circles(&Crate::read("bridges/src").files_of(module));
    println!("{module}: {found:?}");
    let is_part =
        |circle: &[String], of: &[&str]| circle.iter().all(|file| of.contains(&file.as_str()));
    for circle in &found {
        let is_known = known.iter().any(|of| is_part(circle, of));
        assert!(
            is_known,
            "{module}: these files import each other: {circle:?}"
        );
    }
    for of in known {
        let is_needed = found.iter().any(|circle| is_part(circle, of));
        assert!(
            is_needed,
            "{module}: no longer a circle, remove the exception: {of:?}"
        );
    }
}

#[test]
fn modules_of_the_runtime_import_lower_layers_only() {
    RUNTIME.assert_kept();
}

#[test]
fn modules_of_the_bridges_import_lower_layers_only() {
    BRIDGES.assert_kept();
}

#[test]
fn modules_of_the_actors_import_lower_layers_only() {
    ACTORS.assert_kept();
}

#[test]
fn files_of_embedded_do_not_import_each_other() {
    assert_circles("embedded", EMBEDDED_CIRCLES);
}

#[test]
fn files_of_rabbitmq_do_not_import_each_other() {
    assert_circles("rabbitmq", RABBITMQ_CIRCLES);
}

#[test]
fn an_upward_import_an_unknown_module_and_an_old_exception_are_reported() {
    let layers = Layers {
        folder: "",
        layers: &[&["low"], &["high"]],
        exceptions: &[("low", "gone")],
    };
    let edges = [("low", "high"), ("high", "low"), ("new", "low")];
    let mut graph = Graph::new();
    for (from, to) in edges {
        graph
            .entry(from.to_owned())
            .or_default()
            .insert(to.to_owned());
    }
    assert_eq!(
        layers.problems(&graph),
        [
            "low imports high, which isn't in a lower layer",
            "new: not in the list of layers, add it there",
            "low no longer imports gone: remove the exception",
        ]
    );
}
