//! The mailbox under a model checker: no wake-up is lost in any interleaving.
//!
//! The file under test is the runtime's own, compiled here with the checker's lock.

#![allow(
    missing_docs,
    dead_code,
    unreachable_pub,
    reason = "a file of another crate"
)]

mod sync {
    /// The checker's lock, with the interface of the runtime's lock.
    pub(crate) struct Mutex<T>(shuttle::sync::Mutex<T>);

    impl<T> Mutex<T> {
        pub(crate) fn new(value: T) -> Self {
            Self(shuttle::sync::Mutex::new(value))
        }

        pub(crate) fn lock(&self) -> shuttle::sync::MutexGuard<'_, T> {
            self.0.lock().unwrap()
        }
    }
}

#[path = "../../../runtime/src/host/mailbox/core.rs"]
mod core;

use std::collections::VecDeque;
use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;

use shuttle::future;

use self::core::{Mailbox, Pulled, Rank};

/// Number of random schedules.
const SCHEDULES: usize = 10_000;

async fn pull(mailbox: &Mailbox<u32>, slot: usize) -> Pulled<u32> {
    poll_fn(|cx| mailbox.poll_pull(cx, slot)).await
}

async fn push(mailbox: &Mailbox<u32>, items: impl IntoIterator<Item = u32>) {
    push_ranked(mailbox, Rank::Ordinary, items).await;
}

async fn push_ranked(mailbox: &Mailbox<u32>, rank: Rank, items: impl IntoIterator<Item = u32>) {
    let mut items: VecDeque<u32> = items.into_iter().collect();
    poll_fn(|cx| mailbox.poll_push(cx, rank, &mut items)).await;
}

#[test]
fn every_item_is_pulled_once_by_competing_instances() {
    shuttle::check_random(
        || {
            let mailbox = Arc::new(Mailbox::new(2));
            let pushers: Vec<_> = [1..4, 4..7]
                .map(|items| {
                    let mailbox = mailbox.clone();
                    future::spawn(async move { push(&mailbox, items).await })
                })
                .into();
            let pullers: Vec<_> = (0..2)
                .map(|slot| {
                    let mailbox = mailbox.clone();
                    future::spawn(async move {
                        let mut got = Vec::new();
                        for _ in 0..3 {
                            if let Pulled::Item(item) = pull(&mailbox, slot).await {
                                got.push(item);
                            }
                        }
                        got
                    })
                })
                .collect();
            future::block_on(async {
                for pusher in pushers {
                    pusher.await.unwrap();
                }
                let mut all = Vec::new();
                for puller in pullers {
                    all.extend(puller.await.unwrap());
                }
                all.sort_unstable();
                assert_eq!(all, [1, 2, 3, 4, 5, 6]);
            });
        },
        SCHEDULES,
    );
}

#[test]
fn a_wake_up_of_a_leaving_instance_is_passed_on() {
    shuttle::check_random(
        || {
            let mailbox = Arc::new(Mailbox::new(4));
            let leaver = {
                let mailbox = mailbox.clone();
                future::spawn(async move {
                    // Polls once and then leaves without waiting.
                    let got = poll_fn(|cx| Poll::Ready(mailbox.poll_pull(cx, 0))).await;
                    mailbox.pass_on(0, true);
                    match got {
                        Poll::Ready(Pulled::Item(item)) => Some(item),
                        Poll::Ready(Pulled::Closed | Pulled::Retired) | Poll::Pending => None,
                    }
                })
            };
            let stayer = {
                let mailbox = mailbox.clone();
                future::spawn(async move { pull(&mailbox, 1).await })
            };
            let pusher = {
                let mailbox = mailbox.clone();
                future::spawn(async move { push(&mailbox, [1, 2]).await })
            };
            future::block_on(async {
                pusher.await.unwrap();
                leaver.await.unwrap();
                // A lost wake-up would hang here and be reported as a deadlock.
                assert!(matches!(stayer.await.unwrap(), Pulled::Item(_)));
            });
        },
        SCHEDULES,
    );
}

#[test]
fn pausing_stops_all_pulls_and_resuming_wakes_enough_instances() {
    shuttle::check_random(
        || {
            let mailbox = Arc::new(Mailbox::new(4));
            mailbox.pause();
            let pullers: Vec<_> = (0..2)
                .map(|slot| {
                    let mailbox = mailbox.clone();
                    future::spawn(async move { pull(&mailbox, slot).await })
                })
                .collect();
            let pusher = {
                let mailbox = mailbox.clone();
                future::spawn(async move { push(&mailbox, [1, 2]).await })
            };
            let resumer = {
                let mailbox = mailbox.clone();
                future::spawn(async move { mailbox.resume() })
            };
            future::block_on(async {
                pusher.await.unwrap();
                resumer.await.unwrap();
                for puller in pullers {
                    assert!(matches!(puller.await.unwrap(), Pulled::Item(_)));
                }
            });
        },
        SCHEDULES,
    );
}

#[test]
fn closing_ends_every_wait_and_returns_the_remaining_items() {
    shuttle::check_random(
        || {
            let mailbox = Arc::new(Mailbox::new(1));
            let puller = {
                let mailbox = mailbox.clone();
                future::spawn(async move {
                    let mut got = 0;
                    while let Pulled::Item(_) = pull(&mailbox, 0).await {
                        got += 1;
                    }
                    got
                })
            };
            let pusher = {
                let mailbox = mailbox.clone();
                future::spawn(async move {
                    let mut items: VecDeque<u32> = [1, 2, 3].into();
                    poll_fn(|cx| mailbox.poll_push(cx, Rank::Ordinary, &mut items)).await;
                    items.len()
                })
            };
            let left = mailbox.close().len();
            future::block_on(async {
                let (pulled, kept) = (puller.await.unwrap(), pusher.await.unwrap());
                assert_eq!(pulled + kept + left + mailbox.close().len(), 3);
            });
        },
        SCHEDULES,
    );
}

#[test]
fn a_retiring_instance_passes_its_wake_up_on_and_a_waiting_one_is_told_to_retire() {
    shuttle::check_random(
        || {
            let mailbox = Arc::new(Mailbox::new(4));
            let pullers: Vec<_> = (0..2)
                .map(|slot| {
                    let mailbox = mailbox.clone();
                    future::spawn(async move {
                        let mut got = 0;
                        while got < 3 {
                            match pull(&mailbox, slot).await {
                                Pulled::Item(_) => got += 1,
                                Pulled::Retired => {
                                    mailbox.pass_on(slot, true);
                                    break;
                                }
                                Pulled::Closed => break,
                            }
                        }
                        got
                    })
                })
                .collect();
            let pusher = {
                let mailbox = mailbox.clone();
                future::spawn(async move { push(&mailbox, [1, 2, 3]).await })
            };
            let limiter = {
                let mailbox = mailbox.clone();
                future::spawn(async move { mailbox.limit(1) })
            };
            future::block_on(async {
                pusher.await.unwrap();
                limiter.await.unwrap();
                let mut pullers = pullers.into_iter();
                let (first, second) = (pullers.next().unwrap(), pullers.next().unwrap());
                // The instance above the limit retires, whatever it was woken for; the other one
                // gets the remaining items. A lost wake-up would hang and be reported as a
                // deadlock.
                let retired = second.await.unwrap();
                while mailbox.len() > 0 {
                    future::yield_now().await;
                }
                mailbox.close();
                assert_eq!(first.await.unwrap() + retired, 3);
            });
        },
        SCHEDULES,
    );
}

#[test]
fn a_push_that_waits_for_space_is_woken() {
    shuttle::check_random(
        || {
            let mailbox = Arc::new(Mailbox::new(1));
            let pusher = {
                let mailbox = mailbox.clone();
                future::spawn(async move {
                    for item in 0..3 {
                        assert_eq!(poll_fn(|cx| mailbox.poll_room(cx, Rank::Ordinary)).await, 1);
                        push(&mailbox, [item]).await;
                    }
                })
            };
            future::block_on(async {
                for item in 0..3 {
                    assert_eq!(pull(&mailbox, 0).await, Pulled::Item(item));
                }
                pusher.await.unwrap();
                mailbox.close();
                assert_eq!(poll_fn(|cx| mailbox.poll_room(cx, Rank::Ordinary)).await, 0);
            });
        },
        SCHEDULES,
    );
}

#[test]
fn pushes_of_both_ranks_that_wait_for_room_are_woken() {
    shuttle::check_random(
        || {
            let mailbox = Arc::new(Mailbox::new(1));
            let pushers: Vec<_> = [(Rank::Ordinary, 1..4), (Rank::First, 4..7)]
                .map(|(rank, items)| {
                    let mailbox = mailbox.clone();
                    future::spawn(async move { push_ranked(&mailbox, rank, items).await })
                })
                .into();
            let pullers: Vec<_> = (0..2)
                .map(|slot| {
                    let mailbox = mailbox.clone();
                    future::spawn(async move {
                        let mut got = Vec::new();
                        for _ in 0..3 {
                            if let Pulled::Item(item) = pull(&mailbox, slot).await {
                                got.push(item);
                            }
                        }
                        got
                    })
                })
                .collect();
            future::block_on(async {
                for pusher in pushers {
                    pusher.await.unwrap();
                }
                let mut all = Vec::new();
                for puller in pullers {
                    all.extend(puller.await.unwrap());
                }
                all.sort_unstable();
                assert_eq!(all, [1, 2, 3, 4, 5, 6]);
            });
        },
        SCHEDULES,
    );
}
