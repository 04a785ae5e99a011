//! Reads what a process writes and publishes it.

use bytes::Bytes;
use tokio_util::sync::CancellationToken;

use super::hub::{Hub, Piece, Source};
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
/// Cancel safety: no, what was read may not be published.
pub(super) async fn pump(fd: Pollable, source: Source, hub: &Hub, killed: &CancellationToken) {
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
            count = fd.read(&mut first) => count,
            () = killed.cancelled() => break,
        };
        // A terminal whose last user is gone gives an error in place of an end.
        let Ok(count @ 1..) = count else { return };
        // Only now: what is allowed before a long silence may not be after it.
        let room = hub.room().await;
        buffer.extend_from_slice(first.get(..count).unwrap_or_default());
        let mut at_end = false;
        if count == first.len() {
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
        let mut buffer = vec![0; piece_max.min(hub.room().await)];
        let Ok(Some(count @ 1..)) = fd.read_now(&mut buffer) else { return };
        buffer.truncate(count);
        hub.publish(Piece { source, data: Bytes::from(buffer.into_boxed_slice()) });
        left = left.saturating_sub(count);
    }
}
