//! Modules that import each other.

use std::collections::{BTreeMap, BTreeSet};

/// Modules, each with the modules that it imports.
pub(crate) type Graph = BTreeMap<String, BTreeSet<String>>;

/// Returns the groups of modules that reach each other through imports, each sorted.
pub(crate) fn circles(graph: &Graph) -> Vec<Vec<String>> {
    let reached: BTreeMap<&str, BTreeSet<&str>> = graph
        .keys()
        .map(|from| (from.as_str(), reachable(graph, from)))
        .collect();
    let mut found: BTreeSet<Vec<String>> = BTreeSet::new();
    for (from, targets) in &reached {
        if !targets.contains(from) {
            continue;
        }
        let returns = |to: &&&str| reached.get(**to).is_some_and(|back| back.contains(from));
        found.insert(
            targets
                .iter()
                .filter(returns)
                .map(|to| (*to).to_owned())
                .collect(),
        );
    }
    found.into_iter().collect()
}

/// Returns all modules that `from` imports, directly or through others.
fn reachable<'a>(graph: &'a Graph, from: &str) -> BTreeSet<&'a str> {
    let mut reached = BTreeSet::new();
    let mut open = vec![from];
    while let Some(next) = open.pop() {
        for to in graph.get(next).into_iter().flatten() {
            if reached.insert(to.as_str()) {
                open.push(to);
            }
        }
    }
    reached
}

#[test]
fn a_circle_is_found_and_a_line_is_not_one() {
    let edges = [("a", "b"), ("b", "c"), ("c", "b"), ("c", "d")];
    let mut graph = Graph::new();
    for (from, to) in edges {
        graph
            .entry(from.to_owned())
            .or_default()
            .insert(to.to_owned());
    }
    assert_eq!(circles(&graph), [["b", "c"]]);
}
