//! One scan of a dead-letter queue: every letter that was in it at the start, once.
//!
//! A scan reads pages. Of a letter that a crash has doubled, it shows the first copy only. The other
//! is removed if the first is, and else kept: another scan may put copies in place of letters
//! meanwhile, so a copy of a letter that was seen before may be the only one that is left.

use std::collections::HashMap;

use super::held::HeldLetters;
use super::{Bounds, Letter};
use crate::names::QueueId;
use crate::transport::{LetterReader, Transport, TransportError};

/// Maximum letters of a page.
pub(super) const PAGE: usize = 128;
/// Maximum size of the letters of a page, roughly.
const PAGE_BYTES: usize = 8 * 1024 * 1024;

/// A scan.
pub(super) struct Scan<'a> {
    reader: Box<dyn LetterReader + 'a>,
    bounds: Bounds,
    /// Letters that were ready at the start, without copies.
    depth: u64,
    /// Letters of them that were not taken yet.
    left: u64,
    /// Letters that were taken and kept.
    kept: usize,
    kept_bytes: usize,
    /// The letters that were seen: see [`Letter::identity`].
    seen: HashMap<String, Seen>,
    page: Vec<PageEntry>,
}

/// A letter that was seen.
#[derive(Clone, Copy)]
enum Seen {
    /// With the letter's index in the page.
    InThisPage(usize),
    Kept,
    Removed,
}

/// A letter of the present page.
struct PageEntry {
    bytes: usize,
    /// The letter that this is a copy of.
    copy_of: Option<Seen>,
    /// Missing for a copy, and for a letter that the runtime didn't write.
    identity: Option<String>,
}

impl<'a> Scan<'a> {
    pub(super) async fn open(
        transport: &'a dyn Transport,
        service: &str,
        bounds: Bounds,
    ) -> Result<Self, TransportError> {
        let queue = QueueId::dead_letters(service);
        let depth = transport.depth(&queue).await?.ready;
        let reader: Box<dyn LetterReader + 'a> = match transport.letters(&queue).await? {
            Some(reader) => reader,
            None => Box::new(HeldLetters::new(transport, queue, depth)),
        };
        Ok(Self {
            reader,
            bounds,
            depth,
            left: depth,
            kept: 0,
            kept_bytes: 0,
            seen: HashMap::new(),
            page: Vec::new(),
        })
    }

    /// The number of letters at the start.
    pub(super) fn depth(&self) -> u64 {
        self.depth
    }

    /// The next letters, `max` at most; `None` at the end of the queue, or when the bounds are
    /// reached. [`settle`](Self::settle) must follow.
    pub(super) async fn page(&mut self, max: usize) -> Result<Option<Vec<Letter>>, TransportError> {
        let room = self.bounds.letters.saturating_sub(self.kept);
        let bytes = self.bounds.bytes.saturating_sub(self.kept_bytes);
        let left = usize::try_from(self.left).unwrap_or(usize::MAX);
        let max = max.min(room).min(left);
        if max == 0 || bytes == 0 {
            return Ok(None);
        }
        let taken = self.reader.take(max, bytes.min(PAGE_BYTES)).await?;
        if taken.is_empty() {
            // Another reader took the rest.
            self.left = 0;
            return Ok(None);
        }
        self.left -= taken.len() as u64;
        let mut letters = Vec::with_capacity(taken.len());
        for message in taken {
            let bytes = message.size();
            let letter = Letter::new(message);
            let mut identity = letter.identity();
            let copy_of = identity.as_ref().and_then(|it| self.seen.get(it).copied());
            match (copy_of, &identity) {
                (Some(_), _) => identity = None,
                (None, Some(new)) => {
                    self.seen
                        .insert(new.clone(), Seen::InThisPage(self.page.len()));
                }
                (None, None) => {}
            }
            if copy_of.is_none() {
                letters.push(letter);
            }
            self.page.push(PageEntry {
                bytes,
                copy_of,
                identity,
            });
        }
        Ok(Some(letters))
    }

    /// Settles the page: removes the letters whose entry is true, and keeps the others. The
    /// letters have been removed when this returns.
    pub(super) async fn settle(&mut self, remove: &[bool]) -> Result<(), TransportError> {
        let mut of_letters = remove.iter().copied();
        let mut removes: Vec<bool> = Vec::with_capacity(self.page.len());
        for entry in &self.page {
            let remove = match entry.copy_of {
                None => of_letters.next().unwrap_or(false),
                Some(Seen::InThisPage(first)) => removes[first],
                Some(Seen::Removed) => true,
                Some(Seen::Kept) => false,
            };
            if entry.copy_of.is_some() {
                self.depth -= 1;
            }
            if !remove {
                self.kept += 1;
                self.kept_bytes += entry.bytes;
            }
            removes.push(remove);
        }
        self.reader.settle(&removes).await?;
        for (entry, removed) in self.page.drain(..).zip(removes) {
            let seen = if removed { Seen::Removed } else { Seen::Kept };
            if let Some(identity) = entry.identity {
                self.seen.insert(identity, seen);
            }
        }
        Ok(())
    }

    /// Ends the scan. Returns whether every letter was seen.
    pub(super) async fn finish(mut self) -> Result<bool, TransportError> {
        let complete = self.left == 0;
        let rest = usize::try_from(self.left).unwrap_or(usize::MAX);
        // Letters that were kept stand behind those that were not read: reading the rest, too,
        // restores the order.
        let restores = self.kept > 0 && self.kept.saturating_add(rest) <= self.bounds.letters;
        if self.reader.rotates() && restores {
            while self.page(PAGE).await?.is_some() {
                self.settle(&[]).await?;
            }
        }
        self.reader.finish().await?;
        Ok(complete)
    }
}
