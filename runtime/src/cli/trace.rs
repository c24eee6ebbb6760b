//! `trace`: a message's way through the app.
//!
//! Prints what [`crate::message_trace`] finds: in the running app, told over its control socket; of an
//! app that doesn't run, in what it left on its transport and in its stores. Changes nothing.

use std::sync::Arc;
use std::time::Duration;

use super::{DONE, FAILED, ManifestArgs, WRONG, print, print_report};
use crate::app::Plan;
use crate::control;
use crate::dead_letters::DeadLetters;
use crate::id::ID_BYTES_MAX;
use crate::log::push_visible;
use crate::message_trace::{QueueAccess, Trace, TraceCollector, TraceQuery, Wiring};
use crate::service::Catalog;
use crate::transport::{Backpressure, Connector, Transport, TransportError, Transports, scheme_of};

/// For saying good-bye to the transport.
const CLOSE_WITHIN: Duration = Duration::from_secs(10);

#[derive(clap::Args)]
pub(super) struct TraceArgs {
    #[command(flatten)]
    manifest: ManifestArgs,
    /// A message's id, as it is in logs and dead letters, or a trace's: 32 hexadecimal digits
    #[arg(value_name = "ID")]
    id: String,
    /// Print for programs
    #[arg(long)]
    json: bool,
}

impl TraceArgs {
    pub(super) fn execute(&self, catalog: &Catalog, transports: &Transports) -> u8 {
        let Ok(question) = self.id.parse::<TraceQuery>() else {
            eprintln!(
                "error: ID is a message's id, of 1 to {ID_BYTES_MAX} bytes and without control \
                 characters, or a trace's, of 32 hexadecimal digits"
            );
            return WRONG;
        };
        let plan = match self.manifest.load_to_ask(catalog, transports) {
            Err(report) => return print_report(&report, self.json),
            Ok(plan) => plan,
        };
        crate::log::init(plan.log, plan.redactor.clone());
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build();
        let traced = match runtime {
            Err(error) => Err(format!("no runtime: {error}")),
            Ok(runtime) => runtime.block_on(trace(&plan, transports, &question)),
        };
        let trace = match traced {
            Ok(trace) => trace,
            Err(text) => {
                let mut shown = String::new();
                push_visible(&mut shown, &plan.redactor.clean(&text));
                eprintln!("error: {shown}");
                return FAILED;
            }
        };
        let text = match self.json {
            true => {
                serde_json::to_string_pretty(&trace).expect("what is printed is plain data") + "\n"
            }
            false => trace.text(),
        };
        print(&plan.redactor.clean(&text));
        match trace.found {
            true => DONE,
            false => FAILED,
        }
    }
}

async fn trace(
    plan: &Plan,
    transports: &Transports,
    question: &TraceQuery,
) -> Result<Trace, String> {
    let data = plan.data();
    let running = control::is_running(data).await;
    if running.map_err(|error| error.to_string())? {
        let asked = control::trace(data, question).await;
        return asked.map_err(|error| error.to_string());
    }
    let url = &plan.transport;
    let connector = transports.for_url(url);
    let connector = connector.expect("the manifest was checked");
    let (guarantees, scheme) = (connector.guarantees(scheme_of(url)), scheme_of(url));
    let queues = if guarantees.crosses_processes {
        match connected(plan, connector).await {
            Ok((transport, letters)) => QueueAccess::Live(transport, letters),
            // Its stores are here nevertheless.
            Err(error) => QueueAccess::Nowhere(format!("the transport: {error}")),
        }
    } else if guarantees.durable {
        QueueAccess::Left
    } else {
        QueueAccess::Nowhere(format!("the queues: those of {scheme}: go with the app"))
    };
    let tracer = TraceCollector {
        wiring: Wiring::of(plan),
        data: data.to_owned(),
        redactor: plan.redactor.clone(),
        view: None,
        queues,
    };
    let trace = tracer.trace(question, Some((connector, url))).await;
    if let QueueAccess::Live(transport, _) = tracer.queues {
        close(&*transport).await;
    }
    Ok(trace)
}

async fn connected(
    plan: &Plan,
    connector: &dyn Connector,
) -> Result<(Arc<dyn Transport>, DeadLetters), TransportError> {
    let pressure = Arc::<Backpressure>::default();
    let transport = connector.connect(&plan.transport, pressure).await?;
    match DeadLetters::open(transport.clone(), plan.topology()).await {
        Ok(letters) => Ok((transport, letters)),
        Err(error) => {
            close(&*transport).await;
            Err(error)
        }
    }
}

async fn close(transport: &dyn Transport) {
    // Everything is done; a broker that doesn't answer is left alone.
    let _closed = tokio::time::timeout(CLOSE_WITHIN, transport.close()).await;
}
