//! `TestApp`: sends messages to the app under test and expects messages from it.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::time::{sleep_until, timeout};

use super::fault::{Fault, FaultScript};
use super::folder::Folder;
use super::instance_tracking::LiveInstances;
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
#[cfg(feature = "store")]
use crate::service::Entity;
use crate::service::{Catalog, MessageBuilder, Payload, Service, Source};
use crate::transport::{AskError, Completion, Outgoing, Transport};

/// Virtual time that an expectation waits before it fails.
pub const PATIENCE: Duration = Duration::from_secs(3600);

/// An app that runs on the test's own thread, with a clock of its own.
///
/// Services run, and time passes, only inside the methods of this type. When no task can run,
/// the clock jumps to the next timer, so a wait of an hour takes no real time. The clock does
/// not know of work on other threads (except tokio's `spawn_blocking`) nor of network waits,
/// and jumps past them. The methods block: call them from a plain `#[test]`, not an `async`
/// one.
///
/// Every message that a service publishes is kept until the test expects it, or to the end.
///
/// [`stop`](TestApp::stop), or the drop, fails the test if something is left behind. The
/// [module](crate::testing) has an example.
pub struct TestApp {
    /// `None` once stopped. Declared first, so that it is dropped before `runtime`.
    pub(super) app: Option<App>,
    pub(super) inner: Arc<dyn Transport>,
    pub(super) recorder: Arc<Recorder>,
    pub(super) letters: Letters,
    pub(super) script: Arc<FaultScript>,
    pub(super) live: Arc<LiveInstances>,
    pub(super) routes: Routes,
    pub(super) clock: Clock,
    pub(super) leftover_tasks: bool,
    pub(super) runtime: SimRuntime,
    pub(super) folder: Folder,
}

impl TestApp {
    /// Starts one service. Each port is connected to the topic of its name.
    ///
    /// # Panics
    /// If the service type refuses the config.
    #[track_caller]
    pub fn of<S: Service>(config: S::Config) -> Self {
        Setup::of::<S>(config).start()
    }

    /// Starts one source. Each port is connected to the topic of its name.
    ///
    /// # Panics
    /// If the source type refuses the config.
    #[track_caller]
    pub fn of_source<S: Source>(config: S::Config) -> Self {
        Setup::of_source::<S>(config).start()
    }

    /// Starts one entity type. Each port is connected to the topic of its name.
    ///
    /// # Panics
    /// If the entity type refuses the config.
    #[cfg(feature = "store")]
    #[track_caller]
    pub fn of_entity<E: Entity>(config: E::Config) -> Self {
        Setup::of_entity::<E>(config).start()
    }

    /// Starts a whole app from the text of a manifest. Its transport is `memory:`, regardless
    /// of the manifest. The names of ports are topics.
    ///
    /// # Panics
    /// If the manifest is invalid, with its report.
    #[track_caller]
    pub fn of_manifest(text: &str, catalog: Catalog) -> Self {
        Setup::of_manifest(text, catalog).start()
    }

    /// Starts a whole app from a manifest file. Paths in it are relative to the file, so
    /// services write there.
    ///
    /// # Panics
    /// If the manifest is invalid, with its report.
    #[track_caller]
    pub fn of_file(path: impl AsRef<std::path::Path>, catalog: Catalog) -> Self {
        Setup::of_file(path, catalog).start()
    }

    /// Sends a message from outside of the app, and returns it.
    ///
    /// The value is of the input's type, or JSON. A [`MessageBuilder`] also sets the id, a
    /// header, a delay and more. To send a payload that the service can't decode, use an
    /// `Input<Raw>` of the input's name.
    ///
    /// # Panics
    /// If no service reads there, or the value can't be encoded.
    #[track_caller]
    pub fn send<P: Takes + ?Sized>(
        &self,
        to: &P,
        value: impl Into<MessageBuilder<P::Value>>,
    ) -> Message {
        let sent = self.outgoing::<P>(to, value.into()).and_then(|outgoing| {
            let message = outgoing.message.clone();
            let confirmed = self.runtime.run(async {
                let (done, confirmed) = Completion::channel();
                self.inner.publish(vec![outgoing], done);
                confirmed.await
            });
            confirmed.map_err(|error| error.to_string())?;
            self.recorder.sent(&message);
            Ok(message)
        });
        match sent {
            Ok(message) => message,
            Err(text) => panic!("{text}"),
        }
    }

    /// Asks a service and returns its reply.
    ///
    /// # Panics
    /// If the service fails the request, or does not reply within [`PATIENCE`].
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

    /// Asks a service. Returns its reply, or why there is none.
    ///
    /// # Errors
    /// The service failed the request, or did not reply within [`PATIENCE`].
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
        let request = Message::from(envelope);
        self.recorder.sent(&request);
        let reply = self
            .runtime
            .run(async { self.inner.ask(request, PATIENCE).await })?;
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

    /// Waits for the next message on an output, in the order of publication.
    ///
    /// # Panics
    /// If none comes within [`PATIENCE`], or it is not of the output's type. The panic lists the
    /// events so far.
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

    /// As [`expect`](TestApp::expect), but returns the whole message: id, type, headers.
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
        let next = async { self.recorder.next(&topic, later(PATIENCE)).await };
        let nothing = || format!("no message came on `{}` within {PATIENCE:?}", from.name());
        self.runtime.run(next).ok_or_else(nothing)
    }

    /// Waits until the app is [`idle`](TestApp::idle), then checks that no message came on an
    /// output, except those that were expected before.
    ///
    /// # Panics
    /// If another message came.
    #[track_caller]
    pub fn expect_nothing<P: Gives + ?Sized>(&self, from: &P) {
        let unexpected = self.routes.gives(from.name()).and_then(|topic| {
            self.wait_until_idle()?;
            match self.recorder.unread(&topic) {
                came if came.is_empty() => Ok(()),
                came => {
                    let came: Vec<String> = came.iter().map(shown).collect();
                    let (name, came) = (from.name(), came.join("\n  "));
                    Err(format!(
                        "no message was expected on `{name}`, these came:\n  {came}"
                    ))
                }
            }
        });
        if let Err(text) = unexpected {
            panic!("{text}{}", self.report());
        }
    }

    /// Waits for the next request that a service asks the test; reply to it. In a whole app,
    /// only requests that no service of the app reads come here.
    ///
    /// # Panics
    /// If none comes within [`PATIENCE`], or it is not of the request's type.
    #[track_caller]
    pub fn expect_ask<P: Asks + ?Sized>(&self, from: &P) -> Question<P::Value, P::Reply> {
        let name = from.name();
        let question = self.routes.gives(name).and_then(|topic| {
            let next = async { self.recorder.next_request(&topic, later(PATIENCE)).await };
            let nothing = || format!("no request came on `{name}` within {PATIENCE:?}");
            let asked = self.runtime.run(next).ok_or_else(nothing)?;
            Question::new(name, asked)
        });
        match question {
            Ok(question) => question,
            Err(text) => panic!("{text}{}", self.report()),
        }
    }

    /// Replies to all further requests of services on a port. Takes precedence over a service
    /// of the app that would reply.
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
            Ok(topic) => self.recorder.answer(&topic, answering::<P>(answer)),
            Err(text) => panic!("{text}"),
        }
    }

    /// Injects a fault.
    pub fn inject(&self, fault: Fault) {
        self.script.add(fault);
    }

    /// Lets time pass, and everything run that becomes due.
    pub fn advance(&self, duration: Duration) {
        self.runtime.advance(duration);
    }

    /// The time of the clock that services see.
    pub fn now(&self) -> SystemTime {
        self.runtime.run(async { self.clock.now() })
    }

    /// Waits until every finite source has ended and no message is queued, in flight or
    /// scheduled.
    ///
    /// # Panics
    /// If the app is not idle within [`PATIENCE`].
    #[track_caller]
    pub fn idle(&self) {
        if let Err(text) = self.wait_until_idle() {
            panic!("{text}{}", self.report());
        }
    }

    fn wait_until_idle(&self) -> Result<(), String> {
        let idle = async {
            self.app().idle().await;
            // Only the recorder knows of messages scheduled for topics that no service reads.
            while let Some(at) = self.recorder.last_scheduled() {
                sleep_until(at).await;
                self.app().idle().await;
            }
        };
        let idle = async { timeout(PATIENCE, idle).await };
        let busy = |_| format!("the app is not idle after {PATIENCE:?}");
        self.runtime.run(idle).map_err(busy)
    }

    /// Waits for the next dead letter, in order.
    ///
    /// # Panics
    /// If no message is dead-lettered within [`PATIENCE`].
    #[track_caller]
    pub fn expect_dead_letter(&self) -> Letter {
        let next = async { self.letters.next(later(PATIENCE)).await };
        match self.runtime.run(next) {
            Some(letter) => letter,
            None => panic!(
                "no message was dead-lettered within {PATIENCE:?}{}",
                self.report()
            ),
        }
    }

    /// All dead letters of a service so far, including those that were expected before.
    pub fn dead_letters(&self, service: &str) -> Vec<Letter> {
        let mut letters = self.letters.all();
        letters.retain(|letter| *letter.dead_letter.service == *service);
        letters
    }

    /// The figures of each service so far.
    pub fn summary(&self) -> Summary {
        self.app().summary()
    }

    /// A directory of this test, deleted with it. A manifest given as text lies in it.
    pub fn folder(&self) -> &std::path::Path {
        self.folder.path()
    }

    fn app(&self) -> &App {
        self.app.as_ref().expect("it is there until it is stopped")
    }

    /// The events so far, for a panic.
    fn report(&self) -> String {
        report::render(self.app(), &self.recorder, &self.letters.all())
    }
}

impl fmt::Debug for TestApp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TestApp").finish_non_exhaustive()
    }
}
