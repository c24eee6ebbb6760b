//! What a transport says of itself and of an app's queues, before the app runs.
//!
//! Plain data: transports find it out, the command line prints it.

use serde::Serialize;

use super::StaleResource;

/// What was found where an app's messages are to go.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Inspection {
    /// Who answered, such as `RabbitMQ`; `None` if it doesn't say, or nobody had to.
    pub product: Option<String>,
    /// In which version.
    pub version: Option<String>,
    /// What follows from that, and what can't be found out.
    pub notes: Vec<String>,
    /// What is there as it must be.
    pub there: Vec<String>,
    /// What isn't there and would be made.
    pub missing: Vec<String>,
    /// What earlier manifests of the app left there, as far as that is known.
    pub leftovers: Vec<StaleResource>,
    /// What is in the way: the app would not run, or not well.
    pub problems: Vec<InspectionProblem>,
}

/// Something that is in an app's way on its transport.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct InspectionProblem {
    /// The queue, exchange or other thing.
    pub what: String,
    /// What is wrong with it.
    pub why: String,
    /// What to do.
    pub help: String,
    /// What the broker has, where that differs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub theirs: Option<String>,
    /// What the app needs, where that differs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ours: Option<String>,
}

impl Inspection {
    /// Of a transport that has nobody to ask.
    pub fn nothing_to_ask(scheme: &str) -> Self {
        Self {
            notes: vec![format!(
                "{scheme}: is made when the app starts: there is nobody to ask before"
            )],
            ..Self::default()
        }
    }
}
