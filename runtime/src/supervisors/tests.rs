//! What a service's supervisor is told while other things are under way.

use std::future::poll_fn;
use std::rc::Rc;
use std::sync::{Arc, mpsc as threads};
use std::task::Poll;
use std::time::Duration;

use futures_util::future::LocalBoxFuture;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::{Child, ParentLink, ServiceSupervisor, ThreadReplaced, Threads};
use crate::app::fixtures;

/// Has a future send its command, and doesn't wait for the answer.
async fn begin<T>(asking: &mut LocalBoxFuture<'_, T>) {
    poll_fn(|cx| {
        let _answer = asking.as_mut().poll(cx);
        Poll::Ready(())
    })
    .await;
}

#[test]
fn a_life_that_began_since_goes_on_when_the_thread_of_the_one_before_is_given_up() {
    actix::System::new().block_on(async {
        let hosted = fixtures::app().await.view.services[1].hosted.clone();
        let workers = Rc::new(Threads::new(1));
        // Nothing starts on it: it is blocked until the test is over.
        let (free, held) = threads::channel::<()>();
        let arbiter = workers.arbiter(0).expect("there is one");
        arbiter.spawn_fn(move || {
            let _over = held.recv();
        });
        let (sender, _ended) = mpsc::channel(1);
        let up = ParentLink { child: 0, sender };
        let service = ServiceSupervisor::new(hosted.clone(), workers, Duration::from_secs(1), up);

        let mut first = service.start();
        while service.epoch() == 0 {
            begin(&mut first).await;
            tokio::task::yield_now().await;
        }
        let before = hosted.env();
        drop(before.revoke());
        first.await;
        service.stop(Instant::now()).await;
        // It is to start already when it is told of the thread.
        let mut second = service.start();
        begin(&mut second).await;
        service.move_on(ThreadReplaced::of(before.clone())).await;
        while Arc::ptr_eq(&before, &hosted.env()) {
            tokio::task::yield_now().await;
        }
        let present = hosted.env();
        let stopped = service.stop(Instant::now()).await;
        assert!(
            stopped.stuck,
            "the one that is told to stop is on the thread"
        );
        assert!(
            Arc::ptr_eq(&present, &hosted.env()) && present.is_closing(),
            "no life beside it"
        );
        assert_eq!(service.epoch(), 4, "two starts, two stops");
        second.await;
        drop(free);
    });
}
