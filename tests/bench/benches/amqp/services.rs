//! The same load, shared by 1, 10 and 100 services in one process.

use brickwork_bench::rounds::median;

use crate::hop::{Round, measured};
use crate::work::Bench;

const MESSAGES: usize = 20_000;
const ROUNDS: usize = 3;
const BYTES: usize = 256;

pub(crate) fn run(bench: &Bench) {
    let numbers = [1, 10, 100];
    let mut rounds: [Vec<Round>; 3] = Default::default();
    let mut queues = Vec::new();
    for count in numbers {
        let topics: Vec<String> = (0..count).map(|n| format!("todo-{count}-{n}")).collect();
        let labels: Vec<String> = (0..count).map(|n| format!("hop-{count}-{n}")).collect();
        let mut services = "[services.sink]\nin = \"done\"\n".to_owned();
        for (topic, label) in topics.iter().zip(&labels) {
            services += &format!(
                "[topics.{topic}]\nexternal = \"in\"\n[services.{label}]\nuse = \"hop\"\n\
                 in = \"{topic}\"\nout = \"done\"\n"
            );
        }
        bench.run(&services, &labels, 0);
        queues.push((topics, labels, services));
    }
    for round in 0..=ROUNDS {
        for ((topics, labels, services), rounds) in queues.iter().zip(&mut rounds) {
            bench.fill(topics, MESSAGES, BYTES);
            let measured = measured(MESSAGES, || bench.run(services, labels, MESSAGES));
            assert_eq!(bench.ready("bench.sink.in"), MESSAGES);
            if round > 0 {
                rounds.push(measured);
            }
        }
    }
    println!(
        "{MESSAGES} messages of {BYTES} bytes shared by services, mailbox 64, median of {ROUNDS}"
    );
    let cpu = |rounds: &[Round]| median(&mut rounds.iter().map(|it| it.cpu).collect::<Vec<_>>());
    let rate = |rounds: &[Round]| median(&mut rounds.iter().map(|it| it.rate).collect::<Vec<_>>());
    for (count, rounds_of) in numbers.iter().zip(&rounds) {
        println!(
            "  {count:>3} services {:>7.2} k/s  {:>6.1} µs of CPU a message, {:.2} times that of one",
            rate(rounds_of),
            cpu(rounds_of),
            cpu(rounds_of) / cpu(&rounds[0])
        );
    }
    println!();
}
