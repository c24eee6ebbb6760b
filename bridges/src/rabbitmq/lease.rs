//! Leases: the broker chooses one of the processes that could run a source.
//!
//! `APP.SOURCE.lease` is a queue with a single active consumer. Every candidate consumes it, and
//! publishes a token to it from time to time. The broker sends all tokens to the active consumer,
//! which thereby has the lease: it keeps the newest token unacked for as long as it lives and acks
//! the others. When its channel or connection ends, the broker activates another consumer and sends
//! it the token. So the number of tokens doesn't matter.
//!
//! A token may vanish: by a policy that limits deliveries or the time in a queue, or by a purge.
//! Then the next token, of any candidate, passes the lease on. No token is requeued, and a holder
//! replaces a token that was delivered before: the broker counts the deaths of holders against it.

use std::sync::Arc;
use std::time::Duration;

use brickwork::Envelope;
use brickwork::transport::{LeaseKeeper, TransportError};
use futures_util::StreamExt;
use futures_util::future::{Fuse, FusedFuture, FutureExt};
use lapin::Channel;
use lapin::message::Delivery;
use lapin::options::{BasicAckOptions, BasicConsumeOptions};
use lapin::types::FieldTable;
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio::time::{MissedTickBehavior, interval};
use tracing::debug;

use super::declarer::declare;
use super::session::Session;
use super::topology::lease_declaration;

/// Prefetch of tokens. More tokens wait on the broker.
const TOKENS_PREFETCHED: u16 = 16;
/// Interval at which each candidate publishes a token. It is also the longest time that a lease
/// can be without a token. Shorter if the broker lets a consumer hold one for a shorter time
/// (`consumer_timeout`).
const TOKEN_INTERVAL: Duration = Duration::from_secs(10);

type Granted = oneshot::Sender<Result<(), TransportError>>;

/// Waits for the lease of a source, for the holder of `keeper`'s other half.
///
/// # Errors
/// The lease can't be requested, or the session has ended.
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

/// Requests the lease and keeps it until the holder drops it or it is lost.
async fn keep(session: Arc<Session>, source: String, mut keeper: LeaseKeeper, granted: Granted) {
    let channel = match session.channel().await {
        Ok(channel) => channel,
        Err(error) => {
            // The caller may have stopped waiting.
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
    // Closing the channel passes the lease to the next consumer.
    let _gone = channel.close(200, "done".into()).await;
}

/// Requests the lease. Returns when it is lost.
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
    let mut clock = interval(TOKEN_INTERVAL.min(session.settle_within / 2));
    clock.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut publishing = std::pin::pin!(Fuse::terminated());
    let mut is_published = false;
    let mut held: Option<Delivery> = None;
    loop {
        tokio::select! {
            _ = clock.tick() => if publishing.is_terminated() {
                let token = Envelope::new("lease", "").into();
                let (router, name) = (session.router.clone(), name.clone());
                publishing.set(async move { router.send_to_queue(&name, &token, 1).await }.fuse());
            },
            outcome = &mut publishing => {
                match outcome {
                    Err(error) if !is_published => return Err(error),
                    // The next token may arrive.
                    Err(error) => debug!(%source, %error, "publishing a lease token failed"),
                    Ok(()) => {}
                }
                is_published = true;
            }
            token = tokens.next() => match token {
                Some(Ok(token)) => {
                    if let Some(granted) = granted.take() {
                        debug!(%source, "lease granted");
                        // A caller that has stopped waiting drops the lease at once.
                        let _gone = granted.send(Ok(()));
                    }
                    if token.redelivered {
                        clock.reset_immediately();
                    }
                    if let Some(older) = held.replace(token) {
                        older.acker.ack(BasicAckOptions::default()).await.map_err(lost)?;
                    }
                }
                Some(Err(error)) => return Err(lost(error)),
                None => return Err(TransportError::Lost("its queue was deleted".into())),
            },
        }
    }
}
