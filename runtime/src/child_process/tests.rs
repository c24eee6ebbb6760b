//! The conversation of parent and child, both ends in one process.

use std::os::unix::net::UnixStream;
use std::process::Command;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use tokio::time::timeout;

use super::*;
use crate::app::fixtures::app;
use crate::metrics::{Cause, Outcome};

const SOON: Duration = Duration::from_secs(20);
const SHUTDOWN: Duration = Duration::from_secs(7);

fn both_ends() -> (Link, ParentConnection) {
    let (parent, child) = UnixStream::pair().unwrap();
    parent.set_nonblocking(true).unwrap();
    let lifeline = ParentConnection::over(child, SHUTDOWN).unwrap();
    (Link::new(parent).unwrap(), lifeline)
}

#[tokio::test]
async fn a_child_answers_before_its_app_is_open_and_is_not_idle_then() {
    let (mut link, _lifeline) = both_ends();
    let answer = link.figures().await.unwrap();
    assert!(answer.figures.is_none());
    assert!(!link.idle().await.unwrap().idle);
}

#[tokio::test]
async fn a_child_stops_within_the_time_that_it_is_given_and_says_the_last_word() {
    let (mut link, lifeline) = both_ends();
    let parent = tokio::spawn(async move {
        let answer = link.stop(Duration::from_secs(3)).await.unwrap();
        // That was the last.
        link.figures().await.unwrap_err();
        answer
    });
    let within = timeout(SOON, lifeline.asked_to_stop()).await.unwrap();
    assert_eq!(within, Duration::from_secs(3));
    lifeline.finish(vec!["order-17".into()]);
    let answer = timeout(SOON, parent).await.unwrap().unwrap();
    assert_eq!(answer.abandoned, ["order-17"]);
}

#[tokio::test]
async fn a_child_whose_parent_is_gone_stops_by_itself() {
    let (link, lifeline) = both_ends();
    drop(link);
    let within = timeout(SOON, lifeline.asked_to_stop()).await.unwrap();
    assert_eq!(within, SHUTDOWN);
}

#[tokio::test]
async fn an_answer_that_comes_too_late_is_not_taken_for_that_of_the_next_question() {
    let (mut link, _lifeline) = both_ends();
    for _ in 0..100 {
        // Dropped while its answer is on the way.
        let dropped = timeout(Duration::ZERO, link.idle()).await;
        assert!(dropped.is_err() || dropped.is_ok_and(|answer| answer.is_ok()));
    }
    let asked = link.idle().await.unwrap().number;
    assert_eq!(asked, 101);
    assert_eq!(link.figures().await.unwrap().number, 102);
}

#[test]
fn a_process_without_a_parent_s_socket_is_not_supervised() {
    let file = tempfile::tempfile().unwrap();
    let stream = UnixStream::from(std::os::fd::OwnedFd::from(file));
    ParentConnection::over(stream, SHUTDOWN).unwrap_err();
}

#[tokio::test]
async fn the_parent_shows_what_its_child_shows_and_counts_on_over_the_child_s_lives() {
    let here = app().await;
    let hosted = &here.view.services[1].hosted;
    let mut shown = 0;
    for life in 1..=2 {
        let there = app().await;
        there.all_ready();
        let service = &there.view.services[1];
        let mut mirror = StatsMirror::default();
        for _look in 0..2 {
            service.hosted.meters.handled(0, Outcome::Ok);
            service
                .hosted
                .note(Cause::Start, &format!("in life {life}"));
            let figures = Stats::of_service(service, &there.view);
            let line = serde_json::to_string(&figures).unwrap();
            assert!(mirror.show(serde_json::from_str(&line).unwrap(), hosted));
            shown += 1;
            assert_eq!(hosted.meters.outcome_total(Outcome::Ok), shown);
            assert_eq!(hosted.state.failures_total(), shown);
        }
        assert_eq!(hosted.env().pulse.ready.load(Relaxed), 1);
        let last = hosted.state.failures().pop().unwrap();
        assert_eq!(
            (&*last.what, &*last.text),
            ("start", &*format!("in life {life}"))
        );
        StatsMirror::hide(hosted);
        assert_eq!(hosted.env().pulse.ready.load(Relaxed), 0);
    }
}

#[tokio::test]
async fn the_figures_of_another_service_are_refused() {
    let (here, there) = (app().await, app().await);
    let figures = Stats::of_service(&there.view.services[0], &there.view);
    assert!(!StatsMirror::default().show(figures, &here.view.services[1].hosted));
}

#[tokio::test]
async fn a_process_ends_with_everything_that_it_started() {
    let folder = tempfile::tempdir().unwrap();
    let number = folder.path().join("number");
    let mut command = Command::new("sh");
    // It leaves another one behind, and ends when that one has said its number.
    let script = "sh -c 'echo $$ >\"$1.new\"; mv \"$1.new\" \"$1\"; exec sleep 600' sh \"$1\" &
        until [ -e \"$1\" ]; do sleep 0.01; done; exit 3";
    command.args(["-c", script, "sh"]).arg(&number);
    let process = Process::start(command, "test").unwrap();
    let how = timeout(SOON, process.ended()).await.unwrap();
    assert_eq!(
        (how.to_string(), how.well),
        ("exit status: 3".to_owned(), false)
    );
    let left: i32 = std::fs::read_to_string(&number)
        .unwrap()
        .trim()
        .parse()
        .unwrap();
    let left = rustix::process::Pid::from_raw(left).unwrap();
    // Its own parent is gone, too: whoever adopts it may take a moment to bury it.
    let gone = async {
        while rustix::process::test_kill_process(left).is_ok() && !is_zombie(left) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(SOON, gone).await.unwrap();
    process.kill();
}

fn is_zombie(process: rustix::process::Pid) -> bool {
    let path = format!("/proc/{}/stat", process.as_raw_nonzero());
    let stat = std::fs::read_to_string(path).unwrap_or_default();
    stat.rsplit_once(") ")
        .is_some_and(|(_, rest)| rest.starts_with('Z'))
}
