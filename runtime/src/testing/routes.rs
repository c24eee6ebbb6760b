//! The names that a test may use, and their topics.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::app::Plan;
use crate::service::PortTable;

/// The port names of a test, each with its topic.
#[derive(Clone)]
pub(super) struct Routes {
    /// The owner of the names, for error texts.
    owner: Owner,
    takes: BTreeMap<Arc<str>, Arc<str>>,
    gives: BTreeMap<Arc<str>, Arc<str>>,
}

#[derive(Clone)]
enum Owner {
    /// Names are ports of this service.
    Service(Arc<str>),
    /// Names are topics.
    App,
}

impl Routes {
    /// Each port of the service is connected to the topic of its name. If an input and an
    /// output share a name, the output gets another topic: otherwise it would feed the input.
    pub(super) fn of_service(label: &str, ports: &PortTable) -> Self {
        let inputs = ports.inputs.iter().map(|input| input.name.clone());
        let takes: BTreeMap<_, _> = inputs.map(|name| (name.clone(), name)).collect();
        let outputs = ports.outputs.iter().map(|output| {
            let name = output.name.clone();
            match takes.contains_key(&name) {
                true => (name.clone(), format!("{name}.out").into()),
                false => (name.clone(), name),
            }
        });
        Self {
            owner: Owner::Service(label.into()),
            gives: outputs.collect(),
            takes,
        }
    }

    /// The names of a whole app are its topics.
    pub(super) fn of_app(plan: &Plan) -> Self {
        let services = || plan.services.iter();
        let topics = |ports: &[crate::service::WiredPort]| -> Vec<(Arc<str>, Arc<str>)> {
            let topics = ports.iter().flat_map(|port| port.topics.iter());
            topics.map(|topic| (topic.clone(), topic.clone())).collect()
        };
        Self {
            owner: Owner::App,
            takes: services().flat_map(|s| topics(&s.inputs)).collect(),
            gives: services().flat_map(|s| topics(&s.outputs)).collect(),
        }
    }

    /// The wiring of a service under test, as a part of a manifest.
    pub(super) fn wiring(&self) -> String {
        let mut text = String::new();
        for (side, routes) in [("in", &self.takes), ("out", &self.gives)] {
            for (port, topic) in routes {
                text.push_str(&format!("{side}.{port} = {topic:?}\n"));
            }
        }
        for (side, routes) in [("in", &self.takes), ("out", &self.gives)] {
            for topic in routes.values() {
                text.push_str(&format!("[topics.{topic:?}]\nexternal = {side:?}\n"));
            }
        }
        text
    }

    /// The topic to send to.
    pub(super) fn takes(&self, name: &str) -> Result<Arc<str>, String> {
        self.takes.get(name).cloned().ok_or_else(|| {
            self.unknown(
                name,
                &self.takes,
                "has no input",
                "no service reads the topic",
            )
        })
    }

    /// The topic to expect from.
    pub(super) fn gives(&self, name: &str) -> Result<Arc<str>, String> {
        self.gives.get(name).cloned().ok_or_else(|| {
            self.unknown(
                name,
                &self.gives,
                "has no output",
                "no service feeds the topic",
            )
        })
    }

    fn unknown(
        &self,
        name: &str,
        known: &BTreeMap<Arc<str>, Arc<str>>,
        of_service: &str,
        of_app: &str,
    ) -> String {
        let known: Vec<&str> = known.keys().map(|name| &**name).collect();
        let known = match known.is_empty() {
            true => "there are none".to_owned(),
            false => format!("there are: {}", known.join(", ")),
        };
        match &self.owner {
            Owner::Service(label) => format!("{label} {of_service} `{name}`; {known}"),
            Owner::App => format!("{of_app} `{name}`; {known}"),
        }
    }

    /// The topics that services read.
    pub(super) fn read(&self) -> BTreeSet<Arc<str>> {
        self.takes.values().cloned().collect()
    }
}
