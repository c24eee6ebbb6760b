//! Inspects a broker before an app runs: its version, the user's permissions, and the existing
//! queues.
//!
//! Changes nothing on the broker: see [`Probe`], and `policy_probe`, which creates a queue for a
//! moment. A refusal costs the channel, so every probe has a channel of its own.

use std::sync::Arc;

use brickwork::QueueId;
use brickwork::transport::{
    Inspection, InspectionProblem, Pruned, QueueSpec, Topology, TransportError,
};
use lapin::Connection;
use lapin::types::ShortString;

use super::address::Address;
use super::connection::{Connections, connect_error};
use super::declarer::{EXTERNAL_HELP, refusal};
use super::health::Health;
use super::partition_change::other_partitions;
use super::permission_probe::Probe;
use super::policy_probe::{self, POLICIES_UNKNOWN};
use super::prune;
use super::server_properties::{ServerProperties, read_server_properties};
use super::session_state::SessionState;
use super::topology::{
    Declaration, Step, declarations, due_name, external_declarations, partition_id, partitions,
    queue_name, unroutable_name,
};

/// Inspects the broker, on the current runtime.
///
/// # Errors
/// The broker can't be reached, refuses the login, or goes away.
pub(super) async fn inspect(
    broker: &Address,
    url: &str,
    topology: &Topology,
) -> Result<Inspection, TransportError> {
    // First, so that connection problems are reported as usual.
    let session_state = SessionState::new(Health::new(&Arc::default()));
    let connections = Connections::open(broker, url, &session_state).await?;
    let mut inspector = Inspector {
        connection: &connections.publishing,
        found: Inspection::default(),
    };
    let inspected = async {
        inspector.check_server(
            read_server_properties(&connections.socket)
                .await
                .unwrap_or_default(),
        );
        inspector.check_declarations(topology).await?;
        inspector.check_rights(topology).await?;
        let policy = policy_probe::find(&connections.publishing, &topology.app).await?;
        inspector.found.notes.extend(policy);
        inspector.found.notes.push(POLICIES_UNKNOWN.into());
        let Pruned { notes, leftovers } = prune::find(&connections.publishing, topology).await?;
        inspector.found.notes.extend(notes);
        inspector.found.leftovers = leftovers;
        Ok(())
    }
    .await;
    let found = inspector.found;
    session_state.close();
    connections.close().await;
    inspected.map_err(|error| match error {
        ProbeFailure::Name(error) => error,
        ProbeFailure::Broker(error) => connect_error(url, error),
    })?;
    Ok(found)
}

/// An error that ends an inspection.
enum ProbeFailure {
    Name(TransportError),
    Broker(lapin::Error),
}

impl From<TransportError> for ProbeFailure {
    fn from(error: TransportError) -> Self {
        Self::Name(error)
    }
}

impl From<lapin::Error> for ProbeFailure {
    fn from(error: lapin::Error) -> Self {
        Self::Broker(error)
    }
}

/// The broker's answer to a probe.
enum Answer {
    Done,
    Refused(u16, String),
}

struct Inspector<'a> {
    connection: &'a Connection,
    found: Inspection,
}

impl Inspector<'_> {
    fn check_server(&mut self, server_properties: ServerProperties) {
        let (notes, problem) = version_notes(&server_properties);
        self.found.notes.extend(notes);
        self.found.problems.extend(problem);
        for (capability, use_of_it) in [
            ("publisher_confirms", "publications could not be confirmed"),
            ("basic.nack", "messages could not be requeued"),
            (
                "consumer_cancel_notify",
                "a deleted queue would not be noticed",
            ),
        ] {
            if !server_properties.can(capability) {
                self.found.problems.push(InspectionProblem::new(
                    "the broker",
                    format!("it doesn't offer {capability}: {use_of_it}"),
                    "use a RabbitMQ 3.10 or later",
                ));
            }
        }
        self.found.product = server_properties.product;
        self.found.version = server_properties.version;
    }

    /// Checks which exchanges and queues exist, and their settings.
    async fn check_declarations(&mut self, topology: &Topology) -> Result<(), ProbeFailure> {
        for declaration in declarations(topology)? {
            self.check_declaration(&declaration, true).await?;
        }
        for step in Step::all() {
            // Missing delay queues are declared when they are first used.
            let declaration = step.declaration(&topology.app)?;
            self.check_declaration(&declaration, false).await?;
        }
        Ok(())
    }

    async fn check_declaration(
        &mut self,
        declaration: &Declaration,
        needed: bool,
    ) -> Result<(), ProbeFailure> {
        let what = match declaration {
            Declaration::Exchange { name, .. } => format!("exchange {name}"),
            Declaration::Queue { name, .. } => format!("queue {name}"),
            // AMQP can't query a binding.
            Declaration::Binding { .. }
            | Declaration::PartBinding { .. }
            | Declaration::ExchangeBinding { .. }
            | Declaration::LaterQueue { .. }
            | Declaration::NoBinding { .. }
            | Declaration::NoExchange { .. }
            | Declaration::NoQueue { .. } => return Ok(()),
            Declaration::ExternalQueue { name } => {
                let what = format!("queue {name}");
                return self.check_external(what, declaration).await;
            }
            Declaration::ExternalExchange { name } => {
                let what = format!("exchange {name}");
                return self.check_external(what, declaration).await;
            }
        };
        if !self.is_there(declaration).await? {
            if needed {
                self.found.missing.push(what.clone());
                self.check_right("configure", &what, Probe::MayDeclare(declaration.clone()))
                    .await?;
            }
            return Ok(());
        }
        // An equal declaration changes nothing.
        match self.probe(Probe::Declare(declaration.clone())).await? {
            Answer::Done => self.found.there.push(what),
            Answer::Refused(403, text) => self.report_missing_right("configure", &what, &text),
            Answer::Refused(_, text) => {
                let problem = match other_partitions(&text) {
                    Some(others) => partition_problem(what, others),
                    None => difference(what, &text),
                };
                self.found.problems.push(problem);
            }
        }
        Ok(())
    }

    /// Checks that an external object exists.
    async fn check_external(
        &mut self,
        what: String,
        declaration: &Declaration,
    ) -> Result<(), ProbeFailure> {
        match self.probe(Probe::Passive(declaration.clone())).await? {
            Answer::Done => self.found.there.push(what),
            Answer::Refused(code, text) => {
                let why = match code {
                    404 => "it isn't there, and the app doesn't create it",
                    _ => without_code(&text),
                };
                let problem = InspectionProblem::new(what, why, EXTERNAL_HELP);
                self.found.problems.push(problem);
            }
        }
        Ok(())
    }

    /// Checks the external sources of a queue: they must exist and be readable.
    async fn check_feeds(&mut self, app: &str, spec: &QueueSpec) -> Result<(), ProbeFailure> {
        let queue = queue_name(app, &spec.id)?;
        for declaration in external_declarations(&queue, &spec.feeds)? {
            self.check_declaration(&declaration, true).await?;
            match declaration {
                Declaration::ExternalQueue { name } => {
                    let what = format!("queue {name}");
                    self.check_right("read", &what, Probe::Consume(name))
                        .await?;
                }
                Declaration::Binding {
                    queue, exchange, ..
                } => self.check_bind_rights(queue, exchange).await?,
                _ => {}
            }
        }
        Ok(())
    }

    async fn is_there(&self, declaration: &Declaration) -> Result<bool, ProbeFailure> {
        Ok(!matches!(
            self.probe(Probe::Passive(declaration.clone())).await?,
            Answer::Refused(404, _)
        ))
    }

    /// Checks the permissions to consume, bind and publish.
    async fn check_rights(&mut self, topology: &Topology) -> Result<(), ProbeFailure> {
        let app = &*topology.app;
        let exchange: ShortString = app.into();
        if let Some(step) = Step::all().next() {
            let declaration = step.declaration(app)?;
            if !self.is_there(&declaration).await? {
                let what = format!("queue {}, and those of other delays", step.name(app)?);
                self.check_right("configure", &what, Probe::MayDeclare(declaration))
                    .await?;
            }
        }
        for (name, what) in [
            (exchange.clone(), format!("exchange {app}")),
            ("".into(), "exchange amq.default".into()),
        ] {
            self.check_right("write", &what, Probe::Publish(name))
                .await?;
        }
        let letters = topology.services().map(QueueId::dead_letters);
        let inputs = topology.queues.iter().flat_map(|spec| {
            let parts = partitions(spec).unwrap_or(0);
            let parts = (0..parts).map(|number| partition_id(&spec.id, number));
            std::iter::once(spec.id.clone()).chain(parts)
        });
        let leases = topology.single.iter().map(|source| QueueId::lease(source));
        let names = inputs.chain(letters).chain(leases);
        let names = names.map(|id| queue_name(app, &id));
        for name in names.chain([due_name(app), unroutable_name(app)]) {
            let name = name?;
            let what = format!("queue {name}");
            self.check_right("read", &what, Probe::Consume(name))
                .await?;
        }
        for queue in &topology.queues {
            let name = queue_name(app, &queue.id)?;
            self.check_bind_rights(name, exchange.clone()).await?;
            self.check_feeds(app, queue).await?;
        }
        Ok(())
    }

    async fn check_bind_rights(
        &mut self,
        queue: ShortString,
        exchange: ShortString,
    ) -> Result<(), ProbeFailure> {
        let key = format!("brickwork.check.{}", std::process::id());
        let unbind = Probe::Unbind {
            queue: queue.clone(),
            exchange: exchange.clone(),
            key: key.as_str().into(),
        };
        if let Some(text) = self.forbidden(unbind).await? {
            // Binding needs two permissions: the text names the missing one.
            if text.contains("to exchange") {
                self.report_missing_right("read", &format!("exchange {exchange}"), &text);
            } else {
                self.report_missing_right("write", &format!("queue {queue}"), &text);
            }
        }
        Ok(())
    }

    /// Reports a missing permission.
    async fn check_right(
        &mut self,
        right: &str,
        what: &str,
        probe: Probe,
    ) -> Result<(), ProbeFailure> {
        if let Some(text) = self.forbidden(probe).await? {
            self.report_missing_right(right, what, &text);
        }
        Ok(())
    }

    async fn forbidden(&self, probe: Probe) -> Result<Option<String>, ProbeFailure> {
        Ok(match self.probe(probe).await? {
            Answer::Refused(403, text) => Some(text),
            _ => None,
        })
    }

    fn report_missing_right(&mut self, right: &str, what: &str, text: &str) {
        let said = without_code(text);
        let why = format!("the user lacks the right to {right} it ({said})");
        let help = format!("give the user {right} rights on it: rabbitmqctl set_permissions");
        let problem = InspectionProblem::new(what, why, help);
        if !self.found.problems.contains(&problem) {
            self.found.problems.push(problem);
        }
    }

    /// Sends a probe on a channel of its own.
    async fn probe(&self, probe: Probe) -> Result<Answer, ProbeFailure> {
        let channel = self.connection.create_channel().await?;
        match probe.send(channel.clone()).await {
            Ok(()) => {
                // Closing also undoes anything that was granted unexpectedly.
                channel.close(200, "done".into()).await?;
                Ok(Answer::Done)
            }
            Err(error) => match refusal(&error) {
                Some((code, text)) if self.connection.status().connected() => {
                    Ok(Answer::Refused(code, text.to_owned()))
                }
                _ => Err(error.into()),
            },
        }
    }
}

/// Returns notes and the problem that follow from the broker's product and version.
fn version_notes(server_properties: &ServerProperties) -> (Vec<String>, Option<InspectionProblem>) {
    let Some(product) = &server_properties.product else {
        return (vec!["the broker doesn't name its product".into()], None);
    };
    if product != "RabbitMQ" {
        let note = format!("{product} is not RabbitMQ: this is tested with RabbitMQ only");
        return (vec![note], None);
    }
    let numbers: Vec<u32> = server_properties
        .version
        .iter()
        .flat_map(|version| version.split('.'))
        .map_while(|part| part.parse().ok())
        .collect();
    let (Some(major), Some(minor)) = (numbers.first(), numbers.get(1)) else {
        return (vec!["the broker doesn't name its version".into()], None);
    };
    match (major, minor) {
        (..=2, _) | (3, ..=9) => {
            let old = InspectionProblem::new(
                format!("RabbitMQ {major}.{minor}"),
                "quorum queues that expire messages, and move them at least once, came with 3.10: \
                 retries and dead letters could be lost",
                "use a RabbitMQ 3.10 or later",
            );
            (Vec::new(), Some(old))
        }
        (3, _) => {
            let note = "3.x has no delivery limit by default, and 4.x has: the app's queues set \
                        their own, so that both behave alike";
            (vec![note.into()], None)
        }
        _ => {
            let note = "4.x has a delivery limit of 20 by default, which would drop messages \
                        that caused no crash: the app's queues set their own";
            (vec![note.into()], None)
        }
    }
}

/// Describes different settings, from the broker's text.
fn difference(what: String, text: &str) -> InspectionProblem {
    let said = without_code(text);
    let differs = said
        .split_once("received ")
        .and_then(|(_, values)| values.split_once(" but current is "));
    let argument = said.split('\'').nth(1).unwrap_or("something");
    InspectionProblem {
        what,
        why: format!("it exists with another {argument} ({said})"),
        help: "delete it on the broker once it is empty, or give the app another name; the broker \
               names one difference at a time: there may be more"
            .into(),
        theirs: differs.map(|(_, theirs)| theirs.to_owned()),
        ours: differs.map(|(ours, _)| ours.to_owned()),
    }
}

/// Describes another number of parts of a keyed input.
fn partition_problem(what: String, others: u16) -> InspectionProblem {
    InspectionProblem::new(
        what,
        format!("the input has {others} partitions on the broker, and another number here"),
        format!(
            "a start changes the number once the parts are empty and nothing consumes them: run \
             with partitions = {others} until then"
        ),
    )
}

/// Returns a broker's text without its code.
fn without_code(text: &str) -> &str {
    text.split_once(" - ").map_or(text, |(_, said)| said)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_difference_is_read_from_the_brokers_text() {
        let text = "PRECONDITION_FAILED - inequivalent arg 'x-delivery-limit' for queue 'a.b' in \
                    vhost '/': received the value '1000000' of type 'signedint' but current is \
                    none";
        let problem = difference("queue a.b".into(), text);
        assert!(problem.why.contains("another x-delivery-limit"));
        assert_eq!(problem.theirs.as_deref(), Some("none"));
        let ours = "the value '1000000' of type 'signedint'";
        assert_eq!(problem.ours.as_deref(), Some(ours));
    }

    #[test]
    fn notes_depend_on_the_brokers_version() {
        let of = |version: &str| {
            version_notes(&ServerProperties {
                product: Some("RabbitMQ".into()),
                version: Some(version.into()),
                ..ServerProperties::default()
            })
        };
        assert!(of("3.8.9").1.is_some());
        assert!(of("3.10.8").0[0].starts_with("3.x has no delivery limit"));
        assert!(of("4.0.5+1").0[0].starts_with("4.x has a delivery limit of 20"));
        assert!(of("nightly").0[0].contains("doesn't name its version"));
    }
}
