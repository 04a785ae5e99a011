//! Reads what a process writes and publishes it.

use bytes::Bytes;
use tokio_util::sync::CancellationToken;

use super::hub::{Hub, Piece, Source};
use crate::hold::Worker;
use crate::pollable::Pollable;

/// The most one event carries.
const PIPE_PIECE_MAX: usize = 32 * 1024;
const TERMINAL_PIECE_MAX: usize = 16 * 1024;
/// The most that is still taken from a pipe whose process was killed: what the largest pipe can
/// hold. A child of it may go on writing for ever.
const LAST_BYTES_MAX: usize = 1024 * 1024;

/// Publishes all that comes from `fd`, in order, until its end. When `killed` is set, nobody
/// waits for the end any more: what is there is published, and that is all.
///
/// Parks where everything that was read is published.
///
/// Cancel safety: no, what was read may not be published.
pub(super) async fn pump(
    fd: &Pollable,
    source: Source,
    hub: &Hub,
    killed: &CancellationToken,
    worker: &mut Worker,
) {
    let piece_max = match source {
        Source::Stdout | Source::Stderr => PIPE_PIECE_MAX,
        Source::Terminal => TERMINAL_PIECE_MAX,
    };
    let mut buffer = Vec::new();
    loop {
        // The buffer exists only while there is something to read: most processes are silent
        // most of the time.
        let mut first = [0; 512];
        let count = tokio::select! {
            biased;
            () = worker.wanted() => {
                worker.park().await;
                continue;
            }
            count = fd.read(&mut first) => count,
            () = killed.cancelled() => break,
        };
        // A terminal whose last user is gone gives an error in place of an end.
        let Ok(count @ 1..) = count else { return };
        // Only now: what is allowed before a long silence may not be after it.
        let room = tokio::select! {
            biased;
            room = hub.room() => room,
            // Nothing more is taken, and the little that was must not wait for readers.
            () = worker.wanted() => 0,
        };
        buffer.extend_from_slice(first.get(..count).unwrap_or_default());
        let mut at_end = false;
        if count == first.len() && room > count {
            buffer.resize(piece_max.min(room), 0);
            let more = fd.read_now(buffer.get_mut(count..).unwrap_or_default());
            at_end = matches!(more, Ok(Some(0)) | Err(_));
            buffer.truncate(count + more.ok().flatten().unwrap_or(0));
        }
        // It may have to wait, and then takes no more memory than it has bytes.
        let data = Bytes::from(std::mem::take(&mut buffer).into_boxed_slice());
        hub.publish(Piece { source, data });
        if at_end {
            return;
        }
    }
    let mut left = LAST_BYTES_MAX;
    while left > 0 {
        let room = tokio::select! {
            biased;
            () = worker.wanted() => {
                worker.park().await;
                continue;
            }
            room = hub.room() => room,
        };
        let mut buffer = vec![0; piece_max.min(room)];
        let Ok(Some(count @ 1..)) = fd.read_now(&mut buffer) else { return };
        buffer.truncate(count);
        hub.publish(Piece { source, data: Bytes::from(buffer.into_boxed_slice()) });
        left = left.saturating_sub(count);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use rustix::pipe::{PipeFlags, pipe_with};

    use super::*;
    use crate::hold::Hold;
    use crate::process::hub::Held;

    /// All but the newest of what is written fits into the queue of a listener who does not read.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn whenever_it_is_parked_all_that_was_read_is_published() {
        let (from, to) = pipe_with(PipeFlags::CLOEXEC).unwrap();
        let (from, to) = (Arc::new(Pollable::new(from).unwrap()), Pollable::new(to).unwrap());
        let (hub, mut listener) = Hub::new(&Held::default());
        let hold = Arc::new(Hold::default());
        let (mut worker, read, pumped) = (hold.worker(), Arc::clone(&from), Arc::clone(&hub));
        crate::tasks::spawn(async move {
            let killed = CancellationToken::new();
            pump(&read, Source::Stdout, &pumped, &killed, &mut worker).await;
        });
        let (mut written, mut heard) = (0_u64, 0);
        for round in 0..200_usize {
            // Often more than there is room for.
            for _ in 0..round * 20 {
                if rustix::io::write(&to, &written.to_be_bytes()).is_err() {
                    break;
                }
                written += 1;
            }
            let held = hold.hold();
            held.all_parked().await;
            let in_pipe = rustix::io::ioctl_fionread(&*from).unwrap();
            let (kept, _end) = hub.freeze();
            let published: usize = kept.iter().map(|piece| piece.data.len()).sum();
            assert_eq!(u64::try_from(published).unwrap() + in_pipe, (written - heard) * 8);
            hub.thaw();
            drop(held);
            // A listener who takes some of it.
            for _ in 0..round % 7 {
                let Some(Ok(piece)) = futures::FutureExt::now_or_never(listener.next()) else {
                    break;
                };
                for number in piece.data.chunks(8) {
                    assert_eq!(number, heard.to_be_bytes());
                    heard += 1;
                }
            }
        }
        assert!(heard > 0);
    }
}
