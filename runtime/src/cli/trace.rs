//! `trace`: follows a message through the app.
//!
//! A running app traces the message itself and answers over its control socket. For a stopped
//! app, this process reads the transport and the stores. Changes nothing.

use super::connection::{close, connect};
use super::{DONE, FAILED, ManifestArgs, WRONG, block_on, one_line, print, print_report, to_json};
use crate::app::Plan;
use crate::control;
use crate::id::ID_BYTES_MAX;
use crate::message_trace::{QueueAccess, Trace, TraceCollector, TraceQuery};
use crate::service::Catalog;
use crate::stderr::error_line;
use crate::transport::{Transports, scheme_of};

#[derive(clap::Args)]
pub(super) struct TraceArgs {
    #[command(flatten)]
    manifest: ManifestArgs,
    /// Id of a message, as in logs and dead letters, or of a trace: 32 hexadecimal digits
    #[arg(value_name = "ID")]
    id: String,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl TraceArgs {
    pub(super) fn execute(&self, catalog: &Catalog, transports: &Transports) -> u8 {
        let Ok(query) = self.id.parse::<TraceQuery>() else {
            error_line!(
                "error: ID must be the id of a message (1 to {ID_BYTES_MAX} bytes, no control \
                 characters) or of a trace (32 hexadecimal digits)"
            );
            return WRONG;
        };
        let plan = match self.manifest.load_to_ask(catalog, transports) {
            Err(report) => return print_report(&report, self.json),
            Ok(plan) => plan,
        };
        crate::log::init(plan.log, plan.redactor.clone());
        let traced = block_on(trace(&plan, transports, &query));
        let trace = match traced.map_err(|error| error.to_string()).flatten() {
            Ok(trace) => trace,
            Err(text) => {
                error_line!("error: {}", one_line(&plan.redactor.clean(&text)));
                return FAILED;
            }
        };
        let text = match self.json {
            true => to_json(&trace),
            false => trace.text(),
        };
        print(&plan.redactor.clean(&text));
        match trace.found {
            true => DONE,
            false => FAILED,
        }
    }
}

async fn trace(plan: &Plan, transports: &Transports, query: &TraceQuery) -> Result<Trace, String> {
    let data = plan.data();
    let is_running = control::is_running(data).await;
    if is_running.map_err(|error| error.to_string())? {
        let trace = control::trace(data, query).await;
        return trace.map_err(|error| error.to_string());
    }
    let url = &plan.transport;
    let connector = transports.for_url(url);
    let connector = connector.expect("the manifest was checked");
    let scheme = scheme_of(url);
    let guarantees = connector.guarantees(scheme);
    let queues = if guarantees.crosses_processes {
        match connect(plan, connector).await {
            Ok((transport, letters)) => QueueAccess::Live(transport, letters),
            // The stores can be read nevertheless.
            Err(error) => QueueAccess::Unavailable(format!("queues: {error}")),
        }
    } else if guarantees.durable {
        QueueAccess::Offline
    } else {
        QueueAccess::Unavailable(format!("queues: those of {scheme}: go with the app"))
    };
    let collector = TraceCollector {
        graph: plan.port_graph(),
        data: data.to_owned(),
        redactor: plan.redactor.clone(),
        running: None,
        queues,
    };
    let trace = collector.trace(query, Some((connector, url))).await;
    if let QueueAccess::Live(transport, _) = collector.queues {
        close(&*transport).await;
    }
    Ok(trace)
}
