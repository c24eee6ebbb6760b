//! The app under test: what a test says to it and hears from it.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::oneshot;
use tokio::time::{sleep_until, timeout};

use super::desk::{Answer, Desk, Letter};
use super::fault::{Fault, Script};
use super::folder::Folder;
use super::instances::Census;
use super::ports::{Asks, Gives, Takes, shown};
use super::report;
use super::routes::Routes;
use super::setup::Setup;
use super::universe::Universe;
use crate::app::{App, StopReport, Summary};
use crate::clock::{Clock, later};
use crate::delivery::Reply;
use crate::message::{Envelope, Message};
use crate::service::{Catalog, Draft, Payload, Service, Source};
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
    pub(super) desk: Arc<Desk>,
    pub(super) script: Arc<Script>,
    pub(super) census: Arc<Census>,
    pub(super) routes: Routes,
    pub(super) clock: Clock,
    pub(super) leftover_tasks: bool,
    pub(super) universe: Universe,
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
    /// The value is of the input's type, or JSON; a [`Draft`] says more of it, such as
    /// its id, a header, or a delay. To send what a service can't read, use an
    /// `Input<Raw>` of the input's name.
    ///
    /// # Panics
    /// If nobody reads there, or the value can't be written.
    #[track_caller]
    pub fn send<P: Takes + ?Sized>(&self, to: &P, value: impl Into<Draft<P::Value>>) -> Message {
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
    pub fn ask<P: Takes + ?Sized>(&self, to: &P, value: impl Into<Draft<P::Value>>) -> P::Reply {
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
        value: impl Into<Draft<P::Value>>,
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
        draft: Draft<P::Value>,
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
            Ok(Question {
                value: decode(name, &asked.message)?,
                message: asked.message,
                reply: asked.reply,
                answer: std::marker::PhantomData,
            })
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

    /// Waits for the next message that a service gives up, in the order in which they
    /// were.
    ///
    /// # Panics
    /// If none is given up within [`PATIENCE`].
    #[track_caller]
    pub fn expect_dead_letter(&self) -> Letter {
        let next = async { self.desk.next_letter(later(PATIENCE)).await };
        match self.universe.run(next) {
            Some(letter) => letter,
            None => panic!(
                "no message was given up within {PATIENCE:?}{}",
                self.report()
            ),
        }
    }

    /// What a service has given up so far, also what was expected before.
    pub fn dead_letters(&self, service: &str) -> Vec<Letter> {
        let mut letters = self.desk.letters();
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

    /// Stops the app in order, and looks whether anything is left behind.
    ///
    /// # Panics
    /// If an instance is still alive, a task that a service spawned still runs, a
    /// delivery was never settled, or a fault had no occasion to strike.
    #[track_caller]
    pub fn stop(mut self) -> StopReport {
        match self.end() {
            Ok(report) => report,
            Err(text) => panic!("{text}"),
        }
    }

    /// Stops and looks; the app is gone then, however it went.
    fn end(&mut self) -> Result<StopReport, String> {
        let Some(app) = self.app.take() else {
            return Ok(StopReport::default());
        };
        let report = self.universe.run(app.stop());
        let mut left = Vec::new();
        let tasks_ended = self.universe.ends(PATIENCE);
        if !tasks_ended && !self.leftover_tasks {
            left.push(
                "a task that a service spawned still runs: keep its handle, and abort it \
                 when the service is dropped"
                    .to_owned(),
            );
        }
        for (service, count) in self.census.alive() {
            left.push(match count {
                1 => format!("{service} has 1 instance that is still alive"),
                count => format!("{service} has {count} instances that are still alive"),
            });
        }
        for delivery in self.desk.unsettled() {
            left.push(format!("a delivery was never settled: {delivery}"));
        }
        let unmet = self.script.unmet();
        if !unmet.is_empty() {
            left.push(format!(
                "faults were injected in vain: {}",
                unmet.join(", ")
            ));
        }
        match left.is_empty() {
            true => Ok(report),
            false => Err(format!("after the stop:\n  {}", left.join("\n  "))),
        }
    }

    fn app(&self) -> &App {
        self.app.as_ref().expect("it is there until it is stopped")
    }

    /// What happened so far, for the messages of panics.
    fn report(&self) -> String {
        report::render(self.app(), &self.desk)
    }
}

impl Drop for TestApp {
    fn drop(&mut self) {
        // A test that has failed already is told that once; and a panic here would end
        // the process.
        if std::thread::panicking() {
            return;
        }
        if let Err(text) = self.end() {
            panic!("{text}");
        }
    }
}

impl fmt::Debug for TestApp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TestApp").finish_non_exhaustive()
    }
}

/// A question that a service asked the test, and waits for the answer.
///
/// If it is dropped, there is no answer: the asker's time runs out.
pub struct Question<M, R> {
    /// What it asks.
    pub value: M,
    /// All that is known of it.
    pub message: Message,
    reply: oneshot::Sender<Reply>,
    answer: std::marker::PhantomData<fn(R)>,
}

impl<M: fmt::Debug, R> fmt::Debug for Question<M, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Question").field(&self.value).finish()
    }
}

impl<M, R: Payload> Question<M, R> {
    /// Answers it.
    ///
    /// # Panics
    /// If the answer can't be written.
    #[track_caller]
    pub fn reply(self, answer: R) {
        match answer.into_bytes() {
            // An asker that has stopped waiting needs no answer.
            Ok(bytes) => drop(self.reply.send(Ok(bytes))),
            Err(error) => panic!("{error}"),
        }
    }

    /// Fails it, as a service does that gives a question up.
    pub fn refuse(self, text: impl Into<String>) {
        // An asker that has stopped waiting needs no answer.
        let _gone = self.reply.send(Err(text.into()));
    }
}

fn decode<T: Payload>(name: &str, message: &Message) -> Result<T, String> {
    T::decode(message)
        .map_err(|error| format!("what came on `{name}`: {error}: {}", shown(message)))
}

/// An answer over bytes, from one over values.
pub(super) fn answering<P: Asks + ?Sized>(
    mut answer: impl FnMut(P::Value) -> P::Reply + Send + 'static,
) -> Answer {
    Box::new(move |message| {
        let question = P::Value::decode(message).map_err(|error| error.to_string())?;
        answer(question)
            .into_bytes()
            .map_err(|error| error.to_string())
    })
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use super::*;
    use crate::failure::Failure;
    use crate::name::QueueId;
    use crate::service::{Context, Handle, Input, NoConfig, Ports};

    const NUMBERS: Input<u32> = Input::new("numbers");

    struct Sink;

    impl Service for Sink {
        const NAME: &'static str = "sink";
        type Config = NoConfig;

        fn ports(_: &NoConfig, ports: &mut Ports<Self>) {
            ports.input(&NUMBERS);
        }

        async fn start(_: &NoConfig, _: &mut Context) -> Result<Self, Failure> {
            Ok(Self)
        }
    }

    impl Handle<u32> for Sink {
        async fn handle(&mut self, _: u32, _: &mut Context) -> Result<(), Failure> {
            Ok(())
        }
    }

    fn panic_of(test: impl FnOnce()) -> String {
        let payload = catch_unwind(AssertUnwindSafe(test)).unwrap_err();
        payload.downcast_ref::<String>().unwrap().clone()
    }

    // The host lets go of every instance and delivery: so here the kit itself keeps one.

    #[test]
    fn an_instance_that_is_still_alive_fails_the_test() {
        let app = TestApp::of::<Sink>(NoConfig {});
        assert_eq!(app.census.alive(), [("sink".into(), 1)]);
        let _kept = app.census.born(&"sink".into());
        let told = panic_of(|| drop(app));
        assert!(
            told.contains("sink has 1 instance that is still alive"),
            "{told}"
        );
    }

    #[test]
    fn a_delivery_that_was_never_settled_fails_the_test() {
        let app = TestApp::of::<Sink>(NoConfig {});
        let message = app.send(&NUMBERS, 1);
        app.idle();
        app.desk.taken(&QueueId::new("sink", "numbers"), &message);
        let told = panic_of(|| drop(app.stop()));
        let expected = format!("never settled: {} from sink.numbers", message.id);
        assert!(told.contains(&expected), "{told}");
    }
}
