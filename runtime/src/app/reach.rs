//! The services that the messages of a source can reach.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::Plan;

/// Sources, and for each one the services that its messages can reach, over all hops.
pub(super) type Reach = HashMap<Arc<str>, HashSet<Box<str>>>;

impl Plan {
    pub(super) fn reach(&self) -> Reach {
        let mut readers: HashMap<&str, Vec<usize>> = HashMap::new();
        for (number, service) in self.services.iter().enumerate() {
            for topic in service.inputs.iter().flat_map(|input| &input.topics) {
                readers.entry(topic).or_default().push(number);
            }
        }
        let next = |number: usize| {
            let outputs = self.services[number].outputs.iter();
            let topics = outputs.flat_map(|output| &output.topics);
            topics.filter_map(|topic| readers.get(&**topic)).flatten()
        };
        let sources = self.services.iter().enumerate();
        let sources = sources.filter(|(_, service)| service.inputs.is_empty());
        let reached_from = |source: usize| {
            let mut reached = HashSet::new();
            let mut open: Vec<usize> = next(source).copied().collect();
            while let Some(number) = open.pop() {
                if reached.insert(Box::from(&*self.services[number].label)) {
                    open.extend(next(number));
                }
            }
            reached
        };
        sources
            .map(|(number, service)| (service.label.clone(), reached_from(number)))
            .collect()
    }
}
