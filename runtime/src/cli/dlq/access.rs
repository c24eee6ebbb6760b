//! Access to the dead letters of an app: in this process over the transport, or in the running
//! app over its control socket. Either performs the same requests.

use std::future::pending;
use std::path::PathBuf;
use std::sync::Arc;

use super::Problem;
use crate::app::Plan;
use crate::cli::connection::{close, connect};
use crate::control;
use crate::dead_letters::{DeadLetters, DlqAction, DlqReport, DlqRequest};
use crate::transport::{Transport, TransportError, Transports, scheme_of};

/// The dead letters of an app.
pub(super) struct DlqAccess {
    location: Location,
    services: Vec<String>,
}

/// The process that performs requests.
enum Location {
    /// This one.
    Local(Arc<dyn Transport>, DeadLetters),
    /// The app with this data folder.
    Remote(PathBuf),
}

impl DlqAccess {
    /// Opens the dead letters: over a transport that processes share; otherwise in the app, if
    /// it runs; otherwise in the files of a durable transport.
    pub(super) async fn open(plan: &Plan, transports: &Transports) -> Result<Self, Problem> {
        let url = &plan.transport;
        let connector = transports.for_url(url);
        let connector = connector.expect("the manifest was checked");
        let guarantees = connector.guarantees(scheme_of(url));
        let is_shared = guarantees.crosses_processes;
        let location = if !is_shared && control::is_running(plan.data()).await? {
            Location::Remote(plan.data().to_owned())
        } else if is_shared || guarantees.durable {
            let (transport, letters) = connect(plan, connector).await?;
            Location::Local(transport, letters)
        } else {
            return Err(Problem::failed(format!(
                "no app is running with the data folder {}, and dead letters on {}: are lost \
                 with the process that runs the app: use a durable transport such as amqp: to \
                 keep them",
                plan.data().display(),
                scheme_of(url)
            )));
        };
        let services = plan.topology().services().map(str::to_owned).collect();
        Ok(Self { location, services })
    }

    /// The named service, or all services with a dead-letter queue.
    pub(super) fn services(&self, named: Option<&str>) -> Vec<String> {
        match named {
            Some(named) => vec![named.to_owned()],
            None => self.services.clone(),
        }
    }

    /// Performs a request. When `stop` resolves, removing letters ends early, in order.
    pub(super) async fn perform(
        &self,
        service: &str,
        action: DlqAction,
        stop: impl Future<Output = ()>,
    ) -> Result<DlqReport, Problem> {
        let request = DlqRequest::new(service, action);
        match &self.location {
            Location::Local(_, letters) => Ok(letters.perform(&request, stop).await?),
            Location::Remote(data) => Ok(control::perform(data, &request, stop).await?),
        }
    }

    /// Performs a request that changes nothing.
    pub(super) async fn read(
        &self,
        service: &str,
        action: DlqAction,
    ) -> Result<DlqReport, Problem> {
        self.perform(service, action, pending()).await
    }

    /// Performs a request that changes nothing for the named service or for all services,
    /// without those whose queue does not exist: they have never given up a message.
    pub(super) async fn read_each(
        &self,
        named: Option<&str>,
        action: &DlqAction,
    ) -> Result<Vec<(String, DlqReport)>, Problem> {
        let mut reports = Vec::new();
        for service in self.services(named) {
            match self.read(&service, action.clone()).await {
                Ok(report) => reports.push((service, report)),
                Err(problem) if problem.no_queue && named.is_none() => {}
                Err(problem) => return Err(problem),
            }
        }
        Ok(reports)
    }

    /// Closes the connection to the transport.
    pub(super) async fn close(self) {
        if let Location::Local(transport, letters) = self.location {
            drop(letters);
            close(&*transport).await;
        }
    }
}

impl From<TransportError> for Problem {
    fn from(error: TransportError) -> Self {
        match error {
            TransportError::NoQueue(queue) => Self::no_queue(format!(
                "there is no queue {queue} on the transport: has the app run there?"
            )),
            error => Self::failed(error.to_string()),
        }
    }
}

impl From<control::ControlError> for Problem {
    fn from(error: control::ControlError) -> Self {
        match error {
            control::ControlError::NoQueue(_) => Self::no_queue(error.to_string()),
            error => Self::failed(error.to_string()),
        }
    }
}

#[cfg(test)]
mod tests;
