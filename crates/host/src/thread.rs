//! Work in a thread of its own, for calls that change what the calling thread is.

use std::io;

use tokio::runtime::{Handle, RuntimeFlavor};
use tokio::task::block_in_place;

/// Does `work`, which may wait for a disk, in the place of whatever else this thread of the runtime
/// would do: others do that meanwhile. On a disk that is kept busy by sandboxes the making of one file
/// takes a fifth of a second, and those of many lifecycles wait for the same thing.
pub fn blocking<T>(work: impl FnOnce() -> T) -> T {
    match Handle::try_current().map(|runtime| runtime.runtime_flavor()) {
        Ok(RuntimeFlavor::MultiThread) => block_in_place(work),
        _ => work(),
    }
}

/// Runs `work` in a new thread that ends with it: the thread never has to find its way back to what
/// it was.
pub(crate) fn in_own_thread<T: Send>(
    name: &str,
    work: impl FnOnce() -> io::Result<T> + Send,
) -> io::Result<T> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name(name.into()).spawn_scoped(scope, work)?;
        thread.join().unwrap_or_else(|_panic| Err(io::Error::other("the thread panicked")))
    })
}

#[cfg(test)]
pub(crate) mod testing {
    use std::time::{Duration, Instant};

    use super::in_own_thread;

    /// Waits for a state, for a minute at most.
    pub(crate) fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
        let end = Instant::now() + Duration::from_secs(60);
        while !is_so() {
            assert!(Instant::now() < end, "waited in vain for {what}");
            std::thread::yield_now();
        }
    }

    /// Runs `test` in a thread with a descriptor table of its own, a copy: what other tests open
    /// meanwhile is not in it.
    #[cfg(feature = "fault-injection")]
    #[expect(unsafe_code, reason = "unshare is unsafe in rustix")]
    pub(crate) fn with_own_descriptors(test: impl FnOnce() + Send) {
        in_own_thread("test", || {
            // SAFETY: the copies are this thread's and end with it; no owner of a descriptor from
            // before is dropped here.
            unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::FILES) }?;
            test();
            Ok(())
        })
        .unwrap();
    }

    /// Runs `test` in a thread in a network namespace of its own, with nothing in it.
    #[expect(unsafe_code, reason = "unshare is unsafe in rustix")]
    pub(crate) fn in_new_network(test: impl FnOnce() + Send) {
        in_own_thread("test", || {
            // SAFETY: only this thread's network changes; no descriptor does.
            unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWNET) }?;
            test();
            Ok(())
        })
        .unwrap();
    }
}
