//! The model of a supervisor tree: OTP's rules, written down directly.

use super::*;

#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Node {
    Service(usize),
    Group(usize),
}

pub(super) struct Child {
    pub(super) node: Node,
    pub(super) temporary: bool,
    /// Whether the child runs, as far as its supervisor knows.
    pub(super) up: bool,
    /// A temporary child that ended or was stopped.
    pub(super) gone: bool,
    /// The child ended and waits for its restart.
    pub(super) waits: bool,
    /// Number that changes with every start and stop.
    pub(super) life: u32,
    /// Failures in a row: only the first one is followed by an immediate restart.
    pub(super) failures: u32,
}

pub(super) struct Supervisor {
    pub(super) rules: Rules,
    pub(super) children: Vec<Child>,
    /// Times of the supervisor's restarts.
    pub(super) restarts: Vec<u64>,
}

/// A run of a node. It is outdated once the node's number of the run has changed.
pub(super) struct Life {
    pub(super) node: Node,
    pub(super) life: u32,
}

pub(super) struct Model {
    /// The groups; the root is the last one.
    pub(super) supervisors: Vec<Supervisor>,
    pub(super) running: Vec<bool>,
    pub(super) fail_starts: HashMap<usize, u32>,
    /// Ended nodes whose supervisor has not seen the exit yet.
    pub(super) exits: VecDeque<Life>,
    /// Nodes that wait for their restart while their supervisor does other things. All waits have
    /// the same length: only services wait together with others, and the manifest sets one
    /// millisecond for each.
    pub(super) waiting: VecDeque<Life>,
    pub(super) log: Vec<String>,
    pub(super) failed: bool,
}

impl Model {
    pub(super) fn new(plan: &Plan) -> Self {
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
            waits: false,
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
        for (group, rules) in plan.groups.iter().enumerate() {
            if rules.reversed {
                supervisors[group].children.reverse();
            }
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
        for child in 0..model.supervisors[root].children.len() {
            let node = model.supervisors[root].children[child].node;
            model.start(node);
        }
        model
    }

    /// Returns the supervisor of a node and the node's index there.
    pub(super) fn place(&self, node: Node) -> (usize, usize) {
        let places = self.supervisors.iter().enumerate();
        let mut places = places.filter_map(|(supervisor, of)| {
            let number = of.children.iter().position(|child| child.node == node)?;
            Some((supervisor, number))
        });
        places.next().expect("it stands somewhere")
    }

    pub(super) fn child(&mut self, node: Node) -> &mut Child {
        let (supervisor, number) = self.place(node);
        &mut self.supervisors[supervisor].children[number]
    }

    pub(super) fn end(&mut self, node: Node) {
        let life = self.child(node).life;
        self.exits.push_back(Life { node, life });
    }

    /// Fails a service if it runs, and applies all consequences.
    pub(super) fn fail(&mut self, service: usize, now: u64) {
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
                if self.child(waited.node).life == waited.life && self.child(waited.node).waits {
                    self.restart(waited.node);
                }
            } else {
                return;
            }
        }
    }

    pub(super) fn handle(&mut self, node: Node, now: u64) {
        let (supervisor, number) = self.place(node);
        let is_root = supervisor == self.supervisors.len() - 1;
        let this = &mut self.supervisors[supervisor];
        this.children[number].up = false;
        if this.children[number].temporary {
            this.children[number].gone = true;
            return;
        }
        let waits = |sibling: usize| this.children[sibling].waits && covers(this, sibling, number);
        if (0..this.children.len()).any(waits) {
            return;
        }
        let within = WINDOWS_S[this.rules.window];
        this.restarts.push(now);
        this.restarts.retain(|at| now - at <= within);
        if this.restarts.len() > this.rules.max_restarts {
            for child in (0..this.children.len()).rev() {
                self.supervisors[supervisor].children[child].waits = false;
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
        child.waits = true;
        if child.failures > 1 {
            let life = child.life;
            self.waiting.push_back(Life { node, life });
        } else {
            self.restart(node);
        }
    }

    /// Restarts a child that ended, as the strategy of its supervisor says.
    fn restart(&mut self, node: Node) {
        let (supervisor, number) = self.place(node);
        let this = &self.supervisors[supervisor];
        let all = 0..this.children.len();
        let scope: Vec<usize> = all.filter(|child| covers(this, number, *child)).collect();
        for child in scope.iter().rev() {
            self.stop_child(supervisor, *child);
        }
        for child in scope {
            let child = &mut self.supervisors[supervisor].children[child];
            child.gone |= child.temporary;
            child.waits = false;
            if !child.gone {
                child.up = true;
                let node = child.node;
                self.start(node);
            }
        }
    }

    /// Stops a child that its supervisor takes for running.
    pub(super) fn stop_child(&mut self, supervisor: usize, child: usize) {
        let child = &mut self.supervisors[supervisor].children[child];
        if std::mem::take(&mut child.up) {
            let node = child.node;
            self.stop(node);
        }
    }

    pub(super) fn stop(&mut self, node: Node) {
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

    pub(super) fn start(&mut self, node: Node) {
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
                    (child.up, child.gone, child.waits, child.failures) = (true, false, false, 0);
                    let node = child.node;
                    self.start(node);
                }
            }
        }
    }
}

/// Whether the restart of a child concerns another one.
fn covers(supervisor: &Supervisor, child: usize, other: usize) -> bool {
    match STRATEGIES[supervisor.rules.strategy] {
        "one_for_one" => child == other,
        "one_for_all" => true,
        _ => child <= other,
    }
}
