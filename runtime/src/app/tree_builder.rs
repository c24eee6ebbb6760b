//! The shape of an app's tree: which services stand under which supervisor.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;

use super::plan::{Plan, SupervisorPlan};
use crate::child_process::RespawnCommand;
use crate::host::ServiceHandle;
use crate::supervision::{ChildSpec, DEFAULT_RESTART, RestartType};
use crate::supervisors::{
    Child, ChildExit, Failed, Group, GroupChild, GroupPolicy, Parent, ParentLink,
    ProcessSupervisor, ServiceSupervisor, Supervised, Threads,
};

/// The supervisors above the services.
pub(super) struct SupervisorTree {
    groups: Vec<Rc<Group>>,
    root: Group,
}

impl SupervisorTree {
    /// All cease to supervise: services stay as they are.
    pub(super) fn cease(&self) {
        self.root.cease();
        for group in &self.groups {
            group.cease();
        }
    }
}

/// A supervisor to be.
struct SupervisorNode {
    name: Arc<str>,
    plan: SupervisorPlan,
    sender: mpsc::Sender<ChildExit>,
    ended: mpsc::Receiver<ChildExit>,
    /// In the manifest's order.
    children: Vec<Node>,
}

#[derive(Clone, Copy)]
enum Node {
    /// By its place among the services that run here.
    Service(usize),
    /// By its place among the groups.
    Group(usize),
}

impl SupervisorNode {
    fn new(name: Arc<str>, plan: SupervisorPlan, children: Vec<Node>) -> Self {
        // Each child ends once in a life.
        let (sender, ended) = mpsc::channel(children.len().max(1) * 2);
        Self {
            name,
            plan,
            sender,
            ended,
            children,
        }
    }

    fn up(&self, child: usize) -> ParentLink {
        ParentLink {
            child,
            sender: self.sender.clone(),
        }
    }
}

/// The tree before its services are there.
pub(super) struct TreePlan {
    root: SupervisorNode,
    groups: Vec<SupervisorNode>,
}

/// The tree before its supervisors are there.
pub(super) struct Shape {
    plot: TreePlan,
    services: Rc<[Rc<dyn Supervised>]>,
    stop_within: Duration,
}

/// Where services run.
pub(super) struct NodeIndex {
    pub(super) threads: Rc<Threads>,
    /// What is started again for those that run in processes of their own.
    pub(super) program: Option<Rc<RespawnCommand>>,
    /// How long one may take to stop.
    pub(super) stop_within: Duration,
}

impl TreePlan {
    /// The tree of a plan: a group stands where the first of its services does.
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

    /// Puts the services in, none of them started. Returns the supervisors of those that
    /// run in this process, too.
    pub(super) fn with(
        self,
        hosted: Vec<Arc<ServiceHandle>>,
        places: &NodeIndex,
    ) -> (Shape, Rc<[Rc<ServiceSupervisor>]>) {
        let mut ups: Vec<Option<ParentLink>> = vec![None; hosted.len()];
        for branch in self.groups.iter().chain([&self.root]) {
            for (child, node) in branch.children.iter().enumerate() {
                if let Node::Service(service) = node {
                    ups[*service] = Some(branch.up(child));
                }
            }
        }
        let mut here = Vec::new();
        let stop_within = places.stop_within;
        let services: Rc<[Rc<dyn Supervised>]> = hosted
            .into_iter()
            .zip(ups)
            .map(|(hosted, up)| -> Rc<dyn Supervised> {
                let up = up.expect("every service stands in the tree");
                match &places.program {
                    Some(program) if hosted.is_apart() => {
                        ProcessSupervisor::new(hosted, program.clone(), stop_within, up)
                    }
                    Some(_) | None => {
                        let threads = places.threads.clone();
                        let service = ServiceSupervisor::new(hosted, threads, stop_within, up);
                        here.push(service.clone());
                        service
                    }
                }
            })
            .collect();
        let shape = Shape {
            plot: self,
            services,
            stop_within,
        };
        (shape, here.into())
    }
}

impl Shape {
    /// The supervisors of all services, in the manifest's order.
    pub(super) fn services(&self) -> Rc<[Rc<dyn Supervised>]> {
        self.services.clone()
    }

    /// Begins to supervise. The services run already.
    pub(super) fn supervise(self, failed: Failed) -> SupervisorTree {
        let TreePlan { root, groups } = self.plot;
        let services = self.services;
        let stop_within = self.stop_within;
        let rules = |branch: &SupervisorNode| GroupPolicy {
            name: branch.name.clone(),
            strategy: branch.plan.strategy,
            intensity: branch.plan.intensity,
            stop_within,
        };
        let of_service = |service: usize| {
            let service = services[service].clone();
            let hosted = service.hosted();
            let spec = ChildSpec {
                restart: hosted.settings.restart.restart_type,
                policy: hosted.settings.restart.policy,
            };
            GroupChild {
                child: service,
                spec,
            }
        };
        let mut ups: Vec<Option<ParentLink>> = vec![None; groups.len()];
        for (child, node) in root.children.iter().enumerate() {
            if let Node::Group(group) = node {
                ups[*group] = Some(root.up(child));
            }
        }
        // A group of which nothing runs here has no place, and no supervisor.
        let groups: Vec<Option<Rc<Group>>> = groups
            .into_iter()
            .zip(ups)
            .map(|(branch, up)| {
                let parent = Parent::Supervisor(up?);
                let members = branch.children.iter().filter_map(|node| match node {
                    Node::Service(service) => Some(of_service(*service)),
                    Node::Group(_) => None,
                });
                let members = members.collect();
                let rules = rules(&branch);
                Some(Rc::new(Group::new(rules, members, branch.ended, parent)))
            })
            .collect();
        let members = root.children.iter().map(|node| match node {
            Node::Service(service) => of_service(*service),
            Node::Group(group) => {
                let group = groups[*group].clone();
                let child: Rc<dyn Child> = group.expect("it stands in the tree");
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
