//! What one agent hands on to the next: JSON, and the bytes that JSON would make large.
//!
//! A file in memory holds the length of the JSON (eight bytes, the lowest first), the JSON, and
//! all bytes of output and paths one after another, of which the JSON says how many are whose.

use std::collections::HashMap;
use std::io::{self, Read as _, Seek as _, Write as _};
use std::os::fd::{AsFd, OwnedFd, RawFd};
use std::sync::Arc;

use bytes::Bytes;
use rustix::fs::{MemfdFlags, memfd_create};
use serde::{Deserialize, Serialize};

use super::FORMAT;
use super::descriptors::{Kept, claim};
use crate::control::HandedFreeze;
use crate::journal::HandedJournal;
use crate::pollable::Pollable;
use crate::process::{HandedEnd, HandedProcess};
use crate::settings::HandedSettings;
use crate::watch::HandedWatcher;

/// Everything the next agent has to know. A field that is new must have a default.
#[derive(Serialize, Deserialize)]
pub(super) struct State {
    pub(super) format: u32,
    /// All descriptors that are named in what follows.
    pub(super) descriptors: Vec<RawFd>,
    pub(super) settings: HandedSettings,
    /// The soft limit on open files for processes; `None` is none.
    pub(super) open_files: Option<u64>,
    pub(super) processes: Vec<HandedProcess>,
    pub(super) ends: Vec<HandedEnd>,
    pub(super) watchers: Vec<HandedWatcher>,
    #[serde(default)]
    pub(super) frozen: HandedFreeze,
    /// What was noted; of an agent that noted nothing there is none.
    #[serde(default)]
    pub(super) journal: Option<HandedJournal>,
    /// Those that could not be handed on.
    pub(super) watchers_failed: usize,
}

/// What goes along with the JSON.
#[derive(Default)]
pub(crate) struct Leaving {
    pub(super) kept: Kept,
    data: Vec<Bytes>,
}

impl Leaving {
    /// Hands on a descriptor by its number.
    pub(crate) fn keep(&mut self, fd: Arc<dyn AsFd + Send + Sync>) -> RawFd {
        self.kept.keep(fd)
    }

    /// Hands on bytes by how many they are.
    pub(crate) fn put(&mut self, data: impl Into<Bytes>) -> usize {
        let data = data.into();
        let length = data.len();
        self.data.push(data);
        length
    }

    /// What the next one has of the bytes.
    #[cfg(test)]
    pub(crate) fn arrive(self) -> Arrived {
        Arrived { descriptors: HashMap::new(), data: Bytes::from(self.data.concat()) }
    }

    /// Writes all that is handed on, and gives the number of the file.
    pub(super) fn write(&mut self, state: &mut State) -> io::Result<RawFd> {
        state.descriptors = self.kept.numbers();
        let json = serde_json::to_vec(state)?;
        let mut file = std::fs::File::from(memory_file("envd-handover", MemfdFlags::NOEXEC_SEAL)?);
        file.write_all(&u64::try_from(json.len()).unwrap_or(u64::MAX).to_le_bytes())?;
        file.write_all(&json)?;
        for data in &self.data {
            file.write_all(data)?;
        }
        file.rewind()?;
        Ok(self.keep(Arc::new(file)))
    }
}

/// A file that is nowhere but in memory. Of `extra` is left out what the kernel is too old for.
pub(super) fn memory_file(name: &str, extra: MemfdFlags) -> io::Result<OwnedFd> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    match memfd_create(name, flags | extra) {
        Err(rustix::io::Errno::INVAL) => Ok(memfd_create(name, flags)?),
        made => Ok(made?),
    }
}

/// What came along with the JSON, to be taken in the same order. What is not taken is closed.
pub(crate) struct Arrived {
    descriptors: HashMap<RawFd, OwnedFd>,
    data: Bytes,
}

impl Arrived {
    /// A descriptor that was handed on. Each once.
    ///
    /// # Errors
    /// When it was not there, or the runtime cannot wait for it.
    pub(crate) fn descriptor(&mut self, fd: RawFd) -> io::Result<Pollable> {
        let missing = || io::Error::other("a descriptor is missing");
        Pollable::new(self.descriptors.remove(&fd).ok_or_else(missing)?)
    }

    /// The next bytes; fewer if there are no more.
    pub(crate) fn take(&mut self, length: usize) -> Bytes {
        self.data.split_to(length.min(self.data.len()))
    }
}

/// Reads what [`Leaving::write`] wrote, and takes over the descriptors it names.
pub(super) fn read(file: OwnedFd) -> io::Result<(State, Arrived)> {
    let mut all = Vec::new();
    std::fs::File::from(file).read_to_end(&mut all)?;
    let mut data = Bytes::from(all);
    let cut_off = || io::Error::from(io::ErrorKind::UnexpectedEof);
    let length = *data.first_chunk::<8>().ok_or_else(cut_off)?;
    let _length = data.split_to(8);
    let length = usize::try_from(u64::from_le_bytes(length)).unwrap_or(usize::MAX);
    if length > data.len() {
        return Err(cut_off());
    }
    let state: State = serde_json::from_slice(&data.split_to(length))?;
    if state.format != FORMAT {
        return Err(io::Error::other(format!("its format is {}, not {FORMAT}", state.format)));
    }
    let claimed = state.descriptors.iter().filter_map(|fd| Some((*fd, claim(*fd).ok()?)));
    let descriptors = claimed.collect();
    Ok((state, Arrived { descriptors, data }))
}

#[cfg(test)]
mod tests {
    use rustix::io::{FdFlags, dup, fcntl_getfd};

    use super::*;
    use crate::cli::Environment;
    use crate::settings::Settings;

    fn state(format: u32) -> State {
        State {
            format,
            descriptors: Vec::new(),
            settings: Settings::new(Environment::default()).hand_over(),
            open_files: Some(5),
            processes: Vec::new(),
            ends: Vec::new(),
            watchers: Vec::new(),
            frozen: HandedFreeze::default(),
            journal: None,
            watchers_failed: 2,
        }
    }

    fn written(leaving: &mut Leaving, format: u32) -> OwnedFd {
        leaving.write(&mut state(format)).unwrap();
        dup(leaving.kept.last()).unwrap()
    }

    #[test]
    fn what_is_written_is_read_again_byte_for_byte() {
        let mut leaving = Leaving::default();
        let pieces = [&b"one"[..], b"", b"\0\xfftwo"].map(Bytes::from_static);
        let lengths = pieces.clone().map(|piece| leaving.put(piece));
        let (state, mut arrived) = read(written(&mut leaving, FORMAT)).unwrap();
        assert_eq!((state.open_files, state.watchers_failed), (Some(5), 2));
        assert_eq!(lengths.map(|length| arrived.take(length)), pieces);
        assert!(arrived.take(1).is_empty());
    }

    #[test]
    fn what_is_of_another_format_or_cut_off_is_an_error() {
        let other = read(written(&mut Leaving::default(), FORMAT + 1)).err().unwrap();
        assert_eq!(other.to_string(), format!("its format is {}, not {FORMAT}", FORMAT + 1));
        let whole = written(&mut Leaving::default(), FORMAT);
        let length = rustix::fs::fstat(&whole).unwrap().st_size;
        for length in [0, 7, 8, length - 1] {
            let cut = written(&mut Leaving::default(), FORMAT);
            rustix::fs::ftruncate(&cut, u64::try_from(length).unwrap()).unwrap();
            assert!(read(cut).is_err(), "{length}");
        }
    }

    #[test]
    fn descriptors_survive_only_when_they_are_told_to() {
        let mut leaving = Leaving::default();
        let (kept, _other) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
        let kept = Arc::new(kept);
        leaving.keep(Arc::clone(&kept) as _);
        for (do_survive, flags) in [(true, FdFlags::empty()), (false, FdFlags::CLOEXEC)] {
            leaving.kept.survive(do_survive).unwrap();
            assert_eq!(fcntl_getfd(&kept).unwrap(), flags);
        }
    }
}
