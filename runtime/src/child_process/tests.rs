//! Both ends of the link in one process.

use std::os::unix::net::UnixStream;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use tokio::time::timeout;

use super::*;
use crate::metrics::{Cause, Outcome};
use crate::status::fixtures::app;

const SOON: Duration = Duration::from_secs(20);
const SHUTDOWN: Duration = Duration::from_secs(7);

fn both_ends() -> (Link, ParentConnection) {
    let (parent, child) = UnixStream::pair().unwrap();
    parent.set_nonblocking(true).unwrap();
    let connection = ParentConnection::from_stream(child, SHUTDOWN).unwrap();
    (Link::new(parent).unwrap(), connection)
}

#[tokio::test]
async fn a_child_answers_before_its_app_is_open_and_is_not_idle() {
    let (mut link, _connection) = both_ends();
    let answer = link.stats().await.unwrap();
    assert!(answer.stats.is_none());
    assert!(!link.idle().await.unwrap().idle);
}

#[tokio::test]
async fn a_child_stops_within_the_given_time_and_sends_a_final_answer() {
    let (mut link, connection) = both_ends();
    let parent = tokio::spawn(async move {
        let answer = link.stop(Duration::from_secs(3)).await.unwrap();
        // The link is closed after the final answer.
        link.stats().await.unwrap_err();
        answer
    });
    let within = timeout(SOON, connection.asked_to_stop()).await.unwrap();
    assert_eq!(within, Duration::from_secs(3));
    connection.finish(vec!["order-17".into()]);
    let answer = timeout(SOON, parent).await.unwrap().unwrap();
    assert_eq!(answer.abandoned, ["order-17"]);
}

#[tokio::test]
async fn a_child_whose_parent_is_gone_stops_by_itself() {
    let (link, connection) = both_ends();
    drop(link);
    let within = timeout(SOON, connection.asked_to_stop()).await.unwrap();
    assert_eq!(within, SHUTDOWN);
}

#[tokio::test]
async fn a_late_answer_is_not_taken_for_the_answer_to_the_next_request() {
    let (mut link, _connection) = both_ends();
    for _ in 0..100 {
        // Dropped while the answer is on the way.
        let dropped = timeout(Duration::ZERO, link.idle()).await;
        assert!(dropped.is_err() || dropped.is_ok_and(|answer| answer.is_ok()));
    }
    let asked = link.idle().await.unwrap().number;
    assert_eq!(asked, 101);
    assert_eq!(link.stats().await.unwrap().number, 102);
}

#[test]
fn a_process_without_a_socket_on_stdin_is_not_supervised() {
    let file = tempfile::tempfile().unwrap();
    let stream = UnixStream::from(std::os::fd::OwnedFd::from(file));
    ParentConnection::from_stream(stream, SHUTDOWN).unwrap_err();
}

#[tokio::test]
async fn the_parent_mirrors_the_counts_of_its_child_across_processes() {
    let here = app().await;
    let hosted = &here.view.services[1].hosted;
    let mut shown = 0;
    for process in 1..=2 {
        let there = app().await;
        there.all_ready();
        let service = &there.view.services[1];
        let mut mirror = StatsMirror::default();
        for _poll in 0..2 {
            service.hosted.meters.handled(0, Outcome::Ok);
            let text = format!("in process {process}");
            service.hosted.note(Cause::Start, &text);
            let stats = there.view.service_stats(service);
            let line = serde_json::to_string(&stats).unwrap();
            assert!(mirror.apply(serde_json::from_str(&line).unwrap(), hosted));
            shown += 1;
            assert_eq!(hosted.meters.outcome_total(Outcome::Ok), shown);
            assert_eq!(hosted.state.failures_total(), shown);
        }
        assert_eq!(hosted.env().liveness.ready.load(Relaxed), 1);
        let last = hosted.state.failures().pop().unwrap();
        assert_eq!(
            (&*last.what, &*last.text),
            ("start", &*format!("in process {process}"))
        );
        StatsMirror::clear(hosted);
        assert_eq!(hosted.env().liveness.ready.load(Relaxed), 0);
    }
}

#[tokio::test]
async fn the_statistics_of_another_service_are_refused() {
    let (here, there) = (app().await, app().await);
    let stats = there.view.service_stats(&there.view.services[0]);
    assert!(!StatsMirror::default().apply(stats, &here.view.services[1].hosted));
}
