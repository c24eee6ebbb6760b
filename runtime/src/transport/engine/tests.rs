//! Tests of consumers and reservations on an engine without a journal.

use std::collections::VecDeque;
use std::sync::Arc;

use super::queue::Queue;
use super::reservation::Reservation;
use super::{Engine, QueueConsumer};
use crate::delivery::Delivery;
use crate::message::Envelope;
use crate::names::QueueId;
use crate::transport::{Backpressure, Overflow, QueueSpec, Topology, take};

fn queue(engine: &Engine, service: &str, limit: Option<(u64, Overflow)>) -> Arc<Queue> {
    let id = QueueId::new(service, "requests");
    let topology = Topology {
        queues: vec![QueueSpec {
            id: id.clone(),
            topics: vec!["orders".into()],
            high_water: 1000,
            limit: limit.map(|(messages, _)| messages),
            overflow: limit.map_or(Overflow::DeadLetter, |(_, overflow)| overflow),
            single_active: false,
            keyed: None,
            feeds: Vec::new(),
        }],
        ..Topology::default()
    };
    engine.declare_all(&topology).expect("it is open");
    engine.queue(&id).expect("it is declared")
}

fn engine() -> Engine {
    Engine::new(Arc::<Backpressure>::default(), "memory", None)
}

#[tokio::test]
async fn stopped_consumers_leave_nothing_behind_and_their_messages_return_in_order() {
    let engine = engine();
    let queue = queue(&engine, "stock", None);
    for number in 0..100 {
        queue.push(Envelope::new("order", number.to_string()).into(), 1);
    }
    let mut taken: VecDeque<Delivery> = VecDeque::new();
    for round in 0..50 {
        let mut consumers: Vec<QueueConsumer> = (0..10)
            .map(|_| QueueConsumer::new(queue.clone(), 10))
            .collect();
        for consumer in &mut consumers {
            take(consumer, &mut taken, 10).await.unwrap();
        }
        let payloads = taken.iter().map(|it| it.message().payload.clone());
        let expected = (0..100).map(|number| number.to_string());
        assert!(payloads.eq(expected), "{round}");
        drop(consumers);
        // In reverse order.
        while let Some(delivery) = taken.pop_back() {
            delivery.nack_requeue();
        }
        assert_eq!(queue.depth().ready, 100);
    }
    assert_eq!(queue.lock().consumers.len(), 10);
}

#[tokio::test]
async fn a_batch_reserves_capacity_in_every_queue_or_in_none() {
    let engine = engine();
    let small = queue(&engine, "small", Some((1, Overflow::Reject)));
    let large = queue(&engine, "large", Some((9, Overflow::Reject)));
    let lenient = queue(&engine, "lenient", Some((1, Overflow::DeadLetter)));
    let reserved = || [&small, &large, &lenient].map(|it| it.lock().reserved);
    let batch = [&large, &small, &large, &lenient];
    let mut reservation = Reservation::new(batch.into_iter()).expect("there is room");
    assert_eq!(reserved(), [1, 2, 0]);
    assert!(Reservation::new([&large, &small].into_iter()).is_err());
    assert_eq!(reserved(), [1, 2, 0], "a rejected batch reserves nothing");
    assert!(reservation.take(&large) && reservation.take(&small));
    assert!(!reservation.take(&small) && !reservation.take(&lenient));
    drop(reservation);
    assert_eq!(reserved(), [1, 1, 0], "used capacity stays reserved");
}
