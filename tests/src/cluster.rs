//! Three RabbitMQ nodes on this machine that are one cluster.
//!
//! Owns that they are one: queues that are declared while not all nodes are in have
//! fewer copies for good.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::Value;

use crate::broker::Broker;
use crate::process::until;

/// How many nodes.
pub const NODES: usize = 3;

/// For nodes that find each other while others use the machine, too.
const JOIN_MAX: Duration = Duration::from_secs(120);

/// A cluster; it goes when it is dropped.
#[derive(Debug)]
pub struct Cluster {
    nodes: Vec<Broker>,
}

impl Cluster {
    /// Starts three nodes and waits until all are in.
    ///
    /// # Panics
    /// They don't come together.
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

    /// `amqp://…` with all of its nodes.
    pub fn url(&self) -> String {
        let ports = self.nodes.iter().map(Broker::port);
        let hosts: Vec<String> = ports.map(|port| format!("127.0.0.1:{port}")).collect();
        format!("amqp://guest:guest@{}", hosts.join(","))
    }

    /// A node.
    pub fn node(&self, place: usize) -> &Broker {
        &self.nodes[place]
    }

    /// The place of the node that leads a queue, by what a node says that runs.
    ///
    /// # Panics
    /// Nobody leads it.
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

    /// The place of the node that all connections are to, by what a node says that runs.
    ///
    /// # Panics
    /// There is no connection, or they are to several.
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

    /// Ends a node without a warning.
    ///
    /// # Panics
    /// It can't be ended.
    pub fn kill(&self, place: usize) {
        self.nodes[place].write_queues_down();
        self.nodes[place].kill();
    }

    /// Starts a node again and waits until all are in, and every queue has every copy at
    /// work.
    ///
    /// # Panics
    /// It doesn't come back.
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
