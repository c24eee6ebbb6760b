//! Three RabbitMQ nodes on this machine that form one cluster.
//!
//! A start waits until all nodes have joined: a queue that is declared before that has fewer
//! replicas for good.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::Value;

use crate::broker::Broker;
use crate::process::until;

/// Number of nodes.
pub const NODES: usize = 3;

/// Maximum time for nodes to join on a loaded machine.
const JOIN_MAX: Duration = Duration::from_secs(120);

/// A cluster. Dropping it stops the nodes.
#[derive(Debug)]
pub struct Cluster {
    nodes: Vec<Broker>,
}

impl Cluster {
    /// Starts three nodes and waits until all have joined.
    ///
    /// # Panics
    /// If they do not join.
    pub fn start() -> Self {
        let seed = Broker::start();
        let mut others = [Broker::joining(&seed), Broker::joining(&seed)];
        for other in &mut others {
            other.wait_until_it_answers();
        }
        let mut nodes = vec![seed];
        nodes.extend(others);
        let cluster = Self { nodes };
        cluster.until_all_are_in();
        cluster
    }

    /// Returns an `amqp://…` URL with all nodes.
    pub fn url(&self) -> String {
        let ports = self.nodes.iter().map(Broker::port);
        let hosts: Vec<String> = ports.map(|port| format!("127.0.0.1:{port}")).collect();
        format!("amqp://guest:guest@{}", hosts.join(","))
    }

    /// Returns a node.
    pub fn node(&self, place: usize) -> &Broker {
        &self.nodes[place]
    }

    /// Returns the place of the node that leads a queue, as reported by the running node `asked`.
    ///
    /// # Panics
    /// If the queue has no leader.
    pub fn leader(&self, asked: usize, queue: &str) -> usize {
        until("the queue has a leader", JOIN_MAX, || {
            let all = self.nodes[asked].ctl(&["list_queues", "name", "leader"]);
            let line = all
                .lines()
                .find(|line| line.split('\t').next() == Some(queue));
            let leader = line.and_then(|line| line.split('\t').nth(1));
            let place = self
                .nodes
                .iter()
                .position(|node| Some(node.node()) == leader);
            place.ok_or(all)
        })
    }

    /// Returns the place of the node that holds all connections, as reported by the running node
    /// `asked`.
    ///
    /// # Panics
    /// If there is no connection, or several nodes hold connections.
    pub fn connected(&self, asked: usize) -> usize {
        until("there are connections to one node", JOIN_MAX, || {
            let all = self.nodes[asked].ctl(&["list_connections", "port"]);
            let ports: BTreeSet<u16> = all.lines().filter_map(|line| line.parse().ok()).collect();
            let is_it = |node: &Broker| ports.contains(&node.port());
            match (ports.len(), self.nodes.iter().position(is_it)) {
                (1, Some(place)) => Ok(place),
                _ => Err(all),
            }
        })
    }

    /// Kills a node.
    ///
    /// # Panics
    /// If the process can't be killed.
    pub fn kill(&self, place: usize) {
        self.nodes[place].write_queues_down();
        self.nodes[place].kill();
    }

    /// Starts a node again and waits until all nodes have joined and every queue has all its
    /// replicas running.
    ///
    /// # Panics
    /// If the node does not come back.
    pub fn start_again(&mut self, place: usize) {
        self.nodes[place].start_again();
        self.until_all_are_in();
        until("every queue has all of its copies", JOIN_MAX, || {
            let queues = self.nodes[place].ctl(&["list_queues", "name", "online"]);
            let copies = |line: &&str| line.matches('@').count() < NODES;
            match queues.lines().skip(1).find(copies) {
                None => Ok(()),
                Some(line) => Err(line.to_owned()),
            }
        });
    }

    fn until_all_are_in(&self) {
        until("all nodes are in", JOIN_MAX, || {
            for node in &self.nodes {
                let status = node.ctl(&["cluster_status", "--formatter", "json"]);
                let status: Value = serde_json::from_str(&status).expect("it is JSON");
                let running = status["running_nodes"].as_array().map_or(0, Vec::len);
                if running != NODES {
                    return Err(format!("{} sees {running}", node.node()));
                }
            }
            Ok(())
        });
    }
}
