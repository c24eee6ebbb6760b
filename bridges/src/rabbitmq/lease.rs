//! Leases: of the processes that could run a source, the broker lets one.
//!
//! `APP.SOURCE.lease` is a queue with a single active consumer. Whoever asks puts a token
//! into it and consumes. The broker gives all tokens to one of them: that one has the lease,
//! keeps one token unacked for as long as it lives, and acks the others. When it is gone,
//! with its channel or its connection, the broker makes another one active and gives it the
//! token. So nobody polls, and how many tokens there are doesn't matter.

use std::sync::Arc;
use std::time::Duration;

use brickwork::Envelope;
use brickwork::transport::{LeaseKeeper, TransportError};
use futures_util::StreamExt;
use lapin::Channel;
use lapin::message::Delivery;
use lapin::options::{BasicAckOptions, BasicConsumeOptions, BasicNackOptions};
use lapin::types::FieldTable;
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio::time::{Instant, interval_at};
use tracing::debug;

use super::declarer::declare;
use super::session::Session;
use super::topology::lease_declaration;

/// Tokens that may come at a time; others of those who ask wait.
const TOKENS_PREFETCHED: u16 = 16;
/// A broker closes the channel of who holds a message for more than half an hour: before
/// that the token is given back, and comes again.
const REQUEUE_INTERVAL: Duration = Duration::from_secs(10 * 60);

type Granted = oneshot::Sender<Result<(), TransportError>>;

/// Waits for the lease of a source, on behalf of who has the other half of `keeper`.
///
/// # Errors
/// It can't be asked for, or the session has ended.
pub(super) async fn acquire(
    session: Arc<Session>,
    source: &str,
    keeper: LeaseKeeper,
    handle: &Handle,
) -> Result<(), TransportError> {
    let (granted, answer) = oneshot::channel();
    let session_state = session.session_state.clone();
    handle.spawn(keep(session, source.to_owned(), keeper, granted));
    match answer.await {
        Ok(answer) => answer,
        Err(_) => Err(session_state.error()),
    }
}

/// Keeps a place in the queue until it is let go or lost.
async fn keep(session: Arc<Session>, source: String, mut keeper: LeaseKeeper, granted: Granted) {
    let channel = match session.channel().await {
        Ok(channel) => channel,
        Err(error) => {
            // Who asked may have gone.
            let _gone = granted.send(Err(TransportError::Lost(error.to_string())));
            return;
        }
    };
    let mut granted = Some(granted);
    let ended = tokio::select! {
        error = hold(&session, &channel, &source, &mut granted) => Some(error),
        error = session.session_state.ended() => Some(error),
        () = keeper.released() => None,
    };
    if let (Some(error), Some(granted)) = (ended, granted) {
        let _gone = granted.send(Err(error));
    }
    // This is what gives the lease to the next one.
    let _gone = channel.close(200, "done".into()).await;
}

/// Asks for the lease, and holds it until it is lost.
async fn hold(
    session: &Session,
    channel: &Channel,
    source: &str,
    granted: &mut Option<Granted>,
) -> TransportError {
    match try_hold(session, channel, source, granted).await {
        Ok(never) => match never {},
        Err(error) => error,
    }
}

async fn try_hold(
    session: &Session,
    channel: &Channel,
    source: &str,
    granted: &mut Option<Granted>,
) -> Result<std::convert::Infallible, TransportError> {
    let lost = |error: lapin::Error| TransportError::Lost(error.to_string());
    let (name, declaration) = lease_declaration(&session.router.routing_table().app, source)?;
    declare(channel, declaration).await.map_err(lost)?;
    channel
        .basic_qos(TOKENS_PREFETCHED, Default::default())
        .await
        .map_err(lost)?;
    let options = BasicConsumeOptions::default();
    let consuming = channel.basic_consume(name.clone(), "".into(), options, FieldTable::default());
    let mut tokens = consuming.await.map_err(lost)?;
    let token = Envelope::new("lease", "").into();
    let mut putting = std::pin::pin!(session.router.send_to_queue(&name, &token, 1));
    let mut put = false;
    let mut nack_requeue = interval_at(Instant::now() + REQUEUE_INTERVAL, REQUEUE_INTERVAL);
    let mut held: Option<Delivery> = None;
    loop {
        tokio::select! {
            outcome = &mut putting, if !put => {
                put = true;
                outcome?;
            }
            token = tokens.next() => match token {
                Some(Ok(token)) if held.is_none() => {
                    held = Some(token);
                    if let Some(granted) = granted.take() {
                        debug!(%source, "the lease is granted");
                        // Who asked may have gone: then it is let go at once.
                        let _gone = granted.send(Ok(()));
                    }
                }
                Some(Ok(token)) => {
                    token.acker.ack(BasicAckOptions::default()).await.map_err(lost)?;
                }
                Some(Err(error)) => return Err(lost(error)),
                None => return Err(TransportError::Lost("its queue was deleted".into())),
            },
            _ = nack_requeue.tick() => if let Some(token) = held.take() {
                let options = BasicNackOptions { requeue: true, ..Default::default() };
                token.acker.nack(options).await.map_err(lost)?;
            },
        }
    }
}
