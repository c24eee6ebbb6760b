//! Inspections: the state of a transport and of an app's queues before the app runs.
//!
//! Plain data: transports collect it, the command line prints it.

use serde::Serialize;

use super::StaleResource;

/// Result of inspecting the transport of an app.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Inspection {
    /// Name of the broker, such as `RabbitMQ`. `None` if there is no broker or it does not say.
    pub product: Option<String>,
    /// Version of the broker.
    pub version: Option<String>,
    /// Remarks, and checks that were not possible.
    pub notes: Vec<String>,
    /// Resources that exist as required.
    pub there: Vec<String>,
    /// Resources that don't exist and would be created.
    pub missing: Vec<String>,
    /// Resources that earlier manifests of the app left behind, as far as they are known.
    pub leftovers: Vec<StaleResource>,
    /// Problems that keep the app from running, or from running well.
    pub problems: Vec<InspectionProblem>,
}

/// A problem with one resource.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct InspectionProblem {
    /// The queue, exchange or other resource.
    pub what: String,
    /// The problem.
    pub why: String,
    /// The remedy.
    pub help: String,
    /// The property on the broker, if it differs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub theirs: Option<String>,
    /// The property that the app needs, if it differs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ours: Option<String>,
}

impl InspectionProblem {
    /// Returns a problem without a differing property.
    pub fn new(what: impl Into<String>, why: impl Into<String>, help: impl Into<String>) -> Self {
        Self {
            what: what.into(),
            why: why.into(),
            help: help.into(),
            theirs: None,
            ours: None,
        }
    }
}

impl Inspection {
    /// Returns the inspection of a transport without a broker.
    pub fn nothing_to_ask(scheme: &str) -> Self {
        Self {
            notes: vec![format!(
                "{scheme}: created when the app starts: there is nothing to inspect before"
            )],
            ..Self::default()
        }
    }
}
