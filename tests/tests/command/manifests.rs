//! Wrong manifests, each with its printed report: `wrong-manifests/*.toml`.
//!
//! `NAME.with.toml` is the overlay of `NAME.toml`. After an intended change, set
//! `BRICKWORK_BLESS=1` to write the reports again, and review the difference.

use brickwork::Plan;
use brickwork::config::{HumanDuration, LimitName, ManifestPath, Secret};
use brickwork::manifest::{self, Options, Report};
use brickwork::prelude::*;
use brickwork::transport::{
    Backpressure, Connector, Guarantees, Transport, TransportError, Transports, memory,
};
use futures_util::future::BoxFuture;
use proptest::prelude::*;
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::{fs, sync::Arc};

mod random;
mod warnings;

/// A source.
struct Count;

#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[allow(dead_code, reason = "only read by the loader")]
struct CountConfig {
    up_to: u64,
    pace: HumanDuration,
    listen: Option<SocketAddr>,
}

impl Source for Count {
    const NAME: &'static str = "count";
    type Config = CountConfig;

    fn ports(_: &CountConfig, ports: &mut SourcePorts) {
        ports.output(&Output::<u64>::new("numbers"));
    }

    fn listens(config: &CountConfig) -> Option<SocketAddr> {
        config.listen
    }

    async fn run(_: &CountConfig, _: &mut SourceContext) -> Result<(), Failure> {
        Ok(())
    }
}

macro_rules! service {
    ($type:ident, $name:literal, $config:ty, $ports:expr
        $(, check: $check:expr)? $(, store: $store:expr)?) => {
        struct $type;

        impl Service for $type {
            const NAME: &'static str = $name;
            $(const STORE: &'static [Migration] = $store;)?
            type Config = $config;

            fn ports(config: &$config, ports: &mut Ports<Self>) {
                let name: fn(&$config, &mut Ports<Self>) = $ports;
                name(config, ports);
            }

            $(fn check(config: &$config) -> Result<(), Vec<ConfigError>> {
                let check: fn(&$config) -> Vec<ConfigError> = $check;
                let errors = check(config);
                if errors.is_empty() { Ok(()) } else { Err(errors) }
            })?

            async fn start(_: &$config, _: &mut Context) -> Result<Self, Failure> {
                Ok(Self)
            }
        }

        impl Handle<u64> for $type {
            async fn handle(&mut self, _: u64, _: &mut Context) -> Result<(), Failure> {
                Ok(())
            }
        }
    };
}

/// Config of a service with one input and one output.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[allow(dead_code, reason = "only read by the loader")]
struct ShoutConfig {
    volume: f32,
}

service!(
    Shout,
    "shout",
    ShoutConfig,
    |_, ports| {
        ports.input(&Input::<u64>::new("in")).output(&Output::<u64>::new("out"));
    },
    check: |config| {
        let loud = config.volume > 10.0;
        loud.then(|| ConfigError::new("volume", "it doesn't go above 10")).into_iter().collect()
    }
);

// A service with two inputs and no config.
service!(Pair, "pair", NoConfig, |_, ports| {
    ports
        .input(&Input::<u64>::new("left"))
        .input(&Input::<u64>::new("right"));
});

#[derive(Default)]
struct Asker;

/// Asks, and replies.
#[service]
impl Asker {
    #[input("in")]
    fn questions(&mut self, question: u64, _ask: Ask<u64, u64>) -> Result<u64> {
        Ok(question)
    }
}

/// Config with secrets and a path.
#[config]
#[allow(dead_code, reason = "only read by the loader")]
struct HookConfig {
    secret: Secret,
    path: ManifestPath,
    others: std::collections::BTreeMap<String, Secret>,
}

service!(
    Hook,
    "hook",
    HookConfig,
    |_, ports| {
        ports.input(&Input::<u64>::new("in"));
    },
    check: |config| {
        let secret = config.secret.reveal();
        // A careless error text that contains the secret.
        let text = format!("{secret:?} is shorter than 8 bytes: {secret}");
        let short = (1..8).contains(&secret.len());
        short.then(|| ConfigError::new("secret", text)).into_iter().collect()
    }
);

/// Config with a list that determines the outputs.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[allow(dead_code, reason = "only read by the loader")]
struct RulesConfig {
    rules: Vec<Rule>,
    limit: Option<LimitName>,
}

#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Rule {
    when: String,
    to: String,
}

service!(
    Rules,
    "rules",
    RulesConfig,
    |config, ports| {
        ports.input(&Input::<u64>::new("in"));
        for rule in &config.rules {
            ports.output(&Output::<u64>::named(&*rule.to));
        }
    },
    check: |config| {
        let empty = config.rules.iter().enumerate().filter(|(_, rule)| rule.when.is_empty());
        empty
            .map(|(index, _)| {
                ConfigError::new(format!("rules.{index}.when"), "the expression is empty")
            })
            .collect()
    }
);

/// A transport that never connects.
struct Checked;

impl Connector for Checked {
    fn schemes(&self) -> &'static [&'static str] {
        &["test"]
    }

    fn guarantees(&self, scheme: &str) -> Guarantees {
        Guarantees {
            crosses_processes: true,
            durable: true,
            limits: false,
            searches: false,
            ..memory::MemoryConnector.guarantees(scheme)
        }
    }

    fn check(&self, url: &str) -> Result<(), String> {
        match url.split_once("/not-allowed") {
            // A careless error text that contains the URL.
            Some(_) => Err(format!("{url} is not allowed")),
            None => Ok(()),
        }
    }

    fn connect<'a>(
        &'a self,
        _: &'a str,
        _: Arc<Backpressure>,
    ) -> BoxFuture<'a, Result<Arc<dyn Transport>, TransportError>> {
        Box::pin(async { Err(TransportError::Closed) })
    }
}

// A service with a store.
service!(
    Till,
    "till",
    NoConfig,
    |_, ports| {
        ports.input(&Input::<u64>::new("in"));
    },
    store: &[Migration::new("money", "CREATE TABLE money (cents INTEGER) STRICT")]
);

fn catalog() -> Catalog {
    Catalog::new()
        .with_source::<Count>()
        .with::<Shout>()
        .with::<Pair>()
        .with::<Asker>()
        .with::<Till>()
        .with::<Hook>()
        .with::<Rules>()
}

fn load(path: &Path, overlays: Vec<PathBuf>, transport: Option<&str>) -> Result<Plan, Report> {
    load_only(&[], path, overlays, transport)
}

fn load_only(
    only: &[&str],
    path: &Path,
    overlays: Vec<PathBuf>,
    transport: Option<&str>,
) -> Result<Plan, Report> {
    let options = Options {
        overlays,
        transport: transport.map(str::to_owned),
        only: only.iter().map(|label| (*label).to_owned()).collect(),
        starts: true,
        env: Box::new(|name| match name {
            "PASSWORD_SET" => Some("hunter2-of-the-environment".into()),
            "SHORT_SECRET_SET" => Some("a\"b".into()),
            _ => None,
        }),
    };
    let transports = Transports::new().with(Checked);
    manifest::load(path, &options, &catalog(), &transports)
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("wrong-manifests")
}

/// Returns the manifests without their overlays.
fn wrong_manifests() -> Vec<PathBuf> {
    let mut paths: Vec<PathBuf> = fs::read_dir(folder())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| {
            path.extension()
                .is_some_and(|extension| extension == "toml")
        })
        .filter(|path| !path.to_str().unwrap().ends_with(".with.toml"))
        .collect();
    paths.sort();
    paths
}

fn report_of(path: &Path) -> Report {
    let overlay = path.with_extension("with.toml");
    let overlays = if overlay.exists() {
        vec![overlay]
    } else {
        Vec::new()
    };
    match load(path, overlays, None) {
        Ok(_) => panic!("{} is not wrong", path.display()),
        Err(report) => report,
    }
}

/// Returns a report without machine-specific paths.
fn rendered(report: &Report) -> String {
    let here = format!("{}{}", folder().display(), std::path::MAIN_SEPARATOR);
    report.render(false).replace(&here, "")
}

#[test]
fn every_wrong_manifest_gets_the_report_beside_it() {
    let bless = std::env::var_os("BRICKWORK_BLESS").is_some();
    let manifests = wrong_manifests();
    assert!(manifests.len() >= 30, "only {} were found", manifests.len());
    let mut different = Vec::new();
    for path in manifests {
        let report = rendered(&report_of(&path));
        let snapshot = path.with_extension("report");
        if bless {
            fs::write(&snapshot, &report).unwrap();
        } else if fs::read_to_string(&snapshot).unwrap_or_default() != report {
            different.push(format!("{}:\n{report}", snapshot.display()));
        }
    }
    assert!(different.is_empty(), "{}", different.join("\n"));
}

#[test]
fn the_wrong_manifests_cover_every_code_but_that_of_an_unreadable_file() {
    let mut seen = BTreeSet::from(["E001"]);
    for path in wrong_manifests() {
        seen.extend(
            report_of(&path)
                .problems()
                .iter()
                .map(|problem| problem.code),
        );
    }
    let all: BTreeSet<&str> = manifest::CODES.iter().map(|(code, _)| *code).collect();
    assert_eq!(seen, all);
}

#[test]
fn no_report_shows_a_secret() {
    // Every secret in the manifests and in the environment contains one of these.
    const SECRETS: [&str; 4] = ["hunter", "48151623", "a\"b", "a\\\"b"];
    for path in wrong_manifests() {
        let report = report_of(&path);
        let json = serde_json::to_string(&report).unwrap();
        for text in [report.render(false), report.render(true), json] {
            for secret in SECRETS {
                assert!(!text.contains(secret), "{}: {text}", path.display());
            }
        }
    }
}

#[test]
fn a_report_is_sorted_by_file_and_place_and_available_as_json() {
    let report = report_of(&folder().join("overlay.toml"));
    let json = serde_json::to_value(&report).unwrap();
    let problems = json["problems"].as_array().unwrap();
    assert_eq!(problems.len(), report.problems().len());
    assert_eq!(problems[0]["line"], report.problems()[0].line);
    let places: Vec<_> = report
        .problems()
        .iter()
        .map(|p| (&p.file, p.line, p.column))
        .collect();
    let files: Vec<_> = places.iter().map(|(file, ..)| *file).collect();
    assert!(files[0].ends_with("overlay.toml"));
    assert!(files[files.len() - 1].ends_with("overlay.with.toml"));
    for pair in places.windows(2) {
        assert!(pair[0].0 != pair[1].0 || pair[0] <= pair[1], "{places:?}");
    }
}

#[test]
fn every_file_that_cannot_be_read_is_reported() {
    let missing = folder().join("no-such-file");
    let report = load(&missing, vec![missing.clone(), folder()], None)
        .err()
        .unwrap();
    let codes: Vec<_> = report
        .problems()
        .iter()
        .map(|problem| problem.code)
        .collect();
    assert_eq!(codes, ["E001"; 3]);
    assert!(report.render(false).contains("no-such-file"));
}

#[test]
fn a_transport_that_overrides_the_manifest_is_checked_instead() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("app.toml");
    let manifest = VALID.replace("test://host", "nonsense:${NOT_SET}");
    assert_ne!(manifest, VALID);
    fs::write(&path, manifest).unwrap();
    assert!(load(&path, Vec::new(), Some("memory:")).is_ok());
    assert!(load(&path, Vec::new(), None).is_err());
    let report = load(&path, Vec::new(), Some("test://u:hunter2@h/not-allowed"))
        .err()
        .unwrap();
    let text = report.render(false);
    assert!(
        text.contains("E021") && text.contains("--transport"),
        "{text}"
    );
    assert!(!text.contains("hunter2"), "{text}");
}

#[test]
fn only_a_transport_across_processes_allows_running_a_part_of_the_app() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("app.toml");
    fs::write(&path, VALID).unwrap();
    let all = ["count", "shout", "hook", "rules"];
    assert!(load_only(&["shout", "count"], &path, Vec::new(), None).is_ok());
    assert!(load_only(&all, &path, Vec::new(), Some("memory:")).is_ok());

    let part = load_only(&["hook", "rules"], &path, Vec::new(), Some("memory:"));
    let expected = "\
error[E022]: `--only` with a part of the services needs a transport that connects processes, and `memory:` does not
 --> --only:1:1
  |
1 | hook,rules
  | ^^^^^^^^^^
  |
  = help: transports that support it: `test:`

1 problem";

    assert_eq!(part.err().unwrap().render(false).trim_end(), expected);

    let unknown = load_only(&["rules", "shuot"], &path, Vec::new(), None);
    let expected = "\
error[E032]: no service has the label `shuot`
 --> --only:1:7
  |
1 | rules,shuot
  |       ^^^^^
  |
  = help: did you mean `shout`?

1 problem";

    assert_eq!(unknown.err().unwrap().render(false).trim_end(), expected);
    // The command line passes this for `--only ""`.
    let no_service = load_only(&[""], &path, Vec::new(), None).err().unwrap();
    assert_eq!(no_service.problems()[0].code, "E032");
}

const VALID: &str = r#"
[app]
name = "hello"
transport = "test://host"
log = { level = "debug", format = "json" }

[admin]
listen = "off"

[supervision]
strategy = "rest_for_one"
max_restarts = 3
within = "1m"

[groups.front]
services = ["count", "shout"]

[services.count]
use = "count"
out = ["numbers", "audit.numbers"]
config = { up_to = 10, pace = "1s" }
restart.backoff = { min = "1s", max = "2s", jitter = 0.5, reset_after = "1m" }

[services.shout]
in = "numbers"
out = "shouted"
instances = { min = 1, max = 4 }
mailbox = 8
handler_timeout = "5s"
retry = { attempts = 3, backoff = { min = "1s", max = "1m", jitter = 0 } }
queue.high_water = 100

[services.hook]
use = "hook"
in = "shouted"
config.secret = "${NOT_SET:-12345678}"
config.path = "out/file"

[[services.rules.config.rules]]
when = "true"
to = "small"
[services.rules]
in = ["shouted", "orders"]
out.small = "small"

[topics]
"audit.numbers".external = "out"
orders.external = "in"
small = { external = "both" }
"#;
