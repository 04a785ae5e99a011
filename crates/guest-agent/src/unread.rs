//! How much memory clients take that do not read.

use std::sync::atomic::{AtomicUsize, Ordering};

/// Above this memory is scarce.
pub(crate) const BYTES_MAX: usize = 16 * 1024 * 1024;

/// The bytes that are on their way to clients, and still in the memory of the agent. Whoever adds
/// some takes them away again.
#[derive(Debug, Default)]
pub(crate) struct Unread {
    bytes: AtomicUsize,
}

impl Unread {
    pub(crate) fn add(&self, bytes: usize) {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(crate) fn take_away(&self, bytes: usize) {
        self.bytes.fetch_sub(bytes, Ordering::Relaxed);
    }

    pub(crate) fn bytes(&self) -> usize {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Whether everybody is to add as little at a time as brings them forward. Nobody is to wait
    /// for others: who has added nothing may always go on.
    pub(crate) fn is_scarce(&self) -> bool {
        self.bytes() >= BYTES_MAX
    }
}
