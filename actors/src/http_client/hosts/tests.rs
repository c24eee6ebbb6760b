use super::*;

fn settings() -> HostSettings {
    HostSettings {
        breaker: Some(BreakerPolicy {
            min_messages: 3,
            ..BreakerPolicy::default()
        }),
        max_in_flight: 4,
        adaptive: false,
        probe_within: Duration::from_secs(5),
    }
}

fn result(verdict: Verdict) -> HostResult {
    HostResult {
        verdict,
        sample: None,
        hold: None,
    }
}

async fn enter(hosts: &Arc<Hosts>, host: &str, message: u64) -> Result<Permit, CallError> {
    let deadline = Instant::now() + Duration::from_secs(1);
    hosts.enter(host, message, deadline).await
}

async fn fail(hosts: &Arc<Hosts>, host: &str) {
    for message in 0..3 {
        let permit = enter(hosts, host, message).await.unwrap();
        permit.finish(result(Verdict::Failure));
    }
}

fn is_open(entered: &Result<Permit, CallError>) -> bool {
    matches!(entered, Err(CallError::Open { .. }))
}

#[tokio::test(start_paused = true)]
async fn a_host_that_fails_is_left_alone_and_others_go_on() {
    let hosts = Arc::new(Hosts::new(settings()));
    fail(&hosts, "a|").await;
    assert!(is_open(&enter(&hosts, "a|", 9).await));
    assert!(hosts.outage("a|").is_some() && hosts.all_held().is_some());
    enter(&hosts, "b|", 9).await.unwrap();
    assert!(hosts.outage("b|").is_none() && hosts.all_held().is_none());
}

#[tokio::test(start_paused = true)]
async fn one_probe_runs_at_a_time_and_a_success_ends_the_outage() {
    let hosts = Arc::new(Hosts::new(settings()));
    fail(&hosts, "a|").await;
    tokio::time::advance(Duration::from_secs(2)).await;
    let probe = enter(&hosts, "a|", 9).await.unwrap();
    assert!(is_open(&enter(&hosts, "a|", 10).await));
    probe.finish(result(Verdict::Success));
    enter(&hosts, "a|", 10).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_probe_that_is_cancelled_or_hangs_never_sticks() {
    let hosts = Arc::new(Hosts::new(settings()));
    fail(&hosts, "a|").await;
    tokio::time::advance(Duration::from_secs(2)).await;
    drop(enter(&hosts, "a|", 9).await.unwrap());
    let hangs = enter(&hosts, "a|", 10).await.unwrap();
    assert!(is_open(&enter(&hosts, "a|", 11).await));
    tokio::time::advance(Duration::from_secs(10)).await;
    assert!(is_open(&enter(&hosts, "a|", 11).await));
    tokio::time::advance(Duration::from_secs(2)).await;
    let next = enter(&hosts, "a|", 11).await.unwrap();
    hangs.finish(result(Verdict::Failure));
    next.finish(result(Verdict::Success));
    assert!(hosts.outage("a|").is_none());
}

#[tokio::test(start_paused = true)]
async fn a_host_alone_waits_for_places_and_one_of_many_is_busy() {
    let hosts = Arc::new(Hosts::new(settings()));
    let mut permits = Vec::new();
    for message in 0..4 {
        permits.push(enter(&hosts, "a|", message).await.unwrap());
    }
    // Alone: any number waits, and each place that is freed is used.
    let others: Vec<_> = (0..10)
        .map(|message| {
            let hosts = hosts.clone();
            tokio::spawn(async move {
                let permit = enter(&hosts, "a|", message).await.unwrap();
                permit.finish(result(Verdict::Success));
            })
        })
        .collect();
    tokio::task::yield_now().await;
    permits.clear();
    for other in others {
        other.await.unwrap();
    }
    // With another host in use, half as many as run may wait.
    enter(&hosts, "b|", 0).await.unwrap();
    for message in 0..4 {
        permits.push(enter(&hosts, "a|", message).await.unwrap());
    }
    let waits: Vec<_> = (0..2)
        .map(|message| {
            let hosts = hosts.clone();
            tokio::spawn(async move { enter(&hosts, "a|", message).await.map(drop) })
        })
        .collect();
    tokio::task::yield_now().await;
    let started = Instant::now();
    let refused = enter(&hosts, "a|", 9).await;
    assert!(matches!(refused, Err(CallError::Busy(_))) && started.elapsed().is_zero());
    enter(&hosts, "b|", 9).await.unwrap();
    for wait in waits {
        assert!(matches!(wait.await.unwrap(), Err(CallError::Busy(_))));
    }
}

#[tokio::test(start_paused = true)]
async fn a_host_that_asks_to_wait_gets_nothing_until_then() {
    let hosts = Arc::new(Hosts::new(settings()));
    let limited = HostResult {
        hold: Some(Duration::from_secs(30)),
        ..result(Verdict::Nothing)
    };
    enter(&hosts, "a|tenant", 1).await.unwrap().finish(limited);
    tokio::time::advance(Duration::from_secs(29)).await;
    let Err(CallError::Open { reason, .. }) = enter(&hosts, "a|tenant", 2).await else {
        panic!("the host is paused");
    };
    assert_eq!(reason, "a has asked to wait");
    enter(&hosts, "a|other", 2).await.unwrap();
    tokio::time::advance(Duration::from_secs(2)).await;
    enter(&hosts, "a|tenant", 2).await.unwrap();
}
