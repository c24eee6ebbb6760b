//! A checker of order by key: reads the ledger of [`key_witness`](crate::key_witness) and finds
//! messages that were overtaken, lost, repeated without a reason, or handled beside another one of
//! their key.
//!
//! # The rules
//! - A message begins when every earlier message of its key is finished: done, or given up.
//! - Two messages of a key are never handled at the same time.
//! - A message that was finished is handled again only after a disturbance: a kill, or a lost
//!   connection, that the test has written into the ledger. A disturbance that ends a process also
//!   ends its handlers.
//! - In the end every message is finished.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::fs::{File, OpenOptions};
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use brickwork::transport::{Backpressure, Completion, Outgoing, Topology, Transports};
use brickwork::{Envelope, Message};
use fastrand::Rng;
use serde_json::json;
use tokio::time::timeout;

/// Publications in flight while the messages are fed.
const WINDOW: usize = 256;
/// Longest wait for a confirm.
const CONFIRM: Duration = Duration::from_secs(60);
/// Number of problems that are kept.
const PROBLEMS_MAX: usize = 20;

/// A message of a test: the `n`-th of its key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    /// Number of the key.
    pub key: u32,
    /// Number in the key, from 0.
    pub n: u32,
}

/// Returns `count` messages of `keys` keys, mixed, those of each key in order.
pub fn entries(count: u32, keys: u32, random: &mut Rng) -> Vec<Entry> {
    let mut next = vec![0; keys as usize];
    let entries = (0..count).map(|_| {
        let key = random.u32(0..keys);
        let n = next[key as usize];
        next[key as usize] += 1;
        Entry { key, n }
    });
    entries.collect()
}

impl Entry {
    /// Returns the message, for a topic.
    pub fn message(self, topic: &str) -> Message {
        let payload = json!({"key": self.key, "n": self.n}).to_string();
        let mut envelope = Envelope::new("entry", payload);
        envelope.topic = topic.into();
        envelope.into()
    }
}

/// Publishes messages on a topic, in order, through a connection of its own.
///
/// # Panics
/// If the transport refuses one.
pub async fn feed(
    transports: &Transports,
    url: &str,
    topology: &Topology,
    topic: &str,
    entries: &[Entry],
) {
    let connector = transports.for_url(url).expect("the scheme is known");
    let connecting = connector.connect(url, std::sync::Arc::<Backpressure>::default());
    let transport = connecting.await.expect("it connects");
    transport.declare(topology).await.expect("it declares");
    let mut unconfirmed = VecDeque::new();
    for entry in entries {
        let (done, confirmed) = Completion::channel();
        transport.publish(vec![Outgoing::from(entry.message(topic))], done);
        unconfirmed.push_back(confirmed);
        if unconfirmed.len() == WINDOW {
            confirm(unconfirmed.pop_front()).await;
        }
    }
    while !unconfirmed.is_empty() {
        confirm(unconfirmed.pop_front()).await;
    }
    transport.close().await;
}

async fn confirm(
    confirmed: Option<impl Future<Output = Result<(), brickwork::transport::TransportError>>>,
) {
    if let Some(confirmed) = confirmed {
        let confirmed = timeout(CONFIRM, confirmed).await;
        confirmed.expect("in time").expect("it is published");
    }
}

/// The state of one key.
#[derive(Debug, Default)]
struct KeyState {
    /// Every message before this one is finished.
    next: u32,
    /// The messages in a handler, with their process.
    open: Vec<(u32, u32)>,
    /// For each finished message, the number of disturbances before its end.
    finished: Vec<u32>,
}

/// Follows a ledger while it is written.
#[derive(Debug)]
pub struct KeyChecker {
    ledger: PathBuf,
    read: u64,
    keys: HashMap<u32, KeyState>,
    disturbances: u32,
    /// Messages that are finished.
    finished: u64,
    /// Handlers that began.
    begun: u64,
    problems: Vec<String>,
}

impl KeyChecker {
    /// Makes a checker of a ledger, which may not exist yet.
    pub fn new(ledger: &Path) -> Self {
        Self {
            ledger: ledger.to_owned(),
            read: 0,
            keys: HashMap::new(),
            disturbances: 0,
            finished: 0,
            begun: 0,
            problems: Vec::new(),
        }
    }

    /// Writes into the ledger that a process has ended.
    ///
    /// # Panics
    /// If the ledger can't be written.
    pub fn killed(&self, process: u32) {
        self.write(&format!("K {process}\n"));
    }

    /// Writes into the ledger that messages may be repeated, such as after a lost connection.
    ///
    /// # Panics
    /// If the ledger can't be written.
    pub fn disturbed(&self) {
        self.write("D\n");
    }

    fn write(&self, line: &str) {
        let mut file = OpenOptions::new()
            .append(true)
            .create(true)
            .open(&self.ledger)
            .expect("the ledger can be opened");
        file.write_all(line.as_bytes()).expect("it can be written");
    }

    /// Reads the lines that were written since the last call. Returns the number of finished messages.
    ///
    /// # Panics
    /// If the ledger can't be read.
    pub fn follow(&mut self) -> u64 {
        let Ok(mut file) = File::open(&self.ledger) else {
            return 0;
        };
        file.seek(SeekFrom::Start(self.read)).expect("it can seek");
        let text = std::io::read_to_string(file).expect("it is text");
        // The last line may be incomplete.
        let end = text.rfind('\n').map_or(0, |end| end + 1);
        self.read += end as u64;
        for line in text[..end].lines() {
            self.line(line);
        }
        self.finished
    }

    fn line(&mut self, line: &str) {
        let mut parts = line.split(' ');
        let letter = parts.next().unwrap_or_default();
        let numbers: Vec<u32> = parts.map_while(|part| part.parse().ok()).collect();
        match (letter, numbers.as_slice()) {
            ("B", &[process, key, n]) => self.begins(process, key, n),
            ("F", &[process, key, n]) => self.ends(process, key, n, true),
            ("A", &[process, key, n]) => self.ends(process, key, n, false),
            ("K", &[process]) => {
                self.disturbances += 1;
                for state in self.keys.values_mut() {
                    state.open.retain(|(other, _)| *other != process);
                }
            }
            ("D", []) => self.disturbances += 1,
            _ => panic!("a wrong line: {line:?}"),
        }
    }

    fn begins(&mut self, process: u32, key: u32, n: u32) {
        self.begun += 1;
        let state = self.keys.entry(key).or_default();
        let open = state.open.clone();
        state.open.push((process, n));
        let next = state.next;
        let before = state.finished.get(n as usize).copied();
        if let Some((other, m)) = open.first() {
            self.problem(format!(
                "key {key}: {n} begins in process {process} while process {other} handles {m}"
            ));
        }
        if n > next {
            self.problem(format!("key {key}: {n} overtakes {next}"));
        }
        if before.is_some_and(|before| before == self.disturbances) {
            self.problem(format!("key {key}: {n} is repeated without a reason"));
        }
    }

    fn ends(&mut self, process: u32, key: u32, n: u32, is_final: bool) {
        let state = self.keys.entry(key).or_default();
        let place = state.open.iter().position(|it| *it == (process, n));
        if let Some(place) = place {
            state.open.remove(place);
        }
        if is_final {
            // Gaps are reported as overtaken.
            if n == state.next {
                state.finished.push(self.disturbances);
                state.next = n + 1;
                self.finished += 1;
            } else if let Some(finished) = state.finished.get_mut(n as usize) {
                *finished = self.disturbances;
            }
        }
        if place.is_none() {
            self.problem(format!("key {key}: {n} ends and did not begin"));
        }
    }

    fn problem(&mut self, problem: String) {
        if self.problems.len() < PROBLEMS_MAX {
            self.problems.push(problem);
        }
    }

    /// Returns the problems so far.
    pub fn problems(&self) -> &[String] {
        &self.problems
    }

    /// Checks that every message of `entries` is finished, and that there was no problem. Returns
    /// an account.
    ///
    /// # Errors
    /// The problems.
    pub fn verdict(&mut self, entries: &[Entry]) -> Result<String, String> {
        self.follow();
        let mut counts: BTreeMap<u32, u32> = BTreeMap::new();
        for entry in entries {
            *counts.entry(entry.key).or_default() += 1;
        }
        for (key, count) in counts {
            let next = self.keys.get(&key).map_or(0, |state| state.next);
            if next < count {
                self.problem(format!("key {key}: {next} of {count} are finished"));
            }
        }
        match self.problems.as_slice() {
            [] => Ok(format!(
                "{} messages finished in {} attempts, {} disturbances",
                self.finished, self.begun, self.disturbances
            )),
            problems => Err(problems.join("\n")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(lines: &str, count: u32) -> Result<String, String> {
        let folder = tempfile::tempdir().expect("a folder can be made");
        let mut checker = KeyChecker::new(&folder.path().join("ledger"));
        checker.write(lines);
        let entries: Vec<_> = (0..count).map(|n| Entry { key: 7, n }).collect();
        checker.verdict(&entries)
    }

    #[test]
    fn a_ledger_in_order_is_accepted() {
        let lines = "B 1 7 0\nA 1 7 0\nB 1 7 0\nF 1 7 0\nB 1 7 1\nF 1 7 1\n";
        verdict(lines, 2).unwrap();
        // After a kill, messages may be repeated; a handler of the dead process is gone.
        let lines = "B 1 7 0\nF 1 7 0\nB 1 7 1\nK 1\nB 2 7 0\nF 2 7 0\nB 2 7 1\nF 2 7 1\n";
        verdict(lines, 2).unwrap();
    }

    #[test]
    fn each_problem_is_found() {
        for (lines, expected) in [
            ("B 1 7 0\nF 1 7 0\n", "1 of 2 are finished"),
            ("B 1 7 1\nF 1 7 1\nB 1 7 0\nF 1 7 0\n", "1 overtakes 0"),
            ("B 1 7 0\nA 1 7 0\nB 1 7 1\nF 1 7 1\n", "1 overtakes 0"),
            ("B 1 7 0\nB 2 7 1\n", "while process 1 handles 0"),
            ("B 1 7 0\nF 1 7 0\nB 1 7 0\n", "repeated without a reason"),
            ("K 1\nB 2 7 0\nF 2 7 0\nB 2 7 0\n", "repeated without"),
            ("F 1 7 0\n", "did not begin"),
        ] {
            let problems = verdict(lines, 2).unwrap_err();
            assert!(problems.contains(expected), "{lines}: {problems}");
        }
    }
}
