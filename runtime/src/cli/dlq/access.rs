//! Where the letters are: on a transport that this process reaches by itself, or with the
//! running app, which is asked over its control socket. What is done is the same.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::Problem;
use crate::app::Plan;
use crate::control;
use crate::dead_letters::{
    Bounds, DeadLetters, Destination, DlqStats, Groups, Outcome, RemoveOptions, Report, Selection,
    Task, Views,
};
use crate::transport::{Backpressure, Transport, TransportError, Transports, scheme_of};

/// For saying good-bye to the transport.
const CLOSE_WITHIN: Duration = Duration::from_secs(10);

/// A place where dead letters are worked on.
pub(super) struct DlqAccess {
    place: Place,
    services: Vec<String>,
}

enum Place {
    /// In this process.
    Here(Arc<dyn Transport>, DeadLetters),
    /// In the app that has this data folder.
    There(PathBuf),
}

impl DlqAccess {
    /// The one of an app: over the transport, if processes share it; else with the app, if
    /// it runs; else with what it left behind, if that outlives it.
    pub(super) async fn open(plan: &Plan, transports: &Transports) -> Result<Self, Problem> {
        let url = &plan.transport;
        let connector = transports.for_url(url);
        let connector = connector.expect("the manifest was checked");
        let scheme = scheme_of(url);
        let guarantees = connector.guarantees(scheme);
        let topology = plan.topology();
        let services = topology.services().map(str::to_owned).collect();
        let there = !guarantees.crosses_processes && control::is_running(plan.data()).await?;
        let place = if there {
            Place::There(plan.data().to_owned())
        } else if guarantees.crosses_processes || guarantees.durable {
            let connecting = connector.connect(url, Arc::<Backpressure>::default());
            let transport = connecting.await?;
            let letters = DeadLetters::open(transport.clone(), topology).await;
            let letters = match letters {
                Ok(letters) => letters.redacting(plan.redactor.clone()),
                Err(error) => {
                    close(&*transport).await;
                    return Err(error.into());
                }
            };
            Place::Here(transport, letters)
        } else {
            return Err(Problem::failed(format!(
                "no app is running with the data folder {}, and dead letters on {scheme}: go \
                 with the process that runs it: a transport that keeps them is durable, such \
                 as amqp:",
                plan.data().display()
            )));
        };
        Ok(Self { place, services })
    }

    /// The services that are meant: the one that is named, or all that have letters.
    pub(super) fn services(&self, named: Option<&str>) -> Vec<String> {
        match named {
            Some(named) => vec![named.to_owned()],
            None => self.services.clone(),
        }
    }

    pub(super) async fn census(&self, service: &str, bounds: Bounds) -> Result<DlqStats, Problem> {
        let service = service.to_owned();
        match self.look(Task::DlqStats { service, bounds }).await? {
            Report::DlqStats(census) => Ok(census),
            _ => Err(Problem::odd()),
        }
    }

    pub(super) async fn groups(&self, service: &str, bounds: Bounds) -> Result<Groups, Problem> {
        let service = service.to_owned();
        match self.look(Task::Groups { service, bounds }).await? {
            Report::Groups(groups) => Ok(groups),
            _ => Err(Problem::odd()),
        }
    }

    pub(super) async fn find(
        &self,
        service: &str,
        selection: &Selection,
        limit: usize,
        payload_bytes_max: usize,
        bounds: Bounds,
    ) -> Result<Views, Problem> {
        let task = Task::Find {
            service: service.to_owned(),
            selection: selection.clone(),
            limit,
            payload_bytes_max,
            bounds,
        };
        match self.look(task).await? {
            Report::Found(views) => Ok(views),
            _ => Err(Problem::odd()),
        }
    }

    pub(super) async fn replay(
        &self,
        service: &str,
        to: &Destination,
        removal: RemoveOptions,
        stop: impl Future<Output = ()>,
    ) -> Result<Outcome, Problem> {
        let task = Task::Replay {
            service: service.to_owned(),
            to: to.clone(),
            removal,
        };
        self.remove(task, stop).await
    }

    pub(super) async fn discard(
        &self,
        service: &str,
        removal: RemoveOptions,
        stop: impl Future<Output = ()>,
    ) -> Result<Outcome, Problem> {
        let service = service.to_owned();
        self.remove(Task::Discard { service, removal }, stop).await
    }

    async fn remove(&self, task: Task, stop: impl Future<Output = ()>) -> Result<Outcome, Problem> {
        match self.perform(&task, stop).await? {
            Report::Removed(outcome) => Ok(outcome),
            _ => Err(Problem::odd()),
        }
    }

    /// Does what changes nothing: there is nothing to stop in order.
    async fn look(&self, task: Task) -> Result<Report, Problem> {
        self.perform(&task, std::future::pending()).await
    }

    async fn perform(
        &self,
        task: &Task,
        stop: impl Future<Output = ()>,
    ) -> Result<Report, Problem> {
        match &self.place {
            Place::Here(_, letters) => Ok(letters.perform(task, stop).await?),
            Place::There(data) => Ok(control::perform(data, task, stop).await?),
        }
    }

    /// Lets go of the transport.
    pub(super) async fn close(self) {
        if let Place::Here(transport, letters) = self.place {
            drop(letters);
            close(&*transport).await;
        }
    }
}

async fn close(transport: &dyn Transport) {
    // Everything is done; a broker that doesn't answer is left alone.
    let _closed = tokio::time::timeout(CLOSE_WITHIN, transport.close()).await;
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
