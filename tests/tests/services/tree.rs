//! The real supervisor tree against a model of OTP's rules.
//!
//! Trees, failures and their times are random, and services also fail while the tree recovers.
//! The model predicts which services start and stop, in which order, and whether the app gives
//! up.

use std::collections::{HashMap, VecDeque};
use std::fmt::Write;
use std::time::Duration;

use brickwork::Catalog;
use brickwork_tests::app::{TestApp, virtually};
use brickwork_tests::subject::{Subject, script};
use proptest::prelude::*;

/// Unit of the random time between failures, in seconds.
const STEP_S: u64 = 40;
/// Minimum time between failures, in steps: longer than the quiet time that resets the back-off,
/// and than the shortest window.
const STEPS_MIN: u64 = 2;
/// Upper bound of the time between failures, in steps.
const STEPS_MAX: u64 = 11;
const STRATEGIES: [&str; 3] = ["one_for_one", "one_for_all", "rest_for_one"];
const TYPES: [&str; 3] = ["permanent", "transient", "temporary"];
/// Restart windows, in seconds. A cascade of restarts fits into each; some gaps fit into the
/// second, all into the third. No window is near a multiple of the step, since a cascade takes
/// time.
const WINDOWS_S: [u64; 3] = [20, 500, 86_400];

/// A supervisor's policy.
#[derive(Debug, Clone, Copy)]
struct Rules {
    strategy: usize,
    max_restarts: usize,
    window: usize,
}

fn rules() -> impl Strategy<Value = Rules> {
    (0..3usize, 0..4usize, 0..3usize).prop_map(|(strategy, max_restarts, window)| Rules {
        strategy,
        max_restarts,
        window,
    })
}

#[derive(Debug, Clone)]
struct Plan {
    root: Rules,
    groups: Vec<Rules>,
    /// Restart type and group of each service.
    services: Vec<(usize, Option<usize>)>,
    /// Failures: the service, the services whose next start fails, and the steps until the next
    /// failure.
    failures: Vec<(usize, Vec<usize>, u64)>,
}

fn plans() -> impl Strategy<Value = Plan> {
    (2..7usize, 0..4usize).prop_flat_map(|(services, groups)| {
        let group = if groups == 0 {
            Just(None).boxed()
        } else if groups == 3 {
            // All services in one group.
            Just(Some(0)).boxed()
        } else {
            prop_oneof![1 => Just(None), 3 => (0..groups).prop_map(Some)].boxed()
        };
        // Mostly permanent services: the others soon stay down.
        let kind = prop_oneof![3 => Just(0), 1 => Just(1), 1 => Just(2)];
        let failure = (
            0..services,
            prop::collection::vec(0..services, 0..3),
            STEPS_MIN..STEPS_MAX,
        );
        (
            rules(),
            prop::collection::vec(rules(), groups),
            prop::collection::vec((kind, group), services),
            prop::collection::vec(failure, 1..10),
        )
            .prop_map(|(root, groups, services, mut failures)| {
                // The order of two supervisors that recover at once is undefined, and only one
                // order can be compared. So starts fail only under a supervisor that no other
                // supervisor beside or above could disturb.
                let alone = services.iter().all(|(_, group)| group.is_some())
                    && services.iter().all(|(_, group)| *group == services[0].1);
                for (service, fail_starts, _) in &mut failures {
                    let fits = |service: usize| alone || services[service].1.is_none();
                    fail_starts.retain(|other| fits(*other) && fits(*service));
                }
                Plan {
                    root,
                    groups,
                    services,
                    failures,
                }
            })
    })
}

// --- The model: OTP's rules, written down directly ---

#[derive(Debug, Clone, Copy, PartialEq)]
enum Node {
    Service(usize),
    Group(usize),
}

struct Child {
    node: Node,
    temporary: bool,
    /// Whether the child runs, as far as its supervisor knows.
    up: bool,
    /// A temporary child that ended or was stopped.
    gone: bool,
    /// Number that changes with every start and stop.
    life: u32,
    /// Failures in a row: only the first one is followed by an immediate restart.
    failures: u32,
}

struct Supervisor {
    rules: Rules,
    children: Vec<Child>,
    /// Times of the supervisor's restarts.
    restarts: Vec<u64>,
}

/// A run of a node. It is outdated once the node's number of the run has changed.
struct Life {
    node: Node,
    life: u32,
}

struct Model {
    /// The groups; the root is the last one.
    supervisors: Vec<Supervisor>,
    running: Vec<bool>,
    fail_starts: HashMap<usize, u32>,
    /// Ended nodes whose supervisor has not seen the exit yet.
    exits: VecDeque<Life>,
    /// Nodes that wait for their restart while their supervisor does other things. All waits have
    /// the same length: only services wait together with others, and the manifest sets one
    /// millisecond for each.
    waiting: VecDeque<Life>,
    log: Vec<String>,
    failed: bool,
}

impl Model {
    fn new(plan: &Plan) -> Self {
        let rules = plan.groups.iter().copied().chain([plan.root]);
        let mut supervisors: Vec<Supervisor> = rules
            .map(|rules| Supervisor {
                rules,
                children: Vec::new(),
                restarts: Vec::new(),
            })
            .collect();
        let root = plan.groups.len();
        let child = |node, temporary| Child {
            node,
            temporary,
            up: true,
            gone: false,
            life: 0,
            failures: 0,
        };
        for (service, (kind, group)) in plan.services.iter().enumerate() {
            if let Some(group) = group
                && supervisors[*group].children.is_empty()
            {
                // A group has the position of its first service.
                let node = child(Node::Group(*group), false);
                supervisors[root].children.push(node);
            }
            let node = child(Node::Service(service), *kind == 2);
            supervisors[group.unwrap_or(root)].children.push(node);
        }
        let mut model = Self {
            supervisors,
            running: vec![true; plan.services.len()],
            fail_starts: HashMap::new(),
            exits: VecDeque::new(),
            waiting: VecDeque::new(),
            log: Vec::new(),
            failed: false,
        };
        for service in 0..plan.services.len() {
            model.log.push(format!("start s{service}"));
        }
        model
    }

    /// Returns the supervisor of a node and the node's index there.
    fn place(&self, node: Node) -> (usize, usize) {
        let places = self.supervisors.iter().enumerate();
        let mut places = places.filter_map(|(supervisor, of)| {
            let number = of.children.iter().position(|child| child.node == node)?;
            Some((supervisor, number))
        });
        places.next().expect("it stands somewhere")
    }

    fn child(&mut self, node: Node) -> &mut Child {
        let (supervisor, number) = self.place(node);
        &mut self.supervisors[supervisor].children[number]
    }

    fn end(&mut self, node: Node) {
        let life = self.child(node).life;
        self.exits.push_back(Life { node, life });
    }

    /// Fails a service if it runs, and applies all consequences.
    fn fail(&mut self, service: usize, now: u64) {
        if !std::mem::take(&mut self.running[service]) {
            return;
        }
        // The last failure is older than the time that resets the row.
        for child in self.supervisors.iter_mut().flat_map(|s| &mut s.children) {
            child.failures = 0;
        }
        self.end(Node::Service(service));
        loop {
            if let Some(exit) = self.exits.pop_front() {
                if self.child(exit.node).life == exit.life {
                    self.handle(exit.node, now);
                }
            } else if let Some(waited) = self.waiting.pop_front() {
                if self.child(waited.node).life == waited.life {
                    self.start(waited.node);
                }
            } else {
                return;
            }
        }
    }

    fn handle(&mut self, node: Node, now: u64) {
        let (supervisor, number) = self.place(node);
        let is_root = supervisor == self.supervisors.len() - 1;
        let this = &mut self.supervisors[supervisor];
        this.children[number].up = false;
        if this.children[number].temporary {
            this.children[number].gone = true;
            return;
        }
        let within = WINDOWS_S[this.rules.window];
        this.restarts.push(now);
        this.restarts.retain(|at| now - at <= within);
        if this.restarts.len() > this.rules.max_restarts {
            for child in (0..this.children.len()).rev() {
                self.stop_child(supervisor, child);
            }
            if is_root {
                self.failed = true;
            } else {
                self.end(Node::Group(supervisor));
            }
            return;
        }
        let child = &mut this.children[number];
        child.failures += 1;
        if STRATEGIES[this.rules.strategy] == "one_for_one" && child.failures > 1 {
            child.up = true;
            let life = child.life;
            self.waiting.push_back(Life { node, life });
            return;
        }
        let last = this.children.len() - 1;
        let (from, to) = match STRATEGIES[this.rules.strategy] {
            "one_for_one" => (number, number),
            "one_for_all" => (0, last),
            _ => (number, last),
        };
        for child in (from..=to).rev() {
            self.stop_child(supervisor, child);
        }
        for child in from..=to {
            let child = &mut self.supervisors[supervisor].children[child];
            child.gone |= child.temporary;
            if !child.gone {
                child.up = true;
                let node = child.node;
                self.start(node);
            }
        }
    }

    /// Stops a child that its supervisor takes for running.
    fn stop_child(&mut self, supervisor: usize, child: usize) {
        let child = &mut self.supervisors[supervisor].children[child];
        if std::mem::take(&mut child.up) {
            let node = child.node;
            self.stop(node);
        }
    }

    fn stop(&mut self, node: Node) {
        self.child(node).life += 1;
        match node {
            Node::Service(service) => {
                if std::mem::take(&mut self.running[service]) {
                    self.log.push(format!("stop s{service}"));
                }
            }
            Node::Group(group) => {
                for child in (0..self.supervisors[group].children.len()).rev() {
                    let node = self.supervisors[group].children[child].node;
                    self.stop(node);
                }
            }
        }
    }

    fn start(&mut self, node: Node) {
        self.child(node).life += 1;
        match node {
            Node::Service(service) => {
                self.log.push(format!("start s{service}"));
                let left = self.fail_starts.entry(service).or_default();
                self.running[service] = *left == 0;
                if *left > 0 {
                    *left -= 1;
                    self.end(node);
                }
            }
            Node::Group(group) => {
                self.supervisors[group].restarts.clear();
                for child in 0..self.supervisors[group].children.len() {
                    let child = &mut self.supervisors[group].children[child];
                    (child.up, child.gone, child.failures) = (true, false, 0);
                    let node = child.node;
                    self.start(node);
                }
            }
        }
    }
}

// --- The real tree ---

fn manifest(name: &str, plan: &Plan) -> String {
    let rules = |rules: &Rules| {
        let Rules {
            strategy,
            max_restarts,
            window,
        } = rules;
        let (strategy, within) = (STRATEGIES[*strategy], WINDOWS_S[*window]);
        format!("strategy = '{strategy}'\nmax_restarts = {max_restarts}\nwithin = '{within}s'\n")
    };
    let mut text = format!(
        "[app]\nname = 'tree'\ntransport = 'memory:'\n[admin]\nlisten = 'off'\n[supervision]\n{}",
        rules(&plan.root)
    );
    text.push_str("[topics.work]\nexternal = 'in'\n");
    for (group, of) in plan.groups.iter().enumerate() {
        let members = plan.services.iter().enumerate();
        let members: Vec<String> = members
            .filter(|(_, (_, in_group))| *in_group == Some(group))
            .map(|(service, _)| format!("'s{service}'"))
            .collect();
        if members.is_empty() {
            continue;
        }
        let members = members.join(", ");
        let rules = rules(of);
        writeln!(text, "[groups.g{group}]\nservices = [{members}]\n{rules}").unwrap();
    }
    for (service, (kind, _)) in plan.services.iter().enumerate() {
        let kind = TYPES[*kind];
        writeln!(
            text,
            "[services.s{service}]\nuse = 'subject'\nin = 'work'\nconfig.script = '{name}'\n\
             restart = {{ policy = '{kind}', max_restarts = 0, on_give_up = 'escalate', \
             backoff = {{ min = '1ms', max = '1ms', jitter = 0 }} }}"
        )
        .unwrap();
    }
    text
}

/// Returns the logs of the real tree and of the model, each with whether the app failed.
fn run(name: &str, plan: &Plan) -> ((Vec<String>, bool), (Vec<String>, bool)) {
    let mut model = Model::new(plan);
    script(name, |script| *script = Default::default());
    let failed = virtually(async {
        let catalog = Catalog::new().with::<Subject>();
        let app = TestApp::start(&manifest(name, plan), &catalog).await;
        let mut now = 0;
        for (service, fail_starts, steps) in &plan.failures {
            for starting in fail_starts {
                *model.fail_starts.entry(*starting).or_default() += 1;
            }
            script(name, |script| {
                script.fail.push(format!("s{service}"));
                for starting in fail_starts {
                    *script
                        .fail_starts
                        .entry(format!("s{starting}"))
                        .or_default() += 1;
                }
            });
            let gap = steps * STEP_S;
            tokio::time::sleep(Duration::from_secs(gap)).await;
            model.fail(*service, now);
            now += gap;
            script(name, |script| script.fail.clear());
        }
        let failed = tokio::time::timeout(Duration::ZERO, app.app.failed())
            .await
            .is_ok();
        app.stop().await;
        failed
    });
    for service in (0..plan.services.len()).rev() {
        if model.running[service] {
            model.log.push(format!("stop s{service}"));
        }
    }
    let real = script(name, |script| script.log.clone());
    ((real, failed), (model.log, model.failed))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_supervisor_tree_follows_the_rules_of_otp(plan in plans()) {
        let (real, model) = run("model", &plan);
        prop_assert_eq!(real, model);
    }
}

/// Two children of one supervisor fail in their starts. The second failure exceeds the limit, so
/// the first child, which waits for its restart, does not start any more.
#[test]
fn a_waiting_service_does_not_start_once_its_supervisor_gives_up() {
    let rules = |max_restarts, window| Rules {
        strategy: 0,
        max_restarts,
        window,
    };
    let plan = Plan {
        root: rules(1, 0),
        groups: vec![rules(3, 1)],
        services: vec![(0, Some(0)), (0, Some(0))],
        failures: vec![(1, vec![0, 0], 2), (1, vec![0], 2), (0, vec![1, 1], 2)],
    };
    let (real, model) = run("waiting", &plan);
    assert_eq!(real, model);
    let last: Vec<&str> = real.0.iter().rev().take(4).map(String::as_str).collect();
    assert_eq!(last, ["start s1", "start s0", "start s1", "start s0"]);
    assert!(real.1, "and so does the app");
}

#[test]
fn a_cascade_of_failures_reaches_the_root() {
    // A group that gives up at its first failure, under a root that allows one restart.
    let rules = |strategy, max_restarts| Rules {
        strategy,
        max_restarts,
        window: 2,
    };
    let plan = Plan {
        root: rules(0, 1),
        groups: vec![rules(1, 0)],
        services: vec![(0, Some(0)), (0, Some(0)), (0, None)],
        failures: vec![(1, vec![], STEPS_MIN), (0, vec![], STEPS_MIN)],
    };
    let (real, model) = run("cascade", &plan);
    let expected = [
        // All start; `s1` fails: the group gives up, and the root restarts it.
        "start s0", "start s1", "start s2", "stop s0", "start s0", "start s1",
        // The same again: now the root gives up and stops the rest in reverse order.
        "stop s1", "stop s2",
    ];
    assert_eq!(real, (expected.map(str::to_owned).to_vec(), true));
    assert_eq!(real, model);
}

/// A service with a back-off of half a minute does not delay the others.
#[test]
fn a_service_restarts_at_once_while_another_one_waits_for_its_back_off() {
    let service = |name: &str, wait: &str| {
        format!(
            "[services.{name}]\nuse = 'subject'\nin = 'work'\nconfig.script = 'neighbours'\n\
             restart = {{ max_restarts = 0, on_give_up = 'escalate', \
             backoff = {{ min = '{wait}', max = '{wait}', jitter = 0 }} }}\n"
        )
    };
    let manifest = format!(
        "[app]\nname = 'tree'\ntransport = 'memory:'\n[admin]\nlisten = 'off'\n\
         [supervision]\nstrategy = 'one_for_one'\nmax_restarts = 9\nwithin = '1h'\n\
         [topics.work]\nexternal = 'in'\n{}{}",
        service("slow", "20s"),
        service("quick", "1ms")
    );
    let logs = virtually(async {
        let catalog = Catalog::new().with::<Subject>();
        let app = TestApp::start(&manifest, &catalog).await;
        let mut logs = Vec::new();
        // The second failure in a row waits; the other service fails one tick later.
        for (name, seconds) in [("slow", 3), ("slow", 3), ("quick", 3), ("", 20)] {
            script("neighbours", |script| {
                script.log.clear();
                script.fail = vec![name.to_owned()];
            });
            tokio::time::sleep(Duration::from_secs(seconds)).await;
            logs.push(script("neighbours", |script| script.log.join(", ")));
        }
        app.stop().await;
        logs
    });
    assert_eq!(logs, ["start slow", "", "start quick", "start slow"]);
}
