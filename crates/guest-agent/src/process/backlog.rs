//! What processes said while nobody listened, kept for whoever connects next.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use bytes::BytesMut;
use parking_lot::Mutex;

use super::hub::Piece;

/// Of one process.
const ONE_BYTES_MAX: usize = 256 * 1024;
/// Of all processes together.
const ALL_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Small pieces of one source become one, up to this: a process that says a few bytes at a time
/// would spend its room on what each piece costs.
const MERGED_BYTES_MAX: usize = 4096;

/// The backlogs of all processes. Each holds the newest its process said, without a gap; when
/// there is no room for more, the oldest of the largest goes.
#[derive(Default)]
pub(super) struct Backlogs {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    kept: HashMap<u64, Kept>,
    next_id: u64,
    bytes: usize,
}

/// Of one process. An empty one is in no table.
#[derive(Default)]
struct Kept {
    pieces: VecDeque<Piece>,
    bytes: usize,
}

/// The backlog of one process, forgotten when dropped.
pub(super) struct Backlog {
    all: Arc<Backlogs>,
    id: u64,
}

impl Backlogs {
    /// An empty one for a process that has just started.
    pub(super) fn open(self: &Arc<Self>) -> Backlog {
        let mut state = self.state.lock();
        let id = state.next_id;
        state.next_id = id.wrapping_add(1);
        Backlog { all: Arc::clone(self), id }
    }
}

impl Backlog {
    /// Keeps `piece` after all others, and forgets the oldest when that is too much.
    pub(super) fn push(&self, piece: Piece) {
        let state = &mut *self.all.state.lock();
        let kept = state.kept.entry(self.id).or_default();
        let before = kept.bytes;
        kept.push(piece);
        while kept.bytes > ONE_BYTES_MAX {
            kept.forget_oldest();
        }
        state.bytes = state.bytes.saturating_sub(before).saturating_add(kept.bytes);
        while state.bytes > ALL_BYTES_MAX {
            let Some(largest) = state.kept.values_mut().max_by_key(|kept| kept.bytes) else {
                break;
            };
            state.bytes = state.bytes.saturating_sub(largest.forget_oldest());
        }
    }

    /// Everything that is kept, in order, and still is afterwards.
    pub(super) fn copy(&self) -> Vec<Piece> {
        let state = self.all.state.lock();
        state.kept.get(&self.id).into_iter().flat_map(|kept| &kept.pieces).cloned().collect()
    }

    /// Everything that is kept, in order; nothing is kept afterwards.
    pub(super) fn take(&self) -> VecDeque<Piece> {
        let state = &mut *self.all.state.lock();
        let kept = state.kept.remove(&self.id).unwrap_or_default();
        state.bytes = state.bytes.saturating_sub(kept.bytes);
        kept.pieces
    }
}

impl Drop for Backlog {
    fn drop(&mut self) {
        drop(self.take());
    }
}

impl Kept {
    fn push(&mut self, piece: Piece) {
        let length = piece.data.len();
        match self.pieces.back_mut() {
            Some(last)
                if last.source == piece.source
                    && last.data.len().saturating_add(length) <= MERGED_BYTES_MAX =>
            {
                let mut merged = BytesMut::from(std::mem::take(&mut last.data));
                merged.extend_from_slice(&piece.data);
                last.data = merged.freeze();
                self.bytes = self.bytes.saturating_add(length);
            }
            Some(_) | None => {
                self.bytes = self.bytes.saturating_add(piece.weight());
                self.pieces.push_back(piece);
            }
        }
    }

    /// How much that was.
    fn forget_oldest(&mut self) -> usize {
        let weight = self.pieces.pop_front().map_or(0, |oldest| oldest.weight());
        self.bytes = self.bytes.saturating_sub(weight);
        weight
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::process::hub::Source;

    fn piece(source: Source, byte: u8, length: usize) -> Piece {
        Piece { source, data: Bytes::from(vec![byte; length]) }
    }

    fn bytes(pieces: &VecDeque<Piece>) -> Vec<u8> {
        pieces.iter().flat_map(|piece| piece.data.iter().copied()).collect()
    }

    #[test]
    fn small_pieces_of_one_source_become_one() {
        let backlog = Arc::new(Backlogs::default()).open();
        let said = [(Source::Stdout, 1), (Source::Stdout, 2), (Source::Stderr, 3)];
        for (source, byte) in said.into_iter().chain([(Source::Stdout, 4)]) {
            backlog.push(piece(source, byte, 1));
        }
        let taken = backlog.take();
        let of_each: Vec<_> = taken.iter().map(|piece| (piece.source, &piece.data[..])).collect();
        let expected: [(Source, &[u8]); 3] =
            [(Source::Stdout, &[1, 2]), (Source::Stderr, &[3]), (Source::Stdout, &[4])];
        assert_eq!(of_each, expected);
        assert!(backlog.take().is_empty());
    }

    #[test]
    fn the_newest_that_one_process_said_is_kept_without_a_gap() {
        let backlog = Arc::new(Backlogs::default()).open();
        for byte in 0..100 {
            backlog.push(piece(Source::Stdout, byte, 10_000));
        }
        let kept = bytes(&backlog.take());
        assert!((ONE_BYTES_MAX - 20_000..=ONE_BYTES_MAX).contains(&kept.len()), "{}", kept.len());
        let said: Vec<u8> = (0..100).flat_map(|byte| vec![byte; 10_000]).collect();
        assert!(said.ends_with(&kept));
    }

    #[test]
    fn lines_of_a_few_bytes_fill_it_as_large_pieces_do() {
        let backlog = Arc::new(Backlogs::default()).open();
        let said: String = (0..60_000).map(|number| format!("{number}\n")).collect();
        for line in said.split_inclusive('\n') {
            backlog.push(Piece { source: Source::Terminal, data: line.to_owned().into() });
        }
        let kept = bytes(&backlog.take());
        assert!(said.as_bytes().ends_with(&kept) && kept.len() > ONE_BYTES_MAX * 9 / 10);
    }

    #[test]
    fn many_talkers_together_leave_what_a_quiet_one_said() {
        let all = Arc::new(Backlogs::default());
        let quiet = all.open();
        quiet.push(piece(Source::Stdout, 1, 30_000));
        let talkers: Vec<_> = (0..100).map(|_| all.open()).collect();
        for _ in 0..20 {
            for talker in &talkers {
                talker.push(piece(Source::Stdout, 2, 32 * 1024));
                assert!(all.state.lock().bytes <= ALL_BYTES_MAX);
            }
        }
        assert_eq!(bytes(&quiet.take()).len(), 30_000);
        // None of them has more than its part, and none has nothing.
        for talker in &talkers {
            let kept = bytes(&talker.take()).len();
            assert!((32 * 1024..=3 * 32 * 1024).contains(&kept), "{kept}");
        }
        assert_eq!(all.state.lock().bytes, 0);
    }

    #[test]
    fn one_that_is_dropped_leaves_its_room_to_others() {
        let all = Arc::new(Backlogs::default());
        let backlog = all.open();
        backlog.push(piece(Source::Stdout, 1, 1000));
        drop(backlog);
        let state = all.state.lock();
        assert_eq!((state.bytes, state.kept.len()), (0, 0));
    }
}
