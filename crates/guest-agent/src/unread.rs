//! How much memory clients take that do not read, and whether what was taken for them is sent.

use std::sync::atomic::{AtomicUsize, Ordering};

/// Above this memory is scarce.
pub(crate) const BYTES_MAX: usize = 16 * 1024 * 1024;

/// The bytes that are on their way to clients, and still in the memory of the agent. Whoever adds
/// some takes them away again.
#[derive(Debug, Default)]
pub(crate) struct Unread {
    bytes: AtomicUsize,
    /// Those of them that no queue has any more: an end of the agent would lose them.
    in_hands: AtomicUsize,
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

    /// So much was taken to be sent.
    pub(crate) fn take_in_hand(&self, amount: usize) {
        self.in_hands.fetch_add(amount, Ordering::SeqCst);
    }

    /// So much was handed on: to whoever counts it again, to the kernel, or to nobody.
    pub(crate) fn hand_on(&self, amount: usize) {
        self.in_hands.fetch_sub(amount, Ordering::SeqCst);
    }

    /// How much was taken that the kernel does not have yet.
    pub(crate) fn in_hands(&self) -> usize {
        self.in_hands.load(Ordering::SeqCst)
    }
}
