//! Watchers of clients that poll: events wait until they are asked for.

use std::collections::HashMap;
use std::sync::{Arc, Weak};

use guest_wire::proto::filesystem::FilesystemEvent;
use parking_lot::Mutex;
use rand::Rng as _;
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use super::error::WatchError;
use super::inotify::Watch;
use crate::hold::{Hold, Worker};
use crate::tasks;

/// They do not expire and belong to nobody, so their number is all that limits them.
pub(super) const WATCHERS_MAX: usize = 64;
/// Of one watcher, as many as the kernel itself keeps by default. Whoever does not poll for that
/// long has lost some.
pub(super) const BUFFERED_MAX: usize = 16_384;

/// All polled watchers by their ids.
#[derive(Default)]
pub(crate) struct Watchers {
    table: Arc<Mutex<Table>>,
    /// Parks those who collect events.
    pub(crate) hold: Arc<Hold>,
}

#[derive(Default)]
struct Table {
    watchers: HashMap<String, Watcher>,
    /// Places taken by watchers that are being made.
    starting: usize,
}

#[derive(Clone)]
pub(super) struct Watcher {
    pub(super) buffer: Arc<Mutex<Buffer>>,
    removed: CancellationToken,
    /// Locked while events are waited for. Gone once the watcher has failed.
    pub(super) watch: Weak<tokio::sync::Mutex<Watch>>,
}

#[derive(Default, Clone, Serialize, Deserialize)]
pub(super) struct Buffer {
    events: Vec<FilesystemEvent>,
    /// Told at every later poll.
    pub(super) failure: Option<WatchError>,
}

/// Room for one more watcher, given back when dropped.
pub(crate) struct Place {
    table: Arc<Mutex<Table>>,
    hold: Arc<Hold>,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut table = self.table.lock();
        table.starting = table.starting.saturating_sub(1);
    }
}

impl Place {
    /// Collects the events of `watch` until it is removed; gives the id to ask for them.
    pub(crate) fn keep(self, watch: Watch) -> String {
        let id = new_id();
        let watcher = Watcher::start(Some(watch), Buffer::default(), &self.hold);
        self.table.lock().watchers.insert(id.clone(), watcher);
        id
    }
}

impl Watcher {
    /// Collects the events of `watch` after those in `buffer`. Without a watch there are no more.
    pub(super) fn start(watch: Option<Watch>, buffer: Buffer, hold: &Arc<Hold>) -> Self {
        let (buffer, removed) = (Arc::new(Mutex::new(buffer)), CancellationToken::new());
        let watch = watch.map(|watch| Arc::new(tokio::sync::Mutex::new(watch)));
        let kept = watch.as_ref().map_or_else(Weak::new, Arc::downgrade);
        if let Some(watch) = watch {
            let collected = collect(watch, Arc::clone(&buffer), hold.worker());
            let stop = removed.clone();
            tasks::spawn(async move {
                tokio::select! {
                    biased;
                    () = stop.cancelled() => {}
                    () = collected => {}
                }
            });
        }
        Self { buffer, removed, watch: kept }
    }
}

/// Parks where every event that was taken from the kernel is in the buffer.
async fn collect(
    watch: Arc<tokio::sync::Mutex<Watch>>,
    buffer: Arc<Mutex<Buffer>>,
    mut worker: Worker,
) {
    loop {
        worker.park().await;
        let mut watch = watch.lock().await;
        let raw = tokio::select! {
            biased;
            () = worker.wanted() => continue,
            raw = watch.read() => raw,
        };
        let events = match raw {
            Ok(raw) => watch.tell(raw).await,
            Err(error) => Err(error),
        };
        if !buffer.lock().take_in(events) {
            return;
        }
    }
}

impl Buffer {
    /// Whether there may be more.
    fn take_in(&mut self, events: Result<Vec<FilesystemEvent>, WatchError>) -> bool {
        let failure = match events {
            Ok(events) if self.events.len().saturating_add(events.len()) <= BUFFERED_MAX => {
                self.events.extend(events);
                return true;
            }
            Ok(_too_many) => WatchError::BufferOverflow,
            Err(failure) => failure,
        };
        self.events = Vec::new();
        self.failure = Some(failure);
        false
    }
}

impl Watchers {
    /// Reserves room before anything is made.
    ///
    /// # Errors
    /// When there are too many already.
    pub(crate) fn place(&self) -> Result<Place, WatchError> {
        let mut table = self.table.lock();
        if table.watchers.len().saturating_add(table.starting) >= WATCHERS_MAX {
            return Err(WatchError::TooManyWatchers);
        }
        table.starting = table.starting.saturating_add(1);
        Ok(Place { table: Arc::clone(&self.table), hold: Arc::clone(&self.hold) })
    }

    /// Every watcher by its id.
    pub(super) fn all(&self) -> Vec<(String, Watcher)> {
        let table = self.table.lock();
        table.watchers.iter().map(|(id, watcher)| (id.clone(), watcher.clone())).collect()
    }

    /// Enters a watcher that has its id already.
    pub(super) fn insert(&self, id: String, watcher: Watcher) {
        self.table.lock().watchers.insert(id, watcher);
    }

    /// The events since the last call.
    ///
    /// # Errors
    /// When there is no such watcher, or it has failed, which it then has for ever.
    pub(crate) fn take_events(&self, id: &str) -> Result<Vec<FilesystemEvent>, WatchError> {
        let table = self.table.lock();
        let watcher = table.watchers.get(id);
        let watcher = watcher.ok_or_else(|| WatchError::UnknownWatcher(id.to_owned()))?;
        let mut buffer = watcher.buffer.lock();
        match &buffer.failure {
            Some(failure) => Err(failure.clone()),
            None => Ok(std::mem::take(&mut buffer.events)),
        }
    }

    /// Stops a watcher and forgets its events.
    ///
    /// # Errors
    /// When there is no such watcher.
    pub(crate) fn remove(&self, id: &str) -> Result<(), WatchError> {
        let removed = self.table.lock().watchers.remove(id);
        let removed = removed.ok_or_else(|| WatchError::UnknownWatcher(id.to_owned()))?;
        removed.removed.cancel();
        Ok(())
    }
}

/// `w` and twenty letters or digits.
fn new_id() -> String {
    const LETTERS: [char; 36] = [
        'a', 'b', 'c', 'd', 'e', 'f', 'g', 'h', 'i', 'j', 'k', 'l', 'm', 'n', 'o', 'p', 'q', 'r',
        's', 't', 'u', 'v', 'w', 'x', 'y', 'z', '0', '1', '2', '3', '4', '5', '6', '7', '8', '9',
    ];
    let mut random = rand::rng();
    let letters = std::iter::repeat_with(|| {
        LETTERS.get(random.random_range(0..LETTERS.len())).copied().unwrap_or('0')
    });
    std::iter::once('w').chain(letters.take(20)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_w_and_twenty_letters_or_digits() {
        let id = new_id();
        assert_eq!((id.len(), id.starts_with('w')), (21, true));
        assert!(id.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit()));
        assert_ne!(id, new_id());
    }

    #[test]
    fn events_that_nobody_takes_end_in_an_error_that_stays() {
        let mut buffer = Buffer::default();
        let event = || vec![FilesystemEvent::default(); BUFFERED_MAX / 2];
        assert!(buffer.take_in(Ok(event())));
        assert!(buffer.take_in(Ok(event())));
        assert!(!buffer.take_in(Ok(vec![FilesystemEvent::default()])));
        assert!(buffer.events.is_empty());
        assert!(matches!(buffer.failure, Some(WatchError::BufferOverflow)));
    }

    #[test]
    fn places_are_limited_and_given_back() {
        let watchers = Watchers::default();
        let mut places: Vec<_> = (0..WATCHERS_MAX).map(|_| watchers.place().unwrap()).collect();
        assert!(matches!(watchers.place(), Err(WatchError::TooManyWatchers)));
        places.pop();
        assert!(watchers.place().is_ok());
    }

    #[test]
    fn an_unknown_id_is_not_found() {
        let watchers = Watchers::default();
        let told = watchers.take_events("w0").unwrap_err().to_string();
        assert_eq!(told, "watcher with id w0 not found");
        assert!(watchers.remove("w0").is_err());
    }
}
