//! The loop of the source: waits for the next poll, reads its pages, emits its records.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use brickwork::prelude::*;
use brickwork::supervision::Backoff;
use brickwork::{FailureKind, JSON, LogThrottle, SendHandle};
use serde_json::Value;
use tokio::time::sleep;
use tracing::{error, info, warn};
use url::Url;

use super::answer::{Next, Page, Record};
use super::config::PollConfig;
use super::decision::{CursorSource, Fate, Poll, Rules, Saved};
use super::request::{self, Variables};
use crate::http_client::{HttpClient, Verdict};
use crate::ports::OUT;
use crate::schedule::Timing;

/// Maximum sleep: the wall clock may be set meanwhile.
const SLEEP_MAX: Duration = Duration::from_secs(30);
/// Records that are handled before other tasks of the thread get a turn.
const RECORDS_PER_TURN: usize = 64;

/// The state of one run.
pub(super) struct Poller<'a> {
    config: &'a PollConfig,
    out: &'a SourceContext,
    client: HttpClient,
    timing: Timing,
    rules: Rules,
    saved: Saved,
}

/// The reason for which a poll did not complete.
enum Stopped {
    /// The API failed: the poll is repeated after a wait.
    Outside {
        reason: String,
        after: Option<Duration>,
    },
    /// The transport failed or the source is to stop.
    Source(Failure),
}

impl From<Failure> for Stopped {
    fn from(failure: Failure) -> Self {
        Self::Source(failure)
    }
}

impl From<String> for Stopped {
    fn from(reason: String) -> Self {
        Self::Outside {
            reason,
            after: None,
        }
    }
}

impl<'a> Poller<'a> {
    pub(super) fn new(config: &'a PollConfig, out: &'a SourceContext) -> Result<Self, Failure> {
        let timing = config.timing();
        let mut saved: Saved = out.position()?.unwrap_or_default();
        if saved.cursor.is_none() {
            saved.cursor = config.cursor.start.clone();
        }
        Ok(Self {
            config,
            out,
            client: HttpClient::new(&config.client())?,
            timing: timing.ok_or_else(|| Failure::reject("it has neither every nor cron"))?,
            rules: config.rules(),
            saved,
        })
    }

    /// Polls until the source stops.
    pub(super) async fn run(mut self) -> Result<(), Failure> {
        const BACKOFF: Backoff = Backoff {
            min: Duration::from_secs(1),
            max: Duration::from_secs(300),
            jitter: 0.2,
        };
        let throttle = LogThrottle::default();
        let mut failures: u32 = 0;
        while let Some(scheduled) = self.next_poll().await {
            let polled = tokio::select! {
                biased;
                () = self.out.stopping() => return Ok(()),
                polled = self.poll(scheduled) => polled,
            };
            match polled {
                Ok(()) if failures > 0 => {
                    info!(service = self.out.service(), failures, "poll works again");
                    failures = 0;
                }
                Ok(()) => {}
                Err(Stopped::Source(failure)) => return Err(failure),
                Err(Stopped::Outside { reason, after }) => {
                    let wait = after.unwrap_or_else(|| BACKOFF.delay(failures, fastrand::f64()));
                    failures = failures.saturating_add(1);
                    if let Some(suppressed) = throttle.event() {
                        warn!(
                            service = self.out.service(),
                            error = reason,
                            failures,
                            ?wait,
                            suppressed,
                            "poll failed, trying again"
                        );
                    }
                    if self.sleep(wait).await.is_none() {
                        return Ok(());
                    }
                }
            }
        }
        Ok(())
    }

    /// Waits for the next poll and returns its scheduled time; `None` if the source is to stop.
    async fn next_poll(&self) -> Option<i64> {
        loop {
            let now = unix_ms(self.out.now());
            let Some(polled) = self.saved.polled else {
                return (!self.out.is_stopping()).then_some(now);
            };
            if let Some(scheduled) = self.timing.last_within(polled, now) {
                return (!self.out.is_stopping()).then_some(scheduled);
            }
            let wait = self.timing.next_after(polled).map_or(SLEEP_MAX, |next| {
                Duration::from_millis(next.saturating_sub(now).max(1).unsigned_abs())
            });
            self.sleep(wait.min(SLEEP_MAX)).await?;
        }
    }

    async fn sleep(&self, wait: Duration) -> Option<()> {
        tokio::select! {
            () = self.out.stopping() => None,
            () = sleep(wait) => Some(()),
        }
    }

    /// Reads all pages and saves the position.
    async fn poll(&mut self, scheduled: i64) -> Result<(), Stopped> {
        let mut poll = Poll::start(self.rules, &self.saved, unix_ms(self.out.now()))?;
        let before = self.saved.cursor.clone();
        let (mut url, mut token, mut offset): (Option<Url>, Option<Value>, u64) = (None, None, 0);
        for number in 1..=self.config.pages.max {
            let cursor = poll.cursor().cloned();
            let variables = Variables {
                cursor: cursor.as_ref(),
                until: poll.until().cloned(),
                page: number,
                offset,
                token: token.take(),
            };
            let request = request::build(self.config, &variables, url.take())
                .map_err(|(at, text)| format!("config.{at}: {text}"))?;
            let is_numbered = self.config.pages.numbered;
            match &variables.token {
                Some(token) => poll.page(&token.to_string())?,
                None if is_numbered => {}
                None => poll.page(&request.url)?,
            }
            let at = Url::parse(&request.url).map_err(|error| error.to_string())?;
            let answer = self.client.call(request).await;
            match self.client.judge(at.as_str(), "", &answer, self.out.now()) {
                Verdict::Succeeded => {}
                Verdict::Later { after, reason, .. } => {
                    return Err(Stopped::Outside { reason, after });
                }
                Verdict::Rejected { reason } => return Err(reason.into()),
            }
            let page = Page::new(answer.map_err(|error| error.to_string())?);
            let records = page.records(self.config)?;
            let count = records.len();
            if is_numbered && count > 0 {
                // An API that ignores the number sends the first page again.
                poll.page(
                    &records
                        .iter()
                        .map(|record| &*record.hash)
                        .collect::<String>(),
                )?;
            }
            self.emit(&mut poll, records, scheduled).await?;
            poll.answered(page.cursor(&self.config.cursor)?);
            match page.next(&self.config.pages, &at, count)? {
                Next::End => return self.save(poll.position(Some(scheduled))?).await,
                Next::Url(next) => url = Some(next),
                Next::Token(next) => token = Some(next),
                Next::Number => {}
            }
            offset += count as u64;
            if poll.is_resumable() {
                self.save(poll.position(self.saved.polled)?).await?;
            }
        }
        match poll.is_resumable() && self.saved.cursor != before {
            // The next poll goes on at the saved position, at once.
            true => Ok(()),
            false => Err(format!(
                "a poll has more than {} pages: raise pages.max, or set cursor.ascending if the \
                 API sorts by the cursor",
                self.config.pages.max
            )
            .into()),
        }
    }

    /// Emits the new records of a page, and waits until the transport has confirmed them.
    async fn emit(
        &self,
        poll: &mut Poll,
        records: Vec<Record>,
        scheduled: i64,
    ) -> Result<(), Stopped> {
        let name = match self.rules.source {
            CursorSource::None => Some(scheduled.to_string()),
            _ => None,
        };
        let mut sent: Vec<SendHandle> = Vec::new();
        for (number, record) in records.into_iter().enumerate() {
            if number % RECORDS_PER_TURN == RECORDS_PER_TURN - 1 {
                tokio::task::yield_now().await;
            }
            if poll.record(record.hash.clone(), record.cursor.as_ref())? == Fate::Emit {
                sent.extend(self.submit(record, name.as_deref()).await?);
            }
        }
        for handle in sent {
            handle.await.map_err(Failure::from)?;
        }
        Ok(())
    }

    /// Submits the message of a record; `None` if it is too large.
    async fn submit(
        &self,
        record: Record,
        poll: Option<&str>,
    ) -> Result<Option<SendHandle>, Failure> {
        let (id, subject) = record.names(self.out.service(), poll);
        let mut raw = Raw::bytes(self.config.kind.as_deref().unwrap_or("record"), record.json);
        raw.content_type = Some(JSON.into());
        raw.subject = subject;
        let message = MessageBuilder::new(raw).id(id.parse()?);
        match self.out.submit(&OUT, message).await {
            Ok(handle) => Ok(Some(handle)),
            Err(failure) if failure.kind() == FailureKind::Reject => {
                error!(
                    service = self.out.service(),
                    record = id,
                    error = failure.text(),
                    "record skipped"
                );
                Ok(None)
            }
            Err(failure) => Err(failure),
        }
    }

    async fn save(&mut self, position: Saved) -> Result<(), Stopped> {
        self.out.save_position(&position).await?;
        self.saved = position;
        Ok(())
    }
}

fn unix_ms(time: SystemTime) -> i64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}
