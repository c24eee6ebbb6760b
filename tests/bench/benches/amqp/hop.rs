//! One hop: consume, handle, publish with confirm, ack; beside the same by hand, in alternating
//! rounds.

use brickwork_bench::raw::{self, Wire};
use brickwork_bench::rounds::median;

use crate::work::{Bench, FIRST, LAST, LEFT, Order, handled, mark};

const MESSAGES: usize = 20_000;
const ROUNDS: usize = 5;

/// Result of one round.
#[derive(Clone, Copy)]
pub(crate) struct Round {
    /// Thousand messages per second.
    pub(crate) rate: f64,
    /// CPU time of the client in microseconds per message.
    pub(crate) cpu: f64,
}

/// Measures from the first handled message to the last one.
pub(crate) fn measured(messages: usize, work: impl FnOnce()) -> Round {
    FIRST.set(None);
    LEFT.set(messages);
    work();
    let (first, last) = (FIRST.get(), LAST.get());
    let ((began, cpu_before), (ended, cpu)) = first.zip(last).expect("all were handled");
    Round {
        rate: messages as f64 / ended.duration_since(began).as_secs_f64() / 1e3,
        cpu: (cpu - cpu_before) / messages as f64 * 1e6,
    }
}

struct Candidate<'a> {
    name: &'static str,
    work: Box<dyn Fn() + 'a>,
    rounds: Vec<Round>,
}

impl<'a> Candidate<'a> {
    fn new(name: &'static str, work: impl Fn() + 'a) -> Self {
        Self {
            name,
            work: Box::new(work),
            rounds: Vec::new(),
        }
    }

    fn rate(&self) -> f64 {
        median(&mut self.rounds.iter().map(|it| it.rate).collect::<Vec<_>>())
    }

    fn cpu(&self) -> f64 {
        median(&mut self.rounds.iter().map(|it| it.cpu).collect::<Vec<_>>())
    }
}

fn by_hand(bench: &Bench, wire: Wire) {
    let url = bench.broker.url();
    let handle = |payload: &[u8]| {
        let order: Order = serde_json::from_slice(payload).expect("it is JSON");
        mark();
        serde_json::to_vec(&handled(order)).expect("it is JSON")
    };
    let work = raw::work(
        &url,
        "bench.hop.in",
        "bench",
        "done",
        MESSAGES,
        wire,
        handle,
    );
    bench.runtime.block_on(work);
}

pub(crate) fn run(bench: &Bench) {
    let services = format!(
        "[topics.todo]\nexternal = \"in\"\n\
         [services.hop]\nin = \"todo\"\nout = \"done\"\nmailbox = {}\n\
         [services.sink]\nin = \"done\"\n",
        raw::WINDOW - 1,
    );
    let only = ["hop".to_owned()];
    bench.run(&services, &only, 0);
    for bytes in [256, 4096] {
        let mut candidates = vec![
            Candidate::new("Brickwork", || bench.run(&services, &only, MESSAGES)),
            Candidate::new("lapin by hand, same headers", || by_hand(bench, Wire::Same)),
            Candidate::new("lapin by hand, bare", || by_hand(bench, Wire::Bare)),
        ];
        let chosen = std::env::var("BENCH_ONLY").unwrap_or_default();
        candidates.retain(|candidate| candidate.name.contains(&chosen));
        for round in 0..=ROUNDS {
            for candidate in &mut candidates {
                bench.fill(&["todo".to_owned()], MESSAGES, bytes);
                let measured = measured(MESSAGES, &candidate.work);
                assert_eq!(bench.ready("bench.sink.in"), MESSAGES);
                if round > 0 {
                    candidate.rounds.push(measured);
                }
            }
        }
        println!("{bytes} bytes, quorum, {MESSAGES} messages, median of {ROUNDS} rounds");
        let (rate, cpu) = (candidates[0].rate(), candidates[0].cpu());
        for candidate in &candidates {
            println!(
                "  {:<28} {:>7.2} k/s  {:>6.1} µs of CPU a message; the first is {:.2} times as \
                 fast, at {:.2} times the CPU",
                candidate.name,
                candidate.rate(),
                candidate.cpu(),
                rate / candidate.rate(),
                cpu / candidate.cpu()
            );
        }
        println!();
    }
}
