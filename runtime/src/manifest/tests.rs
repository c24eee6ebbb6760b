//! Valid manifests: every value arrives as written, every default as documented.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::future::BoxFuture;
use tempfile::TempDir;

use super::{Options, load};
use crate::app::{GroupPlan, Plan, SupervisorPlan};
use crate::config::{ManifestPath, Secret};
use crate::log::LogSettings;
use crate::prelude::*;
use crate::service::WiredPort;
use crate::settings::ServiceSettings;
use crate::supervision::{
    Backoff, GiveUpPolicy, Instances, Intensity, RestartPolicy, RestartType, RetryPolicy, Strategy,
};
use crate::transport::{
    Backpressure, Connector, Guarantees, Overflow, Transport, TransportError, Transports,
};

/// A source that records its configs.
struct Feed;

static SEEN: Mutex<BTreeMap<String, FeedConfig>> = Mutex::new(BTreeMap::new());

#[derive(Debug, Default, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
struct FeedConfig {
    /// Key of the record.
    name: String,
    path: Option<ManifestPath>,
    more: Vec<ManifestPath>,
    secret: Option<Secret>,
    day: String,
    rate: f64,
}

impl Source for Feed {
    const NAME: &'static str = "feed";
    type Config = FeedConfig;

    fn ports(config: &FeedConfig, ports: &mut SourcePorts) {
        SEEN.lock()
            .unwrap()
            .insert(config.name.clone(), config.clone());
        ports.output(&Output::<u64>::new("out"));
    }

    async fn run(_: &FeedConfig, _: &mut SourceContext) -> Result<(), Failure> {
        Ok(())
    }
}

/// A service with two ports on each side.
struct Join;

impl Service for Join {
    const NAME: &'static str = "join";
    type Config = NoConfig;

    fn ports(_: &NoConfig, ports: &mut Ports<Self>) {
        ports
            .input(&Input::<u64>::new("left"))
            .input(&Input::<u64>::new("right"))
            .output(&Output::<u64>::new("small"))
            .output(&Output::<u64>::new("large"));
    }

    async fn start(_: &NoConfig, _: &mut Context) -> Result<Self, Failure> {
        Ok(Self)
    }
}

impl Handle<u64> for Join {
    async fn handle(&mut self, _: u64, _: &mut Context) -> Result<(), Failure> {
        Ok(())
    }
}

fn plan_of(folder: &TempDir, manifest: &str, overlay: Option<(&str, &str)>) -> Plan {
    plan_with(folder, manifest, overlay, &Transports::new())
}

fn plan_with(
    folder: &TempDir,
    manifest: &str,
    overlay: Option<(&str, &str)>,
    transports: &Transports,
) -> Plan {
    let path = folder.path().join("app.toml");
    fs::write(&path, manifest).unwrap();
    let overlays = overlay.map(|(name, text)| {
        let path = folder.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
        path
    });
    let options = Options {
        overlays: overlays.into_iter().collect(),
        transport: None,
        only: Vec::new(),
        starts: true,
        env: Box::new(|name| {
            let known = [
                ("SECRET", "hunter2"),
                ("N", "3"),
                ("RATE", "0.5"),
                ("YES", "true"),
            ];
            let value = known.iter().find(|(known, _)| *known == name);
            value.map(|(_, value)| (*value).to_owned())
        }),
    };
    let catalog = Catalog::new().with_source::<Feed>().with::<Join>();
    load(&path, &options, &catalog, transports).unwrap_or_else(|report| panic!("{report}"))
}

/// A durable transport that stores its data in a folder.
struct Kept;

impl Connector for Kept {
    fn schemes(&self) -> &'static [&'static str] {
        &["kept"]
    }

    fn guarantees(&self, _: &str) -> Guarantees {
        Guarantees {
            durable: true,
            ..crate::transport::memory::MemoryConnector.guarantees("memory")
        }
    }

    fn default_url(&self, data: &Path) -> Option<String> {
        Some(format!("kept:{}", data.join("there").display()))
    }

    fn check(&self, _: &str) -> Result<(), String> {
        Ok(())
    }

    fn connect<'a>(
        &'a self,
        _: &'a str,
        _: Arc<Backpressure>,
    ) -> BoxFuture<'a, Result<Arc<dyn Transport>, TransportError>> {
        Box::pin(async { Err(TransportError::Closed) })
    }
}

#[test]
fn with_a_durable_transport_in_the_program_messages_are_kept_in_the_data_folder() {
    let folder = tempfile::tempdir().unwrap();
    let transports = Transports::new().with(Kept);
    let plan = plan_with(&folder, MINIMAL, None, &transports);
    let url = |data: &str| format!("kept:{}", folder.path().join(data).join("there").display());
    assert_eq!(plan.transport, url("data"));
    assert_eq!(plan.services[1].settings.queue.high_water, 1_000_000);
    let elsewhere = MINIMAL.replace("[app]", "[app]\ndata = \"kept/here\"");
    let plan = plan_with(&folder, &elsewhere, None, &transports);
    assert_eq!(plan.transport, url("kept/here"));
    let named = MINIMAL.replace("[app]", "[app]\ntransport = \"memory:\"");
    let plan = plan_with(&folder, &named, None, &transports);
    assert_eq!(plan.transport, "memory:");
    assert_eq!(plan.services[1].settings.queue.high_water, 10_000);
}

#[test]
fn numbers_and_booleans_may_come_from_variables() {
    let folder = tempfile::tempdir().unwrap();
    let text = MINIMAL.replace(
        "[services.join]",
        "[services.feed.config]\nname = \"${N}\"\nrate = \"${RATE}\"\nday = \"${NONE:-${YES}}\"\n\
         [services.join]\nmailbox = \"${N}\"\nretry.attempts = \"${NONE:-7}\"\nstore = \"${YES}\"",
    );
    let plan = plan_with(&folder, &text, None, &Transports::new());
    let settings = &plan.services[1].settings;
    assert_eq!((settings.mailbox, settings.retry.attempts), (3, 7));
    assert!(settings.store);
    let seen = SEEN.lock().unwrap()["3"].clone();
    assert_eq!((seen.rate, &*seen.day), (0.5, "true"));
}

fn wired(ports: &[WiredPort]) -> Vec<(&str, Vec<&str>)> {
    ports
        .iter()
        .map(|port| {
            (
                &*port.name,
                port.topics.iter().map(|topic| &**topic).collect(),
            )
        })
        .collect()
}

const MINIMAL: &str = r#"
[app]
name = "small"

[services.feed]
out = "numbers"

[services.join]
in = { left = "numbers", right = "numbers" }
out.small = "small"
out.large = ["large", "larger"]

[topics]
small.external = "out"
large.external = "out"
larger.external = "out"
"#;

#[test]
fn an_absent_key_takes_its_documented_default() {
    let folder = tempfile::tempdir().unwrap();
    let plan = plan_of(&folder, MINIMAL, None);
    assert_eq!(plan.name(), "small");
    assert_eq!(plan.transport, "memory:");
    assert_eq!(plan.data(), folder.path().join("data"));
    let cores = std::thread::available_parallelism().unwrap().get();
    assert_eq!(plan.workers, cores);
    assert_eq!(plan.shutdown_timeout, Duration::from_secs(10));
    assert_eq!(plan.message_bytes_max, 1 << 20);
    let info = LogSettings {
        level: tracing::Level::INFO,
        json: false,
    };
    assert_eq!(plan.log, info);
    assert_eq!(plan.admin, Some("127.0.0.1:9464".parse().unwrap()));

    let join = &plan.services[1];
    assert_eq!((&*join.label, join.service_type), ("join", "join"));
    assert_eq!(
        (
            join.settings.instances,
            join.settings.mailbox,
            join.settings.queue.high_water
        ),
        (Instances { min: 1, max: 1 }, 64, 10_000)
    );
    assert_eq!(join.settings.handler_timeout, Duration::from_secs(30));
    assert_eq!(join.settings.shutdown_timeout, Duration::from_secs(5));
    let retry = Backoff {
        min: Duration::from_secs(1),
        max: Duration::from_secs(5 * 60),
        jitter: 0.2,
    };
    let expected = RetryPolicy {
        attempts: 5,
        backoff: retry,
    };
    assert_eq!(join.settings.retry, expected);
    let restart = Backoff {
        min: Duration::from_millis(100),
        max: Duration::from_secs(30),
        jitter: 0.2,
    };
    let expected = RestartPolicy {
        backoff: restart,
        reset_after: Duration::from_secs(60),
    };
    assert_eq!(join.settings.restart.policy, expected);
    assert_eq!(join.settings.restart.restart_type, RestartType::Permanent);
    assert_eq!(join.settings.restart.intensity, intensity(5, 10));
    assert_eq!(join.settings.restart.give_up, None);
    assert_eq!(
        (join.settings.queue.limit, join.settings.queue.overflow),
        (None, Overflow::DeadLetter)
    );
    assert_eq!(join.settings, ServiceSettings::default());
    let root = SupervisorPlan {
        strategy: Strategy::OneForOne,
        intensity: intensity(10, 60),
    };
    assert_eq!(plan.supervision, root);
    assert!(plan.groups.is_empty());
    assert!(plan.services.iter().all(|service| service.runs_here));
}

fn intensity(max_restarts: u32, seconds: u64) -> Intensity {
    Intensity {
        max_restarts,
        within: Duration::from_secs(seconds),
    }
}

#[test]
fn supervision_settings_arrive_as_written() {
    let folder = tempfile::tempdir().unwrap();
    let manifest = format!(
        r#"{MINIMAL}
        [supervision]
        strategy = "rest_for_one"
        max_restarts = 0
        within = "2s"
        [groups.whole]
        services = ["join", "feed"]
        strategy = "one_for_one"
        max_restarts = 1000000
        within = "1ms"
        [services.feed.restart]
        policy = "transient"
        max_restarts = 7
        within = "3s"
        on_give_up = "escalate"
        "#
    );
    let plan = plan_of(&folder, &manifest, None);
    let root = SupervisorPlan {
        strategy: Strategy::RestForOne,
        intensity: intensity(0, 2),
    };
    assert_eq!(plan.supervision, root);
    let whole = GroupPlan {
        name: "whole".into(),
        services: vec![1, 0],
        supervisor: SupervisorPlan {
            strategy: Strategy::OneForOne,
            intensity: Intensity {
                max_restarts: 1_000_000,
                within: Duration::from_millis(1),
            },
        },
    };
    assert_eq!(plan.groups, [whole], "in the order of the group's list");
    let feed = &plan.services[0];
    assert_eq!(feed.settings.restart.restart_type, RestartType::Transient);
    assert_eq!(feed.settings.restart.intensity, intensity(7, 3));
    assert_eq!(feed.settings.restart.give_up, Some(GiveUpPolicy::Escalate));

    let manifest = format!("{MINIMAL}[groups.half]\nservices = [\"join\"]\n");
    let plan = plan_of(&folder, &manifest, None);
    let half = &plan.groups[0];
    assert_eq!(half.services, [1]);
    let give_up = |index: usize| plan.services[index].settings.restart.give_up;
    assert_eq!(give_up(1), Some(GiveUpPolicy::Escalate), "in a group");
    assert_eq!(give_up(0), None, "outside of a group");
    let default = SupervisorPlan {
        strategy: Strategy::OneForAll,
        intensity: intensity(5, 60),
    };
    assert_eq!(half.supervisor, default);
}

#[test]
fn services_and_wiring_keep_the_order_of_the_manifest_and_of_the_ports() {
    let folder = tempfile::tempdir().unwrap();
    let plan = plan_of(&folder, MINIMAL, None);
    let labels: Vec<&str> = plan.services.iter().map(|s| &*s.label).collect();
    assert_eq!(labels, ["feed", "join"]);
    assert_eq!(wired(&plan.services[0].outputs), [("out", vec!["numbers"])]);
    assert_eq!(
        wired(&plan.services[1].inputs),
        [("left", vec!["numbers"]), ("right", vec!["numbers"])]
    );
    assert_eq!(
        wired(&plan.services[1].outputs),
        [("small", vec!["small"]), ("large", vec!["large", "larger"])]
    );
    let external: Vec<&str> = plan.external.iter().map(|topic| &**topic).collect();
    assert_eq!(external, ["small", "large", "larger"]);
}

#[test]
fn every_value_arrives_as_written() {
    let folder = tempfile::tempdir().unwrap();
    let manifest = r#"
        [app]
        name = "whole"
        transport = "memory:"
        data = "/var/lib/whole"
        workers = 3
        shutdown_timeout = "1m"
        max_message = "64KiB"
        log = { level = "trace", format = "json" }
        [admin]
        listen = "0.0.0.0:80"
        [services.left]
        use = "feed"
        out = "l"
        config = { name = "whole", path = "in.jsonl", more = ["/abs", "a/b"], secret = "${SECRET}-2", day = 2020-01-02, rate = 1 }
        restart.backoff = { min = "1s", max = "2s", jitter = 1, reset_after = "3s" }
        [services.join]
        in = { right = "r", left = ["l", "r"] }
        out = { small = "r", large = "r" }
        instances = { min = 3, max = 100000 }
        mailbox = 1
        handler_timeout = "250ms"
        retry = { attempts = 1, backoff = { min = "0s", max = "0s", jitter = 0.0 } }
        queue.high_water = 7
        isolation = "shared"
    "#;
    let plan = plan_of(&folder, manifest, None);
    assert_eq!(plan.data(), Path::new("/var/lib/whole"));
    assert_eq!((plan.workers, plan.message_bytes_max), (3, 64 << 10));
    assert_eq!(plan.shutdown_timeout, Duration::from_secs(60));
    assert_eq!(plan.log.level, tracing::Level::TRACE);
    assert!(plan.log.json);
    assert_eq!(plan.admin, Some("0.0.0.0:80".parse().unwrap()));

    let [left, join] = &plan.services[..] else {
        panic!("two services");
    };
    assert_eq!((&*left.label, left.service_type), ("left", "feed"));
    let seconds = Duration::from_secs;
    assert_eq!(left.settings.restart.policy.backoff.min, seconds(1));
    assert_eq!(left.settings.restart.policy.backoff.max, seconds(2));
    assert_eq!(left.settings.restart.policy.backoff.jitter, 1.0);
    assert_eq!(left.settings.restart.policy.reset_after, seconds(3));
    assert_eq!(
        (
            join.settings.instances,
            join.settings.mailbox,
            join.settings.queue.high_water
        ),
        (
            Instances {
                min: 3,
                max: 100_000
            },
            1,
            7
        )
    );
    assert_eq!(join.settings.handler_timeout, Duration::from_millis(250));
    assert_eq!(join.settings.retry.attempts, 1);
    assert_eq!(join.settings.retry.backoff.max, Duration::ZERO);
    assert_eq!(
        wired(&join.inputs),
        [("left", vec!["l", "r"]), ("right", vec!["r"])]
    );

    let config = SEEN.lock().unwrap()["whole"].clone();
    assert_eq!(config.path.unwrap().0, folder.path().join("in.jsonl"));
    assert_eq!(config.more[0].0, Path::new("/abs"));
    assert_eq!(config.more[1].0, folder.path().join("a/b"));
    assert_eq!(config.secret.unwrap().reveal(), "hunter2-2");
    assert_eq!((config.day.as_str(), config.rate), ("2020-01-02", 1.0));
    assert_eq!(plan.redactor.clean("a hunter2-2 b"), "a [redacted] b");
}

#[test]
fn a_service_whose_type_is_replaced_keeps_its_wiring_and_loses_its_config() {
    let folder = tempfile::tempdir().unwrap();
    let base = MINIMAL.replace(
        "[services.feed]",
        "[services.feed]\nuse = \"file\"\nconfig = { path = \"no-such-key\", lines = 3 }",
    );
    let overlay = "[services.feed]\nuse = \"feed\"\nconfig.name = \"another\"\n";
    plan_of(&folder, &base, Some(("other.toml", overlay)));
    assert_eq!(SEEN.lock().unwrap()["another"].path, None);
}

#[test]
fn an_overlay_replaces_the_values_it_names_and_its_paths_are_relative_to_itself() {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("deploy")).unwrap();
    fs::write(folder.path().join("deploy/key"), "from-the-file\n").unwrap();
    let base = MINIMAL.replace(
        "[services.feed]",
        "[services.feed]\nconfig = { name = \"over\", path = \"base\", rate = 2.5 }",
    );
    let overlay = r#"
        [app]
        data = "state"
        [admin]
        listen = "off"
        [services.feed.config]
        path = "over"
        secret = "${file:key}"
    "#;
    let plan = plan_of(&folder, &base, Some(("deploy/production.toml", overlay)));
    assert_eq!(plan.name(), "small");
    assert_eq!(plan.data(), folder.path().join("deploy/state"));
    assert_eq!(plan.admin, None);
    let config = SEEN.lock().unwrap()["over"].clone();
    assert_eq!(config.path.unwrap().0, folder.path().join("deploy/over"));
    assert_eq!(config.secret.unwrap().reveal(), "from-the-file");
    assert_eq!(config.rate, 2.5);
    assert_eq!(plan.redactor.clean("from-the-file"), "[redacted]");
}
