//! How many streams are open at a time.

use std::sync::Arc;

use connectrpc::ConnectError;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// As many as a sandbox has processes, and half of what the edge lets into one: the other half is
/// for calls that are answered and over.
const STREAMS_MAX: usize = 2048;

/// The places for streams: calls that last as long as the client, or what it listens to.
pub(crate) struct Streams {
    places: Arc<Semaphore>,
    most: usize,
}

/// The right to have one stream, given back when dropped.
pub(crate) struct StreamPlace {
    _permit: OwnedSemaphorePermit,
}

/// Too many are open already.
#[derive(Debug, thiserror::Error)]
#[error(
    "{most} streams (Start, Connect, WatchDir, StreamInput) are open in this sandbox already: \
     close one of them first; other calls are still answered"
)]
pub(crate) struct TooManyStreams {
    most: usize,
}

impl Streams {
    /// A stream is a connection, and those are never more than half of the descriptors.
    pub(crate) fn new(open_files_max: usize) -> Self {
        let most = STREAMS_MAX.min(open_files_max / 4);
        Self { places: Arc::new(Semaphore::new(most)), most }
    }

    /// A place for one more, at once or not at all.
    pub(crate) fn place(&self) -> Result<StreamPlace, TooManyStreams> {
        let permit = Arc::clone(&self.places).try_acquire_owned();
        // The semaphore is never closed, so there is one reason only.
        let _permit = permit.map_err(|_full| TooManyStreams { most: self.most })?;
        Ok(StreamPlace { _permit })
    }
}

impl From<TooManyStreams> for ConnectError {
    fn from(full: TooManyStreams) -> Self {
        Self::resource_exhausted(full.to_string())
    }
}
