//! The app under test: what a test says to it and hears from it.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::time::{sleep_until, timeout};

use super::fault::{Fault, FaultScript};
use super::folder::Folder;
use super::instance_tracking::Census;
use super::letters::{Letter, Letters};
use super::pending_ask::{Question, answering, decode};
use super::ports::{Asks, Gives, Takes, shown};
use super::recorder::Recorder;
use super::report;
use super::routes::Routes;
use super::setup::Setup;
use super::sim_runtime::SimRuntime;
use crate::app::{App, Summary};
use crate::clock::{Clock, later};
use crate::message::{Envelope, Message};
use crate::service::{Catalog, MessageBuilder, Payload, Service, Source};
use crate::transport::{AskError, Completion, Outgoing, Transport};

/// How long a test waits for something, in virtual time.
pub const PATIENCE: Duration = Duration::from_secs(3600);

/// An app in the test's own process, on the test's thread, with a time of its own.
///
/// Services work, and time passes, only inside the methods of this type. Time jumps when
/// nobody works, so an hour takes no time. Work on another thread isn't seen, so that time
/// jumps past it, unless tokio knows of it (`spawn_blocking`); nor is a wait for the
/// network. Its methods block: a test that uses them is no `async` one.
///
/// Every message that a service publishes is kept until it is expected, or to the end.
///
/// Stopping it, or dropping it, fails the test if something is left behind: see
/// [`stop`](TestApp::stop). The [module](crate::testing) has an example.
pub struct TestApp {
    /// `None` once it has stopped. Goes before the universe that it lives in.
    pub(super) app: Option<App>,
    pub(super) beneath: Arc<dyn Transport>,
    pub(super) desk: Arc<Recorder>,
    pub(super) letters: Letters,
    pub(super) script: Arc<FaultScript>,
    pub(super) census: Arc<Census>,
    pub(super) routes: Routes,
    pub(super) clock: Clock,
    pub(super) leftover_tasks: bool,
    pub(super) universe: SimRuntime,
    pub(super) folder: Folder,
}

impl TestApp {
    /// Starts one service, with every port connected to the topic of its name.
    ///
    /// # Panics
    /// If the service type refuses the config.
    #[track_caller]
    pub fn of<S: Service>(config: S::Config) -> Self {
        Setup::of::<S>(config).start()
    }

    /// Starts one source, with every port connected to the topic of its name.
    ///
    /// # Panics
    /// If the source type refuses the config.
    #[track_caller]
    pub fn of_source<S: Source>(config: S::Config) -> Self {
        Setup::of_source::<S>(config).start()
    }

    /// Starts a whole app from a manifest's text; its transport is `memory:`, whatever
    /// the manifest says. Names are topics now.
    ///
    /// # Panics
    /// If there is something wrong with the manifest: with the report of it.
    #[track_caller]
    pub fn of_manifest(text: &str, catalog: Catalog) -> Self {
        Setup::of_manifest(text, catalog).start()
    }

    /// Starts a whole app from a manifest's file. Mind that paths in it are relative to the
    /// file, so that what its services write is written there.
    ///
    /// # Panics
    /// If there is something wrong with the manifest: with the report of it.
    #[track_caller]
    pub fn of_file(path: impl AsRef<std::path::Path>, catalog: Catalog) -> Self {
        Setup::of_file(path, catalog).start()
    }

    /// Sends a message, from outside, and returns it.
    ///
    /// The value is of the input's type, or JSON; a [`MessageBuilder`] says more of it, such as
    /// its id, a header, or a delay. To send what a service can't read, use an
    /// `Input<Raw>` of the input's name.
    ///
    /// # Panics
    /// If nobody reads there, or the value can't be written.
    #[track_caller]
    pub fn send<P: Takes + ?Sized>(
        &self,
        to: &P,
        value: impl Into<MessageBuilder<P::Value>>,
    ) -> Message {
        let sent = self.outgoing::<P>(to, value.into()).and_then(|outgoing| {
            let message = outgoing.message.clone();
            let confirmed = self.universe.run(async {
                let (done, confirmed) = Completion::channel();
                self.beneath.publish(vec![outgoing], done);
                confirmed.await
            });
            confirmed.map_err(|error| error.to_string())?;
            self.desk.sent(&message);
            Ok(message)
        });
        match sent {
            Ok(message) => message,
            Err(text) => panic!("{text}"),
        }
    }

    /// Asks a service and returns its answer.
    ///
    /// # Panics
    /// If there is none within [`PATIENCE`], or a failure instead.
    #[track_caller]
    pub fn ask<P: Takes + ?Sized>(
        &self,
        to: &P,
        value: impl Into<MessageBuilder<P::Value>>,
    ) -> P::Reply {
        match self.try_ask(to, value) {
            Ok(reply) => reply,
            Err(error) => panic!("asked `{}`: {error}{}", to.name(), self.report()),
        }
    }

    /// Asks a service, and returns its answer or why there is none.
    ///
    /// # Errors
    /// The service gave the question up, or didn't answer within [`PATIENCE`].
    ///
    /// # Panics
    /// As [`send`](TestApp::send).
    #[track_caller]
    pub fn try_ask<P: Takes + ?Sized>(
        &self,
        to: &P,
        value: impl Into<MessageBuilder<P::Value>>,
    ) -> Result<P::Reply, AskError> {
        let outgoing = match self.outgoing::<P>(to, value.into()) {
            Ok(outgoing) => outgoing,
            Err(text) => panic!("{text}"),
        };
        let mut envelope = outgoing.message.edit();
        envelope.deadline_ms = Some(envelope.time_ms + PATIENCE.as_millis() as u64);
        let question = Message::from(envelope);
        self.desk.sent(&question);
        let reply = self
            .universe
            .run(async { self.beneath.ask(question, PATIENCE).await })?;
        P::Reply::decode(&reply).map_err(|error| AskError::Decode(error.to_string()))
    }

    fn outgoing<P: Takes + ?Sized>(
        &self,
        to: &P,
        draft: MessageBuilder<P::Value>,
    ) -> Result<Outgoing, String> {
        let topic = self.routes.takes(to.name())?;
        let kind = P::Value::kind().unwrap_or_else(|| to.name().into());
        let mut envelope = Envelope::new(kind, "");
        envelope.source = "/test".into();
        envelope.time_ms = crate::clock::unix_ms(self.now());
        draft
            .value
            .encode(&mut envelope)
            .map_err(|error| error.to_string())?;
        envelope.id = draft.id.unwrap_or(envelope.id);
        envelope.kind = draft.kind.unwrap_or(envelope.kind);
        envelope.subject = draft.subject.or(envelope.subject);
        envelope.headers.extend(draft.headers);
        envelope.topic = topic;
        Ok(Outgoing {
            message: envelope.into(),
            queue: None,
            delay: draft.delay,
        })
    }

    /// Waits for the next message there, in the order in which they came.
    ///
    /// # Panics
    /// If none comes within [`PATIENCE`], or it isn't of the output's type: with what
    /// happened instead.
    #[track_caller]
    pub fn expect<P: Gives + ?Sized>(&self, from: &P) -> P::Value {
        match self
            .expected(from)
            .and_then(|message| decode(from.name(), &message))
        {
            Ok(value) => value,
            Err(text) => panic!("{text}{}", self.report()),
        }
    }

    /// As [`expect`](TestApp::expect), with all that is known of the message: its id,
    /// type, headers.
    ///
    /// # Panics
    /// If none comes within [`PATIENCE`].
    #[track_caller]
    pub fn expect_message<P: Gives + ?Sized>(&self, from: &P) -> Message {
        match self.expected(from) {
            Ok(message) => message,
            Err(text) => panic!("{text}{}", self.report()),
        }
    }

    fn expected<P: Gives + ?Sized>(&self, from: &P) -> Result<Message, String> {
        let topic = self.routes.gives(from.name())?;
        let next = async { self.desk.next(&topic, later(PATIENCE)).await };
        let nothing = || format!("no message came on `{}` within {PATIENCE:?}", from.name());
        self.universe.run(next).ok_or_else(nothing)
    }

    /// Lets everything be done ([`idle`](TestApp::idle)), and then expects that nothing
    /// came there but what was expected before.
    ///
    /// # Panics
    /// If something came.
    #[track_caller]
    pub fn expect_nothing<P: Gives + ?Sized>(&self, from: &P) {
        let unexpected = self.routes.gives(from.name()).and_then(|topic| {
            self.wait_until_idle()?;
            match self.desk.unread(&topic) {
                came if came.is_empty() => Ok(()),
                came => {
                    let came: Vec<String> = came.iter().map(shown).collect();
                    let (name, came) = (from.name(), came.join("\n  "));
                    Err(format!(
                        "nothing was expected on `{name}`, there came\n  {came}"
                    ))
                }
            }
        });
        if let Err(text) = unexpected {
            panic!("{text}{}", self.report());
        }
    }

    /// Waits for the next question that a service asks there: reply to it. In a whole app
    /// only questions come here that no service of it reads.
    ///
    /// # Panics
    /// If none is asked within [`PATIENCE`], or it isn't of the request's type.
    #[track_caller]
    pub fn expect_ask<P: Asks + ?Sized>(&self, from: &P) -> Question<P::Value, P::Reply> {
        let name = from.name();
        let question = self.routes.gives(name).and_then(|topic| {
            let next = async { self.desk.next_question(&topic, later(PATIENCE)).await };
            let nothing = || format!("no question came on `{name}` within {PATIENCE:?}");
            let asked = self.universe.run(next).ok_or_else(nothing)?;
            Question::new(name, asked)
        });
        match question {
            Ok(question) => question,
            Err(text) => panic!("{text}{}", self.report()),
        }
    }

    /// From now on, questions that services ask there are answered so; also those that
    /// another service of the app would answer.
    ///
    /// # Panics
    /// If no service asks there.
    #[track_caller]
    pub fn answer<P: Asks + ?Sized>(
        &self,
        from: &P,
        answer: impl FnMut(P::Value) -> P::Reply + Send + 'static,
    ) {
        match self.routes.gives(from.name()) {
            Ok(topic) => self.desk.answer(&topic, answering::<P>(answer)),
            Err(text) => panic!("{text}"),
        }
    }

    /// Something is to go wrong.
    pub fn inject(&self, fault: Fault) {
        self.script.add(fault);
    }

    /// Lets time pass, and what is due be done.
    pub fn advance(&self, duration: Duration) {
        self.universe.advance(duration);
    }

    /// The time by the clock that services see.
    pub fn now(&self) -> SystemTime {
        self.universe.run(async { self.clock.now() })
    }

    /// Waits until every source that ends has ended and nothing is queued, in hand or
    /// scheduled.
    ///
    /// # Panics
    /// If that isn't so within [`PATIENCE`].
    #[track_caller]
    pub fn idle(&self) {
        if let Err(text) = self.wait_until_idle() {
            panic!("{text}{}", self.report());
        }
    }

    fn wait_until_idle(&self) -> Result<(), String> {
        let idle = async {
            self.app().idle().await;
            // What is scheduled for a topic that no service reads, only the desk knows.
            while let Some(at) = self.desk.last_scheduled() {
                sleep_until(at).await;
                self.app().idle().await;
            }
        };
        let idle = async { timeout(PATIENCE, idle).await };
        let busy = |_| format!("there is still something to do after {PATIENCE:?}");
        self.universe.run(idle).map_err(busy)
    }

    /// Waits for the next message that is given up, in the order in which they were.
    ///
    /// # Panics
    /// If none is given up within [`PATIENCE`].
    #[track_caller]
    pub fn expect_dead_letter(&self) -> Letter {
        let next = async { self.letters.next(later(PATIENCE)).await };
        match self.universe.run(next) {
            Some(letter) => letter,
            None => panic!(
                "no message was given up within {PATIENCE:?}{}",
                self.report()
            ),
        }
    }

    /// The dead letters of a service so far, also those that were expected before.
    pub fn dead_letters(&self, service: &str) -> Vec<Letter> {
        let mut letters = self.letters.all();
        letters.retain(|letter| *letter.why.service == *service);
        letters
    }

    /// What the app has done so far.
    pub fn summary(&self) -> Summary {
        self.app().summary()
    }

    /// A folder of this test: that of the manifest, if it was given as text. Goes with the
    /// test.
    pub fn folder(&self) -> &std::path::Path {
        self.folder.path()
    }

    fn app(&self) -> &App {
        self.app.as_ref().expect("it is there until it is stopped")
    }

    /// What happened so far, for the messages of panics.
    fn report(&self) -> String {
        report::render(self.app(), &self.desk, &self.letters.all())
    }
}

impl fmt::Debug for TestApp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TestApp").finish_non_exhaustive()
    }
}
