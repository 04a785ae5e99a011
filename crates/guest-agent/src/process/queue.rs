//! What one process said and not all of its subscribers have read.

use std::collections::VecDeque;
use std::sync::Arc;

use super::hub::Piece;
use crate::unread::Unread;

/// Of one process: with this much unread its output is no longer taken.
pub(super) const BYTES_MAX: usize = 64 * 1024;
/// While memory is scarce: this much at a time, when all before was read.
pub(super) const SCARCE_BYTES_MAX: usize = 4096;

/// One queue for all subscribers of a process: a piece is there once, until the last of those who
/// are to have it has taken it or left. So a queue without subscribers is empty.
pub(super) struct Queue {
    entries: VecDeque<Entry>,
    /// The number of the first entry; they are counted from the start of the process.
    first: u64,
    bytes: usize,
    subscribers: usize,
    /// What is here is counted there.
    unread: Arc<Unread>,
}

struct Entry {
    piece: Piece,
    /// How many are still to have it. Never fewer than of the entry before, as all read in order.
    readers: usize,
}

impl Queue {
    pub(super) fn new(unread: Arc<Unread>) -> Self {
        Self { entries: VecDeque::new(), first: 0, bytes: 0, subscribers: 0, unread }
    }

    pub(super) fn subscribers(&self) -> usize {
        self.subscribers
    }

    /// For how many more bytes there is room; `None` while there is for none.
    pub(super) fn room(&self) -> Option<usize> {
        if self.subscribers == 0 {
            Some(usize::MAX)
        } else if self.unread.is_scarce() {
            self.entries.is_empty().then_some(SCARCE_BYTES_MAX)
        } else {
            (self.bytes < BYTES_MAX).then_some(usize::MAX)
        }
    }

    /// Adds `piece` for all subscribers; there must be one.
    pub(super) fn push(&mut self, piece: Piece) {
        debug_assert!(self.subscribers > 0, "nobody would ever take it");
        let weight = piece.weight();
        self.bytes = self.bytes.saturating_add(weight);
        self.unread.add(weight);
        self.entries.push_back(Entry { piece, readers: self.subscribers });
    }

    /// Adds a subscriber, who reads from here on: first `before` alone, if there is any, then what
    /// is said from now on. Only the first can have something before.
    pub(super) fn join(&mut self, before: VecDeque<Piece>) -> u64 {
        debug_assert!(self.subscribers == 0 || before.is_empty(), "it is of one time before all");
        self.subscribers = self.subscribers.saturating_add(1);
        let position = self.end();
        for piece in before {
            self.push(piece);
        }
        position
    }

    /// What a subscriber at `position` reads next, if it is there already.
    pub(super) fn next(&mut self, position: &mut u64) -> Option<Piece> {
        let index = self.index(*position);
        let entry = self.entries.get_mut(index)?;
        entry.readers = entry.readers.saturating_sub(1);
        let piece = entry.piece.clone();
        *position = position.saturating_add(1);
        self.forget_read();
        Some(piece)
    }

    /// Takes away a subscriber that had come to `position`. What nobody else is there to read any
    /// more is handed back.
    pub(super) fn leave(&mut self, position: u64) -> VecDeque<Piece> {
        self.subscribers = self.subscribers.saturating_sub(1);
        if self.subscribers == 0 {
            self.first = self.end();
            self.unread.take_away(std::mem::take(&mut self.bytes));
            let entries = std::mem::take(&mut self.entries);
            return entries.into_iter().map(|entry| entry.piece).collect();
        }
        let index = self.index(position);
        for entry in self.entries.iter_mut().skip(index) {
            entry.readers = entry.readers.saturating_sub(1);
        }
        self.forget_read();
        VecDeque::new()
    }

    /// All that is here, for somebody else to have as well.
    pub(super) fn copy(&self) -> Vec<Piece> {
        self.entries.iter().map(|entry| entry.piece.clone()).collect()
    }

    fn end(&self) -> u64 {
        self.first.saturating_add(u64::try_from(self.entries.len()).unwrap_or(u64::MAX))
    }

    fn index(&self, position: u64) -> usize {
        usize::try_from(position.saturating_sub(self.first)).unwrap_or(usize::MAX)
    }

    fn forget_read(&mut self) {
        while let Some(entry) = self.entries.pop_front_if(|entry| entry.readers == 0) {
            let weight = entry.piece.weight();
            self.first = self.first.saturating_add(1);
            self.bytes = self.bytes.saturating_sub(weight);
            self.unread.take_away(weight);
        }
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        self.unread.take_away(self.bytes);
    }
}
