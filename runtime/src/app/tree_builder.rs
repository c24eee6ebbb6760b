//! Builds the supervisor tree of an app: the root, a supervisor per group, and their services.

use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use tokio::sync::mpsc;

use super::plan::{Plan, SupervisorPlan};
use super::reach::Reach;
use crate::child_process::RespawnCommand;
use crate::host::ServiceHandle;
use crate::service::Kind;
use crate::status::GroupStatus;
use crate::supervision::{ChildSpec, DEFAULT_RESTART, RestartType};
use crate::supervisors::{
    Child, ChildExit, Failed, Group, GroupChild, GroupPolicy, Parent, ParentLink, StartGate,
    Supervised, Threads, supervise_apart, supervise_here,
};

/// The supervisors above the services.
pub(super) struct SupervisorTree {
    groups: Vec<Rc<Group>>,
    root: Group,
}

impl SupervisorTree {
    /// Starts all services in order, under supervision. Resolves when the starts have begun; a
    /// source waits for the services that it leads to.
    pub(super) async fn start(&self) {
        self.root.start().await;
    }

    /// Ends supervision; services keep running.
    pub(super) fn cease(&self) {
        self.root.cease();
        for group in &self.groups {
            group.cease();
        }
    }
}

/// A supervisor before it is built.
struct SupervisorNode {
    name: Arc<str>,
    plan: SupervisorPlan,
    sender: mpsc::Sender<ChildExit>,
    ended: mpsc::Receiver<ChildExit>,
    /// In the order of the group's list; those of the root in the order of the manifest.
    children: Vec<Node>,
    restarts: Arc<AtomicU64>,
}

#[derive(Clone, Copy)]
enum Node {
    /// Index among the services that run here.
    Service(usize),
    /// Index among the groups.
    Group(usize),
}

impl SupervisorNode {
    fn new(name: Arc<str>, plan: SupervisorPlan, children: Vec<Node>) -> Self {
        // Each child ends at most once per run, and the next run may begin before that is read.
        let (sender, ended) = mpsc::channel(children.len().max(1) * 2);
        Self {
            name,
            plan,
            sender,
            ended,
            children,
            restarts: Arc::default(),
        }
    }

    fn parent_link(&self, child: usize) -> ParentLink {
        ParentLink {
            child,
            sender: self.sender.clone(),
        }
    }
}

/// The tree before its services exist.
pub(super) struct TreePlan {
    root: SupervisorNode,
    groups: Vec<SupervisorNode>,
}

/// The tree with its services, before its supervisors exist.
pub(super) struct PlannedTree {
    plan: TreePlan,
    services: Rc<[Rc<Supervised>]>,
}

/// Threads and processes of the services.
pub(super) struct NodeIndex {
    pub(super) threads: Rc<Threads>,
    /// Command for child processes of services.
    pub(super) program: Option<Rc<RespawnCommand>>,
    /// Time of the app to stop within.
    pub(super) app_stops_within: Duration,
    /// The services that a source waits for when the app starts.
    pub(super) reach: Reach,
}

impl TreePlan {
    /// Lays out the tree. A group has the position of the first of its services.
    pub(super) fn of(plan: &Plan) -> Self {
        let here = plan
            .services
            .iter()
            .enumerate()
            .filter(|(_, s)| s.runs_here);
        let here: Vec<usize> = here.map(|(index, _)| index).collect();
        let mut groups: Vec<SupervisorNode> = Vec::new();
        let mut group_of = vec![None; here.len()];
        for group in &plan.groups {
            let members = group.services.iter();
            let members: Vec<usize> = members
                .filter_map(|index| here.iter().position(|here| here == index))
                .collect();
            for member in &members {
                group_of[*member] = Some(groups.len());
            }
            let children = members.into_iter().map(Node::Service).collect();
            groups.push(SupervisorNode::new(
                group.name.clone(),
                group.supervisor,
                children,
            ));
        }
        let mut children = Vec::new();
        let mut seen = vec![false; groups.len()];
        for (service, group) in group_of.iter().enumerate() {
            match group {
                None => children.push(Node::Service(service)),
                Some(group) if !std::mem::replace(&mut seen[*group], true) => {
                    children.push(Node::Group(*group));
                }
                Some(_) => {}
            }
        }
        Self {
            root: SupervisorNode::new(plan.name.clone(), plan.supervision, children),
            groups,
        }
    }

    /// Adds the services, which are not started.
    pub(super) fn with(self, hosted: Vec<Arc<ServiceHandle>>, places: &NodeIndex) -> PlannedTree {
        let mut parents: Vec<Option<ParentLink>> = vec![None; hosted.len()];
        for node in self.groups.iter().chain([&self.root]) {
            for (child, entry) in node.children.iter().enumerate() {
                if let Node::Service(service) = entry {
                    parents[*service] = Some(node.parent_link(child));
                }
            }
        }
        let gate = |label: &Arc<str>| {
            let reached = places.reach.get(label);
            let reached = hosted
                .iter()
                .filter(|it| reached.is_some_and(|reached| reached.contains(&*it.label)));
            StartGate::new(label.clone(), reached.cloned().collect())
        };
        let services = hosted.iter().cloned().zip(parents).map(|(hosted, up)| {
            let up = up.expect("every service has a place in the tree");
            let gate = gate(&hosted.label);
            match &places.program {
                Some(program) if hosted.is_apart() => {
                    supervise_apart(hosted, program.clone(), places.app_stops_within, gate, up)
                }
                _ => supervise_here(hosted, places.threads.clone(), gate, up),
            }
        });
        PlannedTree {
            services: services.collect(),
            plan: self,
        }
    }
}

impl PlannedTree {
    /// Returns the supervisors of all services, in the order of the manifest.
    pub(super) fn services(&self) -> Rc<[Rc<Supervised>]> {
        self.services.clone()
    }

    /// Returns the groups that have services in this process, for operators.
    pub(super) fn groups(&self) -> Vec<GroupStatus> {
        let label = |node: &Node| match node {
            Node::Service(service) => Some(self.services[*service].hosted.label.clone()),
            Node::Group(_) => None,
        };
        let here = self.plan.groups.iter().filter(|it| !it.children.is_empty());
        let groups = here.map(|group| GroupStatus {
            name: group.name.clone(),
            strategy: group.plan.strategy,
            services: group.children.iter().filter_map(label).collect(),
            restarts: group.restarts.clone(),
        });
        groups.collect()
    }

    /// Starts supervision. The services don't run yet.
    pub(super) fn supervise(self, failed: Failed) -> SupervisorTree {
        let TreePlan { root, groups } = self.plan;
        let services = self.services;
        let rules = |node: &SupervisorNode| GroupPolicy {
            name: node.name.clone(),
            strategy: node.plan.strategy,
            intensity: node.plan.intensity,
            restarts: node.restarts.clone(),
        };
        let of_service = |service: usize| {
            let service = services[service].clone();
            let restart = &service.hosted.settings.restart;
            let spec = ChildSpec {
                restart: match (restart.restart_type, service.hosted.blueprint.role()) {
                    // The end of a source that has one is not a failure.
                    (RestartType::Permanent, Kind::Source(source)) if source.ends() => {
                        RestartType::Transient
                    }
                    (restart_type, _) => restart_type,
                },
                policy: restart.policy,
            };
            GroupChild {
                child: service,
                spec,
            }
        };
        let mut parents: Vec<Option<ParentLink>> = vec![None; groups.len()];
        for (child, node) in root.children.iter().enumerate() {
            if let Node::Group(group) = node {
                parents[*group] = Some(root.parent_link(child));
            }
        }
        // A group without a service in this process has no supervisor.
        let groups: Vec<Option<Rc<Group>>> = groups
            .into_iter()
            .zip(parents)
            .map(|(node, up)| {
                let parent = Parent::Supervisor(up?);
                let members = node.children.iter().filter_map(|child| match child {
                    Node::Service(service) => Some(of_service(*service)),
                    Node::Group(_) => None,
                });
                let members = members.collect();
                let rules = rules(&node);
                Some(Rc::new(Group::new(rules, members, node.ended, parent)))
            })
            .collect();
        let members = root.children.iter().map(|node| match node {
            Node::Service(service) => of_service(*service),
            Node::Group(group) => {
                let group = groups[*group].clone();
                let child: Rc<dyn Child> = group.expect("the group has a supervisor");
                let spec = ChildSpec {
                    restart: RestartType::Permanent,
                    policy: DEFAULT_RESTART,
                };
                GroupChild { child, spec }
            }
        });
        let members = members.collect();
        let rules = rules(&root);
        SupervisorTree {
            root: Group::new(rules, members, root.ended, Parent::App(failed)),
            groups: groups.into_iter().flatten().collect(),
        }
    }
}
