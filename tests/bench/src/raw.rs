//! The same work by hand: lapin alone, with the same guarantees.
//!
//! One task owns the confirm channel; at most [`WINDOW`] publications are in flight; messages are
//! persistent and mandatory; an input is acked when its output is confirmed, many at a time and
//! only over settled prefixes.

use std::collections::VecDeque;

use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt, StreamExt};
use lapin::options::{
    BasicAckOptions, BasicConsumeOptions, BasicPublishOptions, BasicQosOptions,
    ConfirmSelectOptions,
};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Channel, Confirmation, Connection, ConnectionProperties, Consumer};

/// Maximum unconfirmed publications, and the prefetch.
pub const WINDOW: usize = 256;
/// Deliveries per ack.
const ACKS: usize = 32;

/// Connects.
///
/// # Panics
/// If there is no broker.
pub async fn connect(url: &str) -> Connection {
    let connected = Connection::connect(url, ConnectionProperties::default()).await;
    connected.expect("the broker answers")
}

/// Opens a channel in confirm mode.
///
/// # Panics
/// If the broker refuses.
pub async fn confirming(connection: &Connection) -> Channel {
    let channel = connection.create_channel().await.expect("a channel");
    let options = ConfirmSelectOptions::default();
    channel.confirm_select(options).await.expect("confirms");
    channel
}

/// Publishes messages to their routing keys, confirmed.
///
/// # Panics
/// If the broker refuses one.
pub async fn fill(
    channel: &Channel,
    exchange: &str,
    messages: impl Iterator<Item = (String, Vec<u8>)>,
) {
    let mut out = FuturesUnordered::new();
    for (number, (key, payload)) in messages.enumerate() {
        if out.len() >= 1000 {
            out.next().await;
        }
        let (channel, exchange) = (channel.clone(), exchange.to_owned());
        let mut publishing = async move {
            let properties = properties(&format!("fill-{number}"));
            let published = channel
                .basic_publish(
                    exchange.into(),
                    key.into(),
                    BasicPublishOptions::default(),
                    &payload,
                    properties,
                )
                .await;
            let confirmed = published.expect("it is written").await;
            assert!(confirmed.expect("it is confirmed").is_ack());
        }
        .boxed();
        if (&mut publishing).now_or_never().is_none() {
            out.push(publishing);
        }
    }
    while out.next().await.is_some() {}
}

fn properties(id: &str) -> BasicProperties {
    BasicProperties::default()
        .with_delivery_mode(2)
        .with_content_type("application/json".into())
        .with_message_id(id.into())
        .with_type("order".into())
}

/// The metadata of an output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wire {
    /// The minimum: an id, a type, a content type.
    Bare,
    /// The headers of Brickwork: CloudEvents, trace context, attempt, parent; incoming headers
    /// are read.
    Same,
}

fn answer(wire: Wire, number: u64, request: &BasicProperties) -> BasicProperties {
    let parent = request.message_id().clone().expect("an id");
    if wire == Wire::Bare {
        return properties(parent.as_str());
    }
    let text = |value: &str| AMQPValue::LongString(value.into());
    let incoming = request.headers().as_ref();
    let trace = incoming
        .and_then(|headers| headers.inner().get("traceparent"))
        .and_then(|trace| trace.as_long_string())
        .map_or_else(
            || format!("00-{number:032x}-{number:016x}-01"),
            |trace| trace.to_string(),
        );
    let id = format!("01990a1b-2c3d-8e5f-8a6b-{number:012x}");
    let now = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .expect("it is later")
        .as_millis() as u64;
    let mut headers = FieldTable::default();
    headers.insert("cloudEvents_specversion".into(), text("1.0"));
    headers.insert("cloudEvents_id".into(), text(&id));
    headers.insert("cloudEvents_type".into(), text("order"));
    headers.insert("cloudEvents_source".into(), text("/bench/hop"));
    headers.insert(
        "cloudEvents_time".into(),
        text(&format!("2026-11-23T12:00:00.{:03}Z", now % 1000)),
    );
    headers.insert("traceparent".into(), text(&trace));
    headers.insert("brickwork-attempt".into(), AMQPValue::LongLongInt(1));
    headers.insert("brickwork-parent".into(), text(parent.as_str()));
    properties(&id)
        .with_timestamp(now / 1000)
        .with_app_id("bench".into())
        .with_headers(headers)
}

/// Consumes `count` messages, hands each to `handle`, publishes the result with a confirm, and
/// acks.
///
/// # Panics
/// If an operation fails.
pub async fn work(
    url: &str,
    queue: &str,
    exchange: &str,
    key: &str,
    count: usize,
    wire: Wire,
    handle: impl Fn(&[u8]) -> Vec<u8>,
) {
    let publishing = connect(url).await;
    let consuming = connect(url).await;
    let out = confirming(&publishing).await;
    let channel = consuming.create_channel().await.expect("a channel");
    let qos = channel.basic_qos(WINDOW as u16, BasicQosOptions::default());
    qos.await.expect("a prefetch");
    let mut deliveries = channel
        .basic_consume(
            queue.into(),
            "".into(),
            BasicConsumeOptions::default(),
            FieldTable::default(),
        )
        .await
        .expect("it consumes");
    let mut confirms = FuturesUnordered::new();
    // By tag, from `first`: whether the output is confirmed.
    let mut settled: VecDeque<bool> = VecDeque::new();
    let (mut first, mut acked, mut handled) = (1, 0, 0);
    while acked < count {
        tokio::select! {
            biased;
            Some((tag, confirmed)) = confirms.next() => {
                let confirmed: lapin::Result<Confirmation> = confirmed;
                let returned = confirmed.expect("it is confirmed").take_message();
                assert!(returned.is_none(), "nothing is unroutable");
                settled[(tag - first) as usize] = true;
                let prefix = settled.iter().take_while(|settled| **settled).count();
                if prefix >= ACKS || acked + prefix == count {
                    let last = first + prefix as u64 - 1;
                    let options = BasicAckOptions { multiple: true };
                    channel.basic_ack(last, options).await.expect("it is written");
                    settled.drain(..prefix);
                    first += prefix as u64;
                    acked += prefix;
                }
            }
            Some(delivery) = deliveries.next(), if handled < count && confirms.len() < WINDOW => {
                let delivery = delivery.expect("it consumes");
                handled += 1;
                settled.push_back(false);
                let tag = delivery.delivery_tag;
                let payload = handle(&delivery.data);
                let properties = answer(wire, tag, &delivery.properties);
                let (out, exchange, key) = (out.clone(), exchange.into(), key.into());
                let mut publishing = async move {
                    let options = BasicPublishOptions { mandatory: true, ..Default::default() };
                    let published = out.basic_publish(exchange, key, options, &payload, properties);
                    match published.await {
                        Ok(confirm) => (tag, confirm.await),
                        Err(error) => (tag, Err(error)),
                    }
                }
                .boxed();
                // The first poll sends the message, so messages keep their order.
                match (&mut publishing).now_or_never() {
                    Some(_) => unreachable!("the broker has not seen it yet"),
                    None => confirms.push(publishing),
                }
            }
        }
    }
    let _closed = consuming.close(200, "done".into()).await;
    let _closed = publishing.close(200, "done".into()).await;
}

/// Asks over direct reply-to and answers, both by hand, on separate connections.
pub struct Asker {
    connections: [Connection; 2],
    channel: Channel,
    replies: Consumer,
    exchange: String,
    key: String,
    next: u64,
}

impl Asker {
    /// Starts to answer in the background and to expect replies.
    ///
    /// # Panics
    /// If the broker refuses.
    pub async fn start(
        url: &str,
        exchange: &str,
        key: &str,
        queue: &str,
        handle: impl Fn(&[u8]) -> Vec<u8> + Send + 'static,
    ) -> Self {
        let asking = connect(url).await;
        let answering = connect(url).await;
        let channel = confirming(&asking).await;
        let no_ack = BasicConsumeOptions {
            no_ack: true,
            ..Default::default()
        };
        let reply_to = "amq.rabbitmq.reply-to";
        let replies = channel
            .basic_consume(reply_to.into(), "".into(), no_ack, FieldTable::default())
            .await
            .expect("it consumes");
        let answers = confirming(&answering).await;
        let qos = answers.basic_qos(WINDOW as u16, BasicQosOptions::default());
        qos.await.expect("a prefetch");
        let mut questions = answers
            .basic_consume(
                queue.into(),
                "".into(),
                BasicConsumeOptions::default(),
                FieldTable::default(),
            )
            .await
            .expect("it consumes");
        // On this thread: the runtime has no other.
        tokio::task::spawn(async move {
            while let Some(Ok(question)) = questions.next().await {
                let payload = handle(&question.data);
                let reply_to = question.properties.reply_to().clone().expect("an address");
                let correlation = question.properties.correlation_id().clone();
                let properties =
                    properties("answer").with_correlation_id(correlation.expect("a number"));
                let options = BasicPublishOptions::default();
                let published =
                    answers.basic_publish("".into(), reply_to, options, &payload, properties);
                let confirmed = published.await.expect("it is written").await;
                assert!(confirmed.expect("it is confirmed").is_ack());
                let acked = question.acker.ack(BasicAckOptions::default());
                acked.await.expect("it is written");
            }
        });
        Self {
            connections: [asking, answering],
            channel,
            replies,
            exchange: exchange.to_owned(),
            key: key.to_owned(),
            next: 0,
        }
    }

    /// Asks and waits for the reply.
    ///
    /// # Panics
    /// If there is none.
    pub async fn ask(&mut self, payload: &[u8]) -> Vec<u8> {
        self.next += 1;
        let number = self.next.to_string();
        let properties = properties(&number)
            .with_reply_to("amq.rabbitmq.reply-to".into())
            .with_correlation_id(number.as_str().into());
        let options = BasicPublishOptions {
            mandatory: true,
            ..Default::default()
        };
        let (exchange, key) = (self.exchange.as_str().into(), self.key.as_str().into());
        let published = self
            .channel
            .basic_publish(exchange, key, options, payload, properties);
        let confirm = published.await.expect("it is written");
        let reply = self.replies.next().await.expect("it consumes");
        let reply = reply.expect("it consumes");
        let correlation = reply.properties.correlation_id().as_ref();
        assert_eq!(correlation.map(|it| it.as_str()), Some(number.as_str()));
        assert!(confirm.await.expect("it is confirmed").is_ack());
        reply.data
    }

    /// Closes the connections.
    pub async fn close(self) {
        for connection in self.connections {
            let _closed = connection.close(200, "done".into()).await;
        }
    }
}
