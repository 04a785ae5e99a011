//! One watched directory, by the kernel's inotify.

use std::collections::HashMap;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use guest_wire::proto::filesystem::{EventType, FilesystemEvent};
use rustix::fs::inotify::{CreateFlags, ReadFlags, WatchFlags, add_watch, init};
use serde::{Deserialize, Serialize};

use super::error::WatchError;
use crate::accounts::Accounts;
use crate::filesystem::{entry_at, path_text};
use crate::pollable::Pollable;
use crate::tasks;

/// How many directories one recursive watch covers at most.
pub(super) const DIRECTORIES_MAX: usize = 65_536;
/// Room for many events at once; one takes at most 272 bytes.
const READ_BYTES: usize = 32 * 1024;

/// Files over a network change without this kernel's knowledge: statfs(2) magic numbers of NFS,
/// CIFS, SMB, SMB2 and FUSE.
const NETWORK_FILE_SYSTEMS: [u64; 5] = [0x6969, 0xFF53_4D42, 0x517B, 0xFE53_4D42, 0x6573_5546];

/// How a directory is watched.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct Options {
    pub(crate) recursive: bool,
    /// Tell with an event what is there now.
    pub(crate) include_entry: bool,
    pub(crate) allow_network_mounts: bool,
}

/// A watched directory. The kernel stops watching when this is dropped.
pub(crate) struct Watch {
    pub(super) kernel: Arc<Pollable>,
    /// Elsewhere while events are told.
    pub(super) tree: Option<Tree>,
}

/// Which directory each of the kernel's numbers stands for.
pub(super) struct Tree {
    pub(super) root: PathBuf,
    pub(super) options: Options,
    /// Paths relative to the root, which itself is the empty one.
    pub(super) directories: HashMap<i32, PathBuf>,
}

/// One event as the kernel tells it.
struct Raw {
    number: i32,
    flags: ReadFlags,
    /// Empty for an event of the watched directory itself.
    name: PathBuf,
}

impl Watch {
    /// Watches `path`, which must be a directory. Blocks: it may walk a whole tree.
    ///
    /// # Errors
    /// When there is no such directory, it is on a network, or the kernel has no room.
    pub(crate) fn new(path: PathBuf, options: Options) -> Result<Self, WatchError> {
        match std::fs::metadata(&path) {
            Ok(found) if found.is_dir() => {}
            Ok(_other) => return Err(WatchError::NotADirectory(path)),
            Err(error) => {
                return Err(match error.kind() {
                    io::ErrorKind::NotFound => WatchError::NotFound(path),
                    io::ErrorKind::NotADirectory => WatchError::NotADirectory(path),
                    _ => WatchError::io(&error),
                });
            }
        }
        if !options.allow_network_mounts && is_network_mount(&path)? {
            return Err(WatchError::NetworkMount(path));
        }
        let kernel = init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)
            .map_err(|errno| WatchError::io(&errno.into()))?;
        let kernel = Pollable::new(kernel).map_err(|error| WatchError::io(&error))?;
        let mut tree = Tree { root: path, options, directories: HashMap::new() };
        tree.add(&kernel, PathBuf::new())?;
        Ok(Self { kernel: Arc::new(kernel), tree: Some(tree) })
    }

    /// Waits for the next events. There may be none of interest among those that came.
    ///
    /// Cancel safety: no. If it is dropped, the watch cannot be used any more.
    ///
    /// # Errors
    /// When events were lost, or the kernel fails. The watch is of no use then.
    pub(crate) async fn next(&mut self) -> Result<Vec<FilesystemEvent>, WatchError> {
        let raw = self.read().await?;
        self.tell(raw).await
    }

    /// Waits until the kernel has something to say, for [`Watch::tell`].
    ///
    /// Cancel safety: yes, nothing is taken from the kernel unless it is returned.
    ///
    /// # Errors
    /// When the kernel fails.
    pub(super) async fn read(&self) -> Result<Vec<u8>, WatchError> {
        let mut buffer = vec![0; READ_BYTES];
        let count = self.kernel.read(&mut buffer).await.map_err(|error| WatchError::io(&error))?;
        buffer.truncate(count);
        Ok(buffer)
    }

    /// What the kernel said, as events for clients.
    ///
    /// Cancel safety: no. If it is dropped, the watch cannot be used any more.
    ///
    /// # Errors
    /// When events were lost. The watch is of no use then.
    pub(super) async fn tell(&mut self, raw: Vec<u8>) -> Result<Vec<FilesystemEvent>, WatchError> {
        // Looking at files may block, so it is not done here.
        let mut tree = self.tree.take().ok_or_else(given_up)?;
        let kernel = Arc::clone(&self.kernel);
        let told = tasks::blocking(move || {
            let events = tree.tell(&kernel, &raw);
            (tree, events)
        });
        let (tree, events) = told.await.ok_or_else(given_up)?;
        self.tree = Some(tree);
        events
    }
}

fn given_up() -> WatchError {
    WatchError::Io("the watch was given up".to_owned())
}

impl Tree {
    /// Watches a directory and, if wanted, all below it. Gives what it found below.
    fn add(&mut self, kernel: &Pollable, directory: PathBuf) -> Result<(), WatchError> {
        let mut left = vec![directory];
        while let Some(directory) = left.pop() {
            let path = self.root.join(&directory);
            let wanted = WatchFlags::CREATE
                | WatchFlags::MOVED_TO
                | WatchFlags::MODIFY
                | WatchFlags::DELETE
                | WatchFlags::DELETE_SELF
                | WatchFlags::MOVED_FROM
                | WatchFlags::MOVE_SELF
                | WatchFlags::ATTRIB
                | WatchFlags::ONLYDIR;
            let number = match add_watch(kernel, &path, wanted) {
                Ok(number) => number,
                // Gone again, or something else by now: there is nothing to watch.
                Err(errno) if !directory.as_os_str().is_empty() && is_gone(errno) => continue,
                Err(errno) => return Err(WatchError::io(&errno.into())),
            };
            self.directories.insert(number, directory.clone());
            if self.directories.len() > DIRECTORIES_MAX {
                return Err(WatchError::TooManyDirectories(self.root.clone()));
            }
            if !self.options.recursive {
                continue;
            }
            // One that cannot be read any more has ended, and that is an event of its own.
            for entry in std::fs::read_dir(&path).into_iter().flatten().flatten() {
                if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                    left.push(directory.join(entry.file_name()));
                }
            }
        }
        Ok(())
    }

    /// Turns what the kernel said into events for clients, and follows new directories.
    fn tell(
        &mut self,
        kernel: &Pollable,
        buffer: &[u8],
    ) -> Result<Vec<FilesystemEvent>, WatchError> {
        let accounts = if self.options.include_entry {
            Accounts::load().unwrap_or_default()
        } else {
            Accounts::default()
        };
        let mut events = Vec::new();
        for raw in parse(buffer) {
            if raw.flags.contains(ReadFlags::QUEUE_OVERFLOW) {
                return Err(WatchError::Overflow);
            }
            if raw.flags.contains(ReadFlags::IGNORED) {
                self.directories.remove(&raw.number);
                continue;
            }
            let Some(directory) = self.directories.get(&raw.number) else { continue };
            // What a directory below says of itself, the one above it says as well.
            if raw.name.as_os_str().is_empty() && !directory.as_os_str().is_empty() {
                continue;
            }
            let relative = directory.join(&raw.name);
            for kind in kinds(raw.flags) {
                events.push(self.event(&relative, kind, &accounts));
            }
            if raw.flags.contains(ReadFlags::ISDIR) && !raw.name.as_os_str().is_empty() {
                if raw.flags.contains(ReadFlags::MOVED_FROM) {
                    self.forget_below(&relative);
                }
                if self.options.recursive
                    && raw.flags.intersects(ReadFlags::CREATE | ReadFlags::MOVED_TO)
                {
                    self.add(kernel, relative)?;
                }
            }
        }
        Ok(events)
    }

    fn event(&self, relative: &Path, kind: EventType, accounts: &Accounts) -> FilesystemEvent {
        let has_entry = matches!(
            kind,
            EventType::EVENT_TYPE_CREATE
                | EventType::EVENT_TYPE_WRITE
                | EventType::EVENT_TYPE_CHMOD
        );
        let is_root = relative.as_os_str().is_empty();
        let path = if is_root { self.root.clone() } else { self.root.join(relative) };
        // Gone again is no reason to hide that it was there.
        let entry = (self.options.include_entry && has_entry)
            .then(|| entry_at(&path, accounts).ok())
            .flatten();
        FilesystemEvent {
            name: if is_root { ".".to_owned() } else { path_text(relative) },
            r#type: kind.into(),
            entry: entry.into(),
            ..FilesystemEvent::default()
        }
    }

    /// A directory moved away keeps its watches in the kernel; events of them mean nothing here.
    fn forget_below(&mut self, directory: &Path) {
        self.directories.retain(|_number, watched| !watched.starts_with(directory));
    }
}

fn is_gone(errno: rustix::io::Errno) -> bool {
    use rustix::io::Errno;
    matches!(errno, Errno::NOENT | Errno::NOTDIR | Errno::ACCESS | Errno::LOOP)
}

fn is_network_mount(path: &Path) -> Result<bool, WatchError> {
    let found = rustix::fs::statfs(path).map_err(|errno| WatchError::io(&errno.into()))?;
    // The kernel keeps 32 bits; the field is wider and may be filled with the sign.
    let magic = u64::from_ne_bytes(found.f_type.to_ne_bytes()) & 0xFFFF_FFFF;
    Ok(NETWORK_FILE_SYSTEMS.contains(&magic))
}

/// In the order clients expect when one event says several things.
fn kinds(flags: ReadFlags) -> impl Iterator<Item = EventType> {
    const KINDS: [(ReadFlags, EventType); 5] = [
        (ReadFlags::CREATE.union(ReadFlags::MOVED_TO), EventType::EVENT_TYPE_CREATE),
        (ReadFlags::MOVED_FROM.union(ReadFlags::MOVE_SELF), EventType::EVENT_TYPE_RENAME),
        (ReadFlags::ATTRIB, EventType::EVENT_TYPE_CHMOD),
        (ReadFlags::MODIFY, EventType::EVENT_TYPE_WRITE),
        (ReadFlags::DELETE.union(ReadFlags::DELETE_SELF), EventType::EVENT_TYPE_REMOVE),
    ];
    KINDS.into_iter().filter(move |(of, _)| flags.intersects(*of)).map(|(_, kind)| kind)
}

/// Reads `struct inotify_event` of inotify(7): number, mask, cookie, length of the name, all of
/// four bytes; then the name, filled up with zeros.
fn parse(mut buffer: &[u8]) -> Vec<Raw> {
    fn four(buffer: &mut &[u8]) -> Option<[u8; 4]> {
        let (first, rest) = buffer.split_first_chunk()?;
        *buffer = rest;
        Some(*first)
    }
    let mut next = || {
        let number = i32::from_ne_bytes(four(&mut buffer)?);
        let flags = ReadFlags::from_bits_retain(u32::from_ne_bytes(four(&mut buffer)?));
        let _cookie = four(&mut buffer)?;
        let length = usize::try_from(u32::from_ne_bytes(four(&mut buffer)?)).ok()?;
        let (name, rest) = buffer.split_at_checked(length)?;
        buffer = rest;
        let name = name.split(|byte| *byte == 0).next().unwrap_or_default();
        let name = PathBuf::from(std::ffi::OsStr::from_bytes(name));
        Some(Raw { number, flags, name })
    };
    std::iter::from_fn(&mut next).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: Options =
        Options { recursive: false, include_entry: false, allow_network_mounts: false };

    /// Reads events until one says that `last` was created.
    async fn until_created(watch: &mut Watch, last: &str) -> Vec<(EventType, String)> {
        let mut all = Vec::new();
        loop {
            for event in watch.next().await.unwrap() {
                all.push((event.r#type.as_known().unwrap(), event.name));
            }
            if all.contains(&(EventType::EVENT_TYPE_CREATE, last.to_owned())) {
                return all;
            }
        }
    }

    #[tokio::test]
    async fn a_life_of_a_file_is_told_in_order() {
        let dir = tempfile::tempdir().unwrap();
        let mut watch = Watch::new(dir.path().to_owned(), PLAIN).unwrap();
        let path = |name: &str| dir.path().join(name);
        std::fs::write(path("a"), "x").unwrap();
        std::fs::rename(path("a"), path("b")).unwrap();
        std::fs::remove_file(path("b")).unwrap();
        std::fs::write(path("last"), "").unwrap();
        let all = until_created(&mut watch, "last").await;
        let expected = [
            (EventType::EVENT_TYPE_CREATE, "a"),
            (EventType::EVENT_TYPE_WRITE, "a"),
            (EventType::EVENT_TYPE_RENAME, "a"),
            (EventType::EVENT_TYPE_CREATE, "b"),
            (EventType::EVENT_TYPE_REMOVE, "b"),
            (EventType::EVENT_TYPE_CREATE, "last"),
        ];
        assert_eq!(all, expected.map(|(kind, name)| (kind, name.to_owned())));
    }

    #[tokio::test]
    async fn a_recursive_watch_follows_directories_made_later() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("old")).unwrap();
        let options = Options { recursive: true, include_entry: true, ..PLAIN };
        let mut watch = Watch::new(dir.path().to_owned(), options).unwrap();
        std::fs::write(dir.path().join("old/a"), "").unwrap();
        until_created(&mut watch, "old/a").await;
        std::fs::create_dir(dir.path().join("new")).unwrap();
        until_created(&mut watch, "new").await;
        std::fs::write(dir.path().join("new/b"), "").unwrap();
        let all = until_created(&mut watch, "new/b").await;
        assert!(all.iter().all(|(_, name)| name == "new/b"), "{all:?}");
    }

    #[tokio::test]
    async fn the_root_that_goes_is_told_as_a_dot() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("root");
        std::fs::create_dir(&root).unwrap();
        let mut watch = Watch::new(root.clone(), PLAIN).unwrap();
        std::fs::remove_dir(&root).unwrap();
        let events = watch.next().await.unwrap();
        let removed = events.iter().find(|event| event.r#type == EventType::EVENT_TYPE_REMOVE);
        assert_eq!(removed.unwrap().name, ".");
    }

    #[tokio::test]
    async fn only_a_directory_that_is_there_can_be_watched() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        std::fs::write(&file, "").unwrap();
        let error = |path: PathBuf| Watch::new(path, PLAIN).err().unwrap();
        assert!(matches!(error(file.clone()), WatchError::NotADirectory(_)));
        assert!(matches!(error(file.join("below")), WatchError::NotADirectory(_)));
        assert!(matches!(error(dir.path().join("none")), WatchError::NotFound(_)));
    }

    #[test]
    fn cut_off_events_are_not_read_past_their_end() {
        let mut buffer = Vec::new();
        for word in [7_u32, 0x100, 0, 4] {
            buffer.extend_from_slice(&word.to_ne_bytes());
        }
        buffer.extend_from_slice(b"ab\0\0");
        let whole = parse(&buffer);
        assert_eq!((whole.len(), whole[0].number), (1, 7));
        assert_eq!(whole[0].name, Path::new("ab"));
        for end in 0..buffer.len() {
            assert!(parse(&buffer[..end]).is_empty(), "{end}");
        }
    }
}
