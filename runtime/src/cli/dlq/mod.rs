//! `dlq`: dead letters, looked at and taken out, over the manifest's transport.
//!
//! Prints what [`crate::dead_letters`] finds and does. It connects by itself, beside the
//! app if that runs, and makes nothing on the broker.

use std::sync::Arc;
use std::time::Duration;

use super::{FAILED, WRONG, print, print_report};
use crate::app::Plan;
use crate::dead_letter::Reason;
use crate::dead_letters::{Bounds, DeadLetters, Selection};
use crate::id::MessageId;
use crate::manifest::suggest;
use crate::service::Catalog;
use crate::transport::{Pressure, Transport, TransportError, Transports, scheme_of};

mod list;
mod remove;
mod show;

/// For saying good-bye to the transport.
const CLOSE_WITHIN: Duration = Duration::from_secs(10);

/// Look at dead letters, replay them, discard them
#[derive(clap::Args)]
pub(super) struct Dlq {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(clap::Subcommand)]
enum Verb {
    /// How many letters each service has, why, and since when
    List(list::List),
    /// Show letters: why, after how many attempts, headers, payload
    Show(show::Show),
    /// Have messages handled again by the inputs that gave them up, under the same ids; a
    /// letter goes once its message is confirmed
    Replay(remove::Replay),
    /// Remove letters for good
    Discard(remove::Discard),
}

/// How far to look.
#[derive(clap::Args)]
struct BoundArgs {
    /// Hold no more than so many letters of a service while looking through its queue
    #[arg(long, value_name = "N", default_value_t = 10_000)]
    scan: usize,
}

impl BoundArgs {
    fn bounds(&self) -> Bounds {
        Bounds {
            letters: self.scan,
            ..Bounds::default()
        }
    }
}

/// Which letters.
#[derive(clap::Args)]
#[group(required = true, multiple = false)]
struct SelectionArgs {
    /// The letters of this message; may be repeated
    #[arg(long, value_name = "ID")]
    id: Vec<MessageId>,
    /// The letters that were given up for this reason
    #[arg(long, value_parser = reason())]
    reason: Option<Reason>,
    /// All letters of the service
    #[arg(long)]
    all: bool,
}

impl SelectionArgs {
    fn selection(&self) -> Selection {
        match self.reason {
            Some(reason) => Selection::Reason(reason),
            None if self.all => Selection::All,
            None => Selection::Ids(self.id.clone()),
        }
    }
}

fn reason() -> impl clap::builder::TypedValueParser<Value = Reason> {
    use clap::builder::{PossibleValuesParser, TypedValueParser};
    let names = Reason::ALL.map(Reason::as_str);
    PossibleValuesParser::new(names).map(|name| {
        let named = Reason::ALL
            .into_iter()
            .find(|reason| reason.as_str() == name);
        named.expect("only these names are let in")
    })
}

/// Why a verb didn't do what it was to do, with the exit code.
struct Problem {
    code: u8,
    text: String,
}

impl Problem {
    fn wrong(text: impl Into<String>) -> Self {
        Self {
            code: WRONG,
            text: text.into(),
        }
    }

    fn failed(text: impl Into<String>) -> Self {
        Self {
            code: FAILED,
            text: text.into(),
        }
    }
}

impl From<TransportError> for Problem {
    fn from(error: TransportError) -> Self {
        Self::failed(match error {
            TransportError::NoQueue(queue) => {
                format!("there is no queue {queue} on the transport: has the app run there?")
            }
            error => error.to_string(),
        })
    }
}

impl Dlq {
    pub(super) fn execute(&self, catalog: &Catalog, transports: &Transports) -> u8 {
        let manifest = match &self.verb {
            Verb::List(list) => &list.manifest,
            Verb::Show(show) => &show.manifest,
            Verb::Replay(replay) => &replay.remove.manifest,
            Verb::Discard(discard) => &discard.remove.manifest,
        };
        let plan = match manifest.load(&[], catalog, transports) {
            Err(report) => return print_report(&report, false),
            Ok(plan) => plan,
        };
        crate::log::init(plan.log, plan.redactor.clone());
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build();
        let outcome = match runtime {
            Err(error) => Err(Problem::failed(format!("no runtime: {error}"))),
            Ok(runtime) => runtime.block_on(self.run(&plan, transports)),
        };
        match outcome {
            Ok(code) => code,
            Err(problem) => {
                eprintln!("error: {}", plan.redactor.clean(&problem.text));
                problem.code
            }
        }
    }

    async fn run(&self, plan: &Plan, transports: &Transports) -> Result<u8, Problem> {
        self.check_service(plan)?;
        let transport = connect(plan, transports).await?;
        let outcome = async {
            let letters = DeadLetters::open(transport.clone(), plan.topology()).await?;
            match &self.verb {
                Verb::List(list) => list.run(&letters, plan).await,
                Verb::Show(show) => show.run(&letters, plan).await,
                Verb::Replay(replay) => replay.run(&letters, plan).await,
                Verb::Discard(discard) => discard.run(&letters, plan).await,
            }
        }
        .await;
        // Everything is done; a broker that doesn't answer is left alone.
        let _closed = tokio::time::timeout(CLOSE_WITHIN, transport.close()).await;
        outcome
    }

    /// Before anything is connected: the service that is named has dead letters.
    fn check_service(&self, plan: &Plan) -> Result<(), Problem> {
        let named = match &self.verb {
            Verb::List(list) => list.service.as_deref(),
            Verb::Show(show) => show.service.as_deref(),
            Verb::Replay(replay) => Some(&*replay.remove.service),
            Verb::Discard(discard) => Some(&*discard.remove.service),
        };
        let Some(named) = named else {
            return Ok(());
        };
        let topology = plan.topology();
        if topology.services().any(|service| service == named) {
            return Ok(());
        }
        let labels = plan.services.iter().map(|service| &*service.label);
        if labels.clone().any(|label| label == named) {
            return Err(Problem::wrong(format!(
                "`{named}` has no inputs, and so no dead letters"
            )));
        }
        let services: Vec<&str> = topology.services().collect();
        let help = suggest::help(named, services, "there are");
        let help = help.map_or(String::new(), |help| format!("; {help}"));
        Err(Problem::wrong(format!(
            "no service has the label {}{help}",
            suggest::quote(named)
        )))
    }
}

async fn connect(plan: &Plan, transports: &Transports) -> Result<Arc<dyn Transport>, Problem> {
    let url = &plan.transport;
    let connector = transports.for_url(url);
    let connector = connector.expect("the manifest was checked");
    let scheme = scheme_of(url);
    if !connector.guarantees(scheme).crosses_processes {
        return Err(Problem::wrong(format!(
            "dead letters on {scheme}: are in the process that runs the app, and another one \
             can't reach them: this needs a transport that processes share, such as amqp:"
        )));
    }
    Ok(connector.connect(url, Arc::<Pressure>::default()).await?)
}

/// The services that are meant: the one that is named, or all.
fn services(letters: &DeadLetters, named: Option<&str>) -> Vec<String> {
    match named {
        Some(named) => vec![named.to_owned()],
        None => letters.services().map(str::to_owned).collect(),
    }
}

/// Prints without secrets.
fn print_clean(plan: &Plan, text: &str) {
    print(&plan.redactor.clean(text));
}

fn print_clean_json(plan: &Plan, value: &impl serde::Serialize) {
    let text = serde_json::to_string_pretty(value).expect("what is printed is plain data");
    print_clean(plan, &format!("{text}\n"));
}

/// A text as one line that does nothing to a terminal.
fn line(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    crate::log::push_visible(&mut out, text);
    out
}
