//! Watchers that outlive the agent.

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, RawFd};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::inotify::{Options, Tree, Watch};
use super::polled::{Buffer, Watcher, Watchers};
use crate::upgrade::{Arrived, Leaving};

/// One watcher of a client that polls.
#[derive(Serialize, Deserialize)]
pub(crate) struct HandedWatcher {
    id: String,
    buffer: Buffer,
    /// `None` if it has failed.
    watch: Option<HandedWatch>,
}

/// What the kernel does not know itself. Paths are given by their length: they may be no text.
#[derive(Serialize, Deserialize)]
struct HandedWatch {
    kernel: RawFd,
    options: Options,
    root: usize,
    directories: Vec<(i32, usize)>,
}

impl Watchers {
    /// What the next agent has to know, and how many watchers it cannot be told of. All of them
    /// should be parked: one that is not is at work on events that are in no place now.
    pub(crate) fn hand_over(&self, to: &mut Leaving) -> (Vec<HandedWatcher>, usize) {
        let all = self.all();
        let count = all.len();
        let handed = all.into_iter().filter_map(|(id, watcher)| hand_over(id, &watcher, to));
        let handed: Vec<_> = handed.collect();
        let failed = count.saturating_sub(handed.len());
        (handed, failed)
    }

    /// Goes on with a watcher.
    ///
    /// # Errors
    /// When its descriptor is missing.
    pub(crate) fn take_over(&self, handed: HandedWatcher, from: &mut Arrived) -> io::Result<()> {
        let HandedWatcher { id, buffer, watch } = handed;
        let watch = watch.map(|watch| {
            let root = path(from.take(watch.root));
            let directories = watch.directories.iter().map(|(number, length)| {
                let directory = path(from.take(*length));
                (*number, directory)
            });
            let directories = directories.collect();
            let tree = Tree { root, options: watch.options, directories };
            let kernel = Arc::new(from.descriptor(watch.kernel)?);
            Ok::<_, io::Error>(Watch { kernel, tree: Some(tree) })
        });
        self.insert(id, Watcher::start(watch.transpose()?, buffer, &self.hold));
        Ok(())
    }
}

fn hand_over(id: String, watcher: &Watcher, to: &mut Leaving) -> Option<HandedWatcher> {
    let buffer = watcher.buffer.lock().clone();
    if buffer.failure.is_some() {
        return Some(HandedWatcher { id, buffer, watch: None });
    }
    let watch = watcher.watch.upgrade()?;
    let watch = watch.try_lock().ok()?;
    let tree = watch.tree.as_ref()?;
    let kernel: Arc<dyn AsFd + Send + Sync> = Arc::clone(&watch.kernel) as _;
    let root = to.put(bytes(&tree.root));
    let directories = tree.directories.iter();
    let directories = directories.map(|(number, path)| (*number, to.put(bytes(path)))).collect();
    let kernel = to.keep(kernel);
    let watch = HandedWatch { kernel, options: tree.options, root, directories };
    Some(HandedWatcher { id, buffer, watch: Some(watch) })
}

fn bytes(path: &Path) -> Bytes {
    Bytes::copy_from_slice(path.as_os_str().as_bytes())
}

fn path(bytes: Bytes) -> PathBuf {
    PathBuf::from(OsString::from_vec(Vec::from(bytes)))
}
