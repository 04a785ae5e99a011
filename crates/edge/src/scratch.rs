use std::cell::RefCell;

use crate::upstream::BUFFER_BYTES;

thread_local! {
    static SCRATCH: RefCell<Box<[u8]>> = RefCell::new(vec![0; BUFFER_BYTES].into());
}

/// Lends `work` memory to read into, which all connections of the thread share: one has memory of its
/// own only for what its other end does not take at once.
pub(crate) fn with<T>(work: impl FnOnce(&mut [u8]) -> T) -> T {
    SCRATCH.with_borrow_mut(|scratch| work(scratch))
}
