//! Watching directories: as a stream, or for clients that poll.

mod error;
mod handover;
mod inotify;
mod polled;
mod stream;

pub(crate) use self::error::WatchError;
pub(crate) use self::handover::HandedWatcher;
pub(crate) use self::inotify::{Options, Watch};
pub(crate) use self::polled::Watchers;
pub(crate) use self::stream::{stream, trim_events};
