//! Commands that reach a service's supervisor while it is busy.

use std::future::poll_fn;
use std::rc::Rc;
use std::sync::{Arc, mpsc as threads};
use std::task::Poll;

use futures_util::future::LocalBoxFuture;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::{Child, ParentLink, StartGate, ThreadReplaced, Threads, supervise_here};
use crate::status::fixtures;

/// Lets a future send its command, without waiting for the answer.
async fn send_command<T>(asking: &mut LocalBoxFuture<'_, T>) {
    poll_fn(|cx| {
        let _answer = asking.as_mut().poll(cx);
        Poll::Ready(())
    })
    .await;
}

#[test]
fn a_run_that_started_since_continues_when_the_thread_of_an_earlier_run_is_replaced() {
    actix::System::new().block_on(async {
        let hosted = fixtures::app().await.view.services[1].hosted.clone();
        let workers = Rc::new(Threads::new(1));
        // The worker thread is blocked until the test is over: no actor starts on it.
        let (release, released) = threads::channel::<()>();
        let arbiter = workers.arbiter(0).expect("there is one");
        arbiter.spawn_fn(move || {
            let _over = released.recv();
        });
        let (sender, _exits) = mpsc::channel(1);
        let parent = ParentLink { child: 0, sender };
        let gate = StartGate::new(hosted.label.clone(), Vec::new());
        let service = supervise_here(hosted.clone(), workers, gate, parent);

        let mut first = service.start();
        while service.epoch() == 0 {
            send_command(&mut first).await;
            tokio::task::yield_now().await;
        }
        let before = hosted.env();
        drop(before.revoke());
        first.await;
        service.stop_by(Instant::now()).await;
        // The start command reaches the supervisor before the notice.
        let mut second = service.start();
        send_command(&mut second).await;
        let notice = ThreadReplaced::new(before.clone());
        service.replace_thread(notice).await;
        while Arc::ptr_eq(&before, &hosted.env()) {
            tokio::task::yield_now().await;
        }
        let present = hosted.env();
        let stopped = service.stop_by(Instant::now()).await;
        assert!(stopped.stuck, "the second run is on the blocked thread");
        assert!(
            Arc::ptr_eq(&present, &hosted.env()) && present.is_closing(),
            "the notice started no third run"
        );
        assert_eq!(service.epoch(), 4, "two starts, two stops");
        second.await;
        drop(release);
    });
}
