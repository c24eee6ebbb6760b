//! `process`: a child program, in any language, is a service.
//!
//! Owns the way of a message to a child and back, and the promise that only the message
//! that certainly broke a child has spent an attempt on it. It never looks into payloads.
//!
//! # The protocol
//!
//! The child reads a JSON object a line on stdin, a message each:
//!
//! ```json
//! {"id":"…","topic":"issues.opened","type":"issues","attempt":1,"headers":{"k":"v"},"msg":{…}}
//! ```
//!
//! and answers each with one line on stdout, in any order:
//!
//! ```json
//! {"id":"…","emit":[{"port":"out","msg":{…}}]}
//! {"id":"…","error":"what went wrong","retry":true}
//! ```
//!
//! The first says that the message is done and what comes of it, in order, nothing if the
//! list is empty; an emitted message has the type of the one in hand, or its own
//! (`"type"` beside `port`), and keeps its headers and subject. The second says that it
//! failed: it is tried again after the service's back-off, or with `"retry":false`
//! dead-lettered now. A line on stderr is a line of the log.
//!
//! Everything else on stdout is a protocol error: what isn't JSON, an id that is not in
//! hand (or no longer), a port that isn't one of `outputs`, a field that isn't named
//! here, a line longer than `line_max`, the end of stdout while the child lives. The child
//! is killed and another one started.
//!
//! # When a child ends
//!
//! Of its own accord, killed, for a protocol error, or because it hangs (no answer within
//! `handler_timeout`): it is started again, the first time at once, with back-off while
//! none answers anything. What it had in hand is tried again. If that was one message, or
//! the error names it, that message has failed an attempt. If there were several, nobody
//! knows which one did it: none has, but each is from now on given to a child alone, so
//! that only the culprit is dead-lettered. (In company a message has seven eighths of
//! `handler_timeout`, so that those with a child that hangs are judged like this, too.)
//!
//! # Stopping
//!
//! When nothing is in hand any more stdin is closed; half of `stop_timeout` later the
//! process group gets SIGTERM, at its end SIGKILL. Whatever is left of the group when the
//! child has ended is killed. Should this program itself be killed, the child reads the
//! end of its stdin.
//!
//! | file | what |
//! | --- | --- |
//! | `protocol` | the lines |
//! | `child` | one child: pipes, hand, end |
//! | `keeper` | one child after the other, for the lanes that share it |
//! | `blame` | who is guilty, who suspect |
//! | `group` | the process group |
//! | `lines` | bounded lines from a pipe |

mod child;
mod child_manager;
mod crash_attribution;
mod group;
mod lines;
mod protocol;

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use brickwork::config::{ByteSize, HumanDuration, ManifestPath, Secret};
use brickwork::prelude::*;
use brickwork::{Message, check_name};
use serde::Deserialize;
use tokio::sync::SemaphorePermit;
use tokio::time::timeout;

use crate::ports::{IN, in_hand};
use child::{End, Refused, SpawnOptions};
use child_manager::{ChildManager, ChildSlot};
use crash_attribution::{Suspects, Verdict};
use protocol::{Answer, Emitted};

/// More would only wait inside the child.
const IN_FLIGHT_MAX: usize = 1024;
/// When a message is given to a child again that another message took from it.
const AGAIN: Duration = Duration::from_millis(100);
/// When a message is given to a child again that a suspect had to itself for long.
const CROWDED: Duration = Duration::from_millis(250);
/// How often the end of a child is looked for that nobody needs at the moment.
const LOOK: Duration = Duration::from_secs(1);

const ALIVE: Tick = Tick::new("alive");

/// Gives messages to a child program and emits what it answers.
pub struct Process {
    registry: Arc<Registry>,
    _hook: Option<brickwork::AbandonHook>,
    lane: ChildSlot,
    /// Whether it answers for the child to the host, so that one child counts as one: the
    /// first of the child's lanes.
    first: bool,
    places: u32,
    outputs: Vec<Output<Raw>>,
    stop_timeout: Duration,
}

/// Config of `process`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ProcessConfig {
    /// The program and its arguments. A program with a slash in it is relative to `dir`,
    /// another one is searched in the `PATH` that the child gets.
    pub command: Vec<String>,
    /// The folder that the child works in, relative to the manifest; the manifest's own,
    /// if left out.
    #[serde(default = "here")]
    pub dir: ManifestPath,
    /// Variables of the child's environment. Their values are treated as secrets: cut out
    /// of logs and errors.
    #[serde(default)]
    pub env: BTreeMap<String, Secret>,
    /// Variables that the child gets as this program has them. It gets no others.
    #[serde(default = "inherited")]
    pub inherit_env: Vec<String>,
    /// The ports that the child may emit on.
    #[serde(default = "out")]
    pub outputs: Vec<String>,
    /// How many messages a child may have in hand, 1 to 1024. Each of `instances` is a
    /// child of its own.
    #[serde(default = "sixteen")]
    pub in_flight: usize,
    /// The longest line that the child may answer with.
    #[serde(default = "two_mib")]
    pub line_max: ByteSize,
    /// How long the child may take to end when the app stops: its stdin is closed, after
    /// half of this SIGTERM is sent, at its end SIGKILL, both to its whole process group.
    #[serde(default = "five_seconds")]
    pub stop_timeout: HumanDuration,
}

fn here() -> ManifestPath {
    ManifestPath(".".into())
}

fn inherited() -> Vec<String> {
    ["PATH", "HOME", "USER", "LANG", "LC_ALL", "TZ", "TMPDIR"]
        .map(str::to_owned)
        .into()
}

fn out() -> Vec<String> {
    vec!["out".to_owned()]
}

fn sixteen() -> usize {
    16
}

fn two_mib() -> ByteSize {
    ByteSize(2 << 20)
}

fn five_seconds() -> HumanDuration {
    HumanDuration(Duration::from_secs(5))
}

impl Default for ProcessConfig {
    fn default() -> Self {
        Self {
            command: Vec::new(),
            dir: here(),
            env: BTreeMap::new(),
            inherit_env: inherited(),
            outputs: out(),
            in_flight: sixteen(),
            line_max: two_mib(),
            stop_timeout: five_seconds(),
        }
    }
}

impl ProcessConfig {
    fn launch(&self, service: &str) -> Result<SpawnOptions, Failure> {
        // A relative path would mean something else once the child is in its folder.
        let dir = std::path::absolute(&*self.dir)?;
        let [program, args @ ..] = &self.command[..] else {
            return Err(Failure::reject("command names no program"));
        };
        let program = match program.contains('/') {
            true => dir.join(Path::new(program)),
            false => PathBuf::from(program),
        };
        let inherited = self.inherit_env.iter().filter_map(|name| {
            let value = std::env::var(name).ok()?;
            Some((name.clone(), value))
        });
        let own = self.env.iter();
        let own = own.map(|(name, value)| (name.clone(), value.reveal().to_owned()));
        Ok(SpawnOptions {
            service: service.to_owned(),
            program,
            args: args.to_vec(),
            dir,
            env: inherited.chain(own).collect(),
            outputs: self.outputs.clone(),
            line_bytes_max: usize::try_from(self.line_max.0).unwrap_or(usize::MAX),
        })
    }
}

/// The children of a service, and what is known of its messages.
#[derive(Default)]
struct Registry {
    keepers: Mutex<HashMap<u32, Arc<ChildManager>>>,
    suspects: Suspects,
}

impl Registry {
    fn keeper(
        &self,
        number: u32,
        make: impl FnOnce() -> Result<ChildManager, Failure>,
    ) -> Result<Arc<ChildManager>, Failure> {
        let mut keepers = self.keepers.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(keeper) = keepers.get(&number) {
            return Ok(keeper.clone());
        }
        let keeper = Arc::new(make()?);
        keepers.insert(number, keeper.clone());
        Ok(keeper)
    }
}

impl Service for Process {
    const NAME: &'static str = "process";
    const SUMMARY: &'static str = "a child program in any language, by JSON lines on its pipes";
    const EXAMPLE: &'static str = r#"[services.triage]
use = "process"
in = "issues.opened"
out = "issues.labelled"
config.command = ["node", "triage.js"]
"#;
    const FAILURES: &'static [&'static str] = &[
        "starts again, after a back-off, when the program isn't there or can't be run",
        "a child that ends, hangs or breaks the protocol is killed with its process group and started again; what it had in hand is tried again, and only what certainly broke it has spent an attempt",
        "a child that ends again and again without an answer: the service pauses between its starts",
        "tries again, or with \"retry\":false rejects, a message that the child answers with an error",
        "rejects a message whose payload is not JSON, or for which the child emits more than app.max_message",
    ];
    type Config = ProcessConfig;

    fn ports(config: &ProcessConfig, ports: &mut Ports<Self>) {
        ports.input(&IN);
        for name in &config.outputs {
            ports.output(&Output::<Raw>::named(name));
        }
        ports.tick(ALIVE, LOOK);
    }

    fn check(config: &ProcessConfig) -> Result<(), Vec<ConfigError>> {
        let errors = wrong(config);
        if errors.is_empty() {
            Ok(())
        } else {
            Err(errors)
        }
    }

    /// A loop is a lane to a child: a place in its hand.
    fn concurrency(config: &ProcessConfig) -> usize {
        config.in_flight.clamp(1, IN_FLIGHT_MAX)
    }

    async fn start(config: &ProcessConfig, cx: &mut Context) -> Result<Self, Failure> {
        let registry = cx.shared(async || Ok(Registry::default())).await?;
        let places = Self::concurrency(config) as u32;
        let keeper = registry.keeper(cx.instance() / places, || {
            let launch = Arc::new(config.launch(cx.service())?);
            Ok(ChildManager::new(launch, places as usize))
        })?;
        let first = cx.instance().is_multiple_of(places);
        if first {
            keeper.begin()?;
        }
        let abandoned = keeper.clone();
        let hook = first.then(|| cx.on_abandoned(move || abandoned.abandon()));
        Ok(Self {
            registry,
            _hook: hook,
            lane: ChildSlot::new(keeper),
            first,
            places,
            outputs: config.outputs.iter().map(Output::named).collect(),
            stop_timeout: config.stop_timeout.0,
        })
    }

    /// The first lane fails when the child has ended with nothing in hand: the host counts
    /// and shows that, and builds the lane anew, which starts another child.
    async fn tick(&mut self, _: Tick, _: &mut Context) -> Result<(), Failure> {
        match self.first.then(|| self.lane.keeper().news()).flatten() {
            Some(news) => Err(Failure::retry(news)),
            None => Ok(()),
        }
    }

    async fn stop(&mut self, _: &mut Context) -> Result<(), Failure> {
        self.lane.leave(self.stop_timeout).await;
        Ok(())
    }
}

impl Handle<Raw> for Process {
    async fn handle(&mut self, _: Raw, cx: &mut Context) -> Result<(), Failure> {
        let (message, attempt) = in_hand(cx);
        let (message, id) = (message.clone(), message.id.to_string());
        let line = protocol::request(&id, &message, attempt)?;
        let end = self.ask(&id, &line, cx).await?;
        match end {
            End::Answered(answer) => {
                self.registry.suspects.clear(&id);
                self.answered(answer, &message, cx)
            }
            End::Lost(Verdict::Guilty, text) => {
                self.registry.suspects.add(&id);
                Err(Failure::retry(text))
            }
            End::Lost(Verdict::Suspect, text) => {
                self.registry.suspects.add(&id);
                Err(Failure::defer(AGAIN, text))
            }
            End::Lost(Verdict::Innocent, text) => Err(Failure::defer(AGAIN, text)),
        }
    }
}

impl Process {
    /// Tells the child of a message, alone if that must be, and waits for the answer.
    async fn ask(&self, id: &str, line: &[u8], cx: &mut Context) -> Result<End, Failure> {
        let _place = self.place(id, cx).await?;
        let child = self.lane.keeper().child().map_err(|down| {
            // Not by the message's fault, nor by the next one's.
            cx.pause(down.wait);
            Failure::defer(down.wait, down.text)
        })?;
        let told = child.tell(id, line).map_err(|refused| {
            Failure::defer(
                AGAIN,
                match refused {
                    Refused::Twice => "the child has a message of this id in hand",
                    Refused::Ending => "the child is ending",
                },
            )
        })?;
        drop(child);
        let time = cx.remaining().unwrap_or(Duration::MAX);
        Ok(told.end(time - time / 8).await)
    }

    /// A place in the child's hand; all of them for a suspect.
    async fn place(&self, id: &str, cx: &Context) -> Result<SemaphorePermit<'_>, Failure> {
        let suspect = self.registry.suspects.has(id);
        let places = &self.lane.keeper().places;
        let wanted = if suspect { self.places } else { 1 };
        if let Ok(place) = places.try_acquire_many(wanted) {
            return Ok(place);
        }
        // What is left is for the child: more of it for those who needn't wait.
        let share = if suspect { 2 } else { 4 };
        let patience = cx.remaining().unwrap_or(Duration::MAX) / share;
        match timeout(patience, places.acquire_many(wanted)).await {
            Ok(place) => Ok(place.expect("the places are never closed")),
            Err(_) if suspect => Err(Failure::defer(
                CROWDED,
                "the child wasn't free for it alone",
            )),
            Err(_) => Err(Failure::defer(
                CROWDED,
                "another message has the child for itself",
            )),
        }
    }

    fn answered(&self, answer: Answer, message: &Message, cx: &mut Context) -> Result<(), Failure> {
        let emitted = match answer {
            Answer::Done(emitted) => emitted,
            Answer::Failed { text, retry: true } => return Err(Failure::retry(text)),
            Answer::Failed { text, retry: false } => return Err(Failure::reject(text)),
        };
        for Emitted {
            output,
            kind,
            payload,
        } in emitted
        {
            let raw = Raw {
                kind: kind.unwrap_or_else(|| message.kind.clone()),
                content_type: None,
                headers: message.headers.clone(),
                subject: message.subject.clone(),
                payload,
            };
            cx.emit(&self.outputs[output], raw)?;
        }
        Ok(())
    }
}

/// Everything that is wrong with a config.
fn wrong(config: &ProcessConfig) -> Vec<ConfigError> {
    let mut errors = Vec::new();
    let mut wrong = |path: String, text: String| errors.push(ConfigError::new(path, text));
    match config.command.first() {
        None => wrong("command".into(), "it names no program".into()),
        Some(program) if program.is_empty() => {
            wrong("command.0".into(), "the program has no name".into());
        }
        Some(_) => {}
    }
    for (number, part) in config.command.iter().enumerate() {
        if part.contains('\0') {
            let text = "no program can be given a text with a zero byte";
            wrong(format!("command.{number}"), text.into());
        }
    }
    for (name, value) in &config.env {
        if value.reveal().contains('\0') {
            let text = "no variable can hold a zero byte";
            wrong(format!("env.{name}"), text.into());
        }
    }
    let inherited = config.inherit_env.iter().enumerate();
    let inherited = inherited.map(|(number, name)| (format!("inherit_env.{number}"), name));
    let own = config.env.keys().map(|name| (format!("env.{name}"), name));
    for (path, name) in own.chain(inherited) {
        if name.is_empty() || name.contains(['=', '\0']) {
            wrong(path, format!("{name:?} can't be the name of a variable"));
        }
    }
    for (number, name) in config.outputs.iter().enumerate() {
        let path = format!("outputs.{number}");
        if let Err(error) = check_name(name) {
            wrong(
                path,
                format!("{name:?} can't be the name of an output: {error}"),
            );
        } else if config.outputs[..number].contains(name) {
            wrong(path, format!("the output {name:?} is named twice"));
        }
    }
    if !(1..=IN_FLIGHT_MAX).contains(&config.in_flight) {
        let text = format!("a child has 1 to {IN_FLIGHT_MAX} messages in hand");
        wrong("in_flight".into(), text);
    }
    let line_max = 1 << 10..=1 << 30;
    if !line_max.contains(&config.line_max.0) {
        wrong("line_max".into(), "lines may have 1KiB to 1GiB".into());
    }
    errors
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn config(config: Value) -> ProcessConfig {
        serde_json::from_value(config).unwrap()
    }

    #[test]
    fn everything_wrong_with_a_config_is_reported_with_its_place() {
        let errors = wrong(&config(json!({
            "command": ["", "a\0"],
            "env": {"A=": "1"},
            "inherit_env": ["PATH", ""],
            "outputs": ["out", "Out", "out"],
            "in_flight": 0,
            "line_max": "1B",
        })));
        let paths: Vec<&str> = errors.iter().map(|error| error.path.as_str()).collect();
        let expected = [
            "command.0",
            "command.1",
            "env.A=",
            "inherit_env.1",
            "outputs.1",
            "outputs.2",
            "in_flight",
            "line_max",
        ];
        assert_eq!(paths, expected);
        assert_eq!(wrong(&config(json!({"command": []})))[0].path, "command");
        assert!(wrong(&config(json!({"command": ["true"]}))).is_empty());
    }

    #[test]
    fn a_program_with_a_slash_is_relative_to_the_folder() {
        let program = |program: &str| {
            let config = config(json!({"command": [program, "x"], "dir": "/a/b"}));
            config.launch("s").unwrap().program
        };
        assert_eq!(program("./c"), Path::new("/a/b/./c"));
        assert_eq!(program("/bin/c"), Path::new("/bin/c"));
        assert_eq!(program("c"), Path::new("c"));
    }

    #[test]
    fn a_child_gets_the_variables_that_the_config_names_and_no_others() {
        let config = config(json!({
            "command": ["c"],
            "env": {"TOKEN": "hunter2", "PATH": "/only"},
            "inherit_env": ["PATH", "CARGO_PKG_NAME", "NOT_THERE_AT_ALL"],
        }));
        let launch = config.launch("s").unwrap();
        let env: BTreeMap<_, _> = launch.env.into_iter().collect();
        let expected = [("PATH", "/only"), ("TOKEN", "hunter2")];
        let mut expected: BTreeMap<String, String> = expected
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .into();
        if let Ok(name) = std::env::var("CARGO_PKG_NAME") {
            expected.insert("CARGO_PKG_NAME".to_owned(), name);
        }
        assert_eq!(env, expected);
    }
}
