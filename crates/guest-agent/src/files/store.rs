//! Writing what comes from a client into a file.

use std::io::{self, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, fchown};
use std::path::{Path, PathBuf};
use std::pin::Pin;

use bytes::Bytes;
use flate2::write::MultiGzDecoder;
use futures::{Stream, StreamExt as _};
use guest_wire::rest::{FileKind, WrittenFile};
use http::StatusCode;
use tokio::io::AsyncWriteExt as _;

use crate::accounts::User;
use crate::filesystem::{Metadata, make_all, path_text};
use crate::rest::RestError;
use crate::tasks;

/// Content on its way in.
pub(super) type Content = Pin<Box<dyn Stream<Item = io::Result<Bytes>> + Send>>;

/// A file to write, for whom, and what to note beside it.
#[derive(Debug, Clone)]
pub(super) struct Target {
    pub(super) path: PathBuf,
    pub(super) user: User,
    pub(super) metadata: Metadata,
}

/// Why a file was not written, or not in whole.
#[derive(Debug, thiserror::Error)]
pub(super) enum StoreError {
    #[error("path is a directory: {0}")]
    IsDirectory(String),
    #[error("not enough inodes available to create {0}: remove some files first")]
    NoInodes(String),
    #[error("{}not enough disk space available", attempted(*.0))]
    NoSpace(Option<u64>),
    #[error("cannot read the request body: {0}")]
    Body(io::Error),
    #[error("{what} {path}: {source}")]
    File { what: &'static str, path: String, source: io::Error },
}

fn attempted(bytes: Option<u64>) -> String {
    bytes.map_or_else(String::new, |bytes| format!("attempted to write {bytes} bytes: "))
}

impl From<StoreError> for RestError {
    fn from(error: StoreError) -> Self {
        let status = match &error {
            StoreError::IsDirectory(_) | StoreError::Body(_) => StatusCode::BAD_REQUEST,
            StoreError::NoInodes(_) | StoreError::NoSpace(_) => StatusCode::INSUFFICIENT_STORAGE,
            StoreError::File { .. } => StatusCode::INTERNAL_SERVER_ERROR,
        };
        Self::new(status, error.to_string())
    }
}

/// Writes `content` in place of what is at the target, a piece at a time. `length` is what the
/// client said it would send. A failure leaves what was written until then.
///
/// Cancel safety: no, a part of the file may be written.
///
/// # Errors
/// When the target cannot be opened or written, or the content breaks off.
pub(super) async fn store<S>(
    target: &Target,
    mut content: S,
    length: Option<u64>,
) -> Result<WrittenFile, StoreError>
where
    S: Stream<Item = io::Result<Bytes>> + Unpin,
{
    let path = path_text(&target.path);
    let failed = |what: &'static str, source: io::Error| {
        if is_full(&source) {
            return StoreError::NoSpace(length);
        }
        StoreError::File { what, path: path.clone(), source }
    };
    let opened = tasks::blocking({
        let target = target.clone();
        move || open(&target)
    });
    let file = opened.await.unwrap_or_else(|| {
        Err(StoreError::File {
            what: "error opening file",
            path: path.clone(),
            source: io::Error::other("the operation panicked"),
        })
    })?;
    let mut file = tokio::fs::File::from_std(file);
    while let Some(piece) = content.next().await {
        let piece = piece.map_err(StoreError::Body)?;
        file.write_all(&piece).await.map_err(|error| failed("error writing file", error))?;
    }
    file.flush().await.map_err(|error| failed("error writing file", error))?;
    let file = file.into_std().await;
    let noted = tasks::blocking({
        let metadata = target.metadata.clone();
        move || metadata.store(&file)
    });
    let noted = noted.await.unwrap_or_else(|| Err(io::Error::other("the operation panicked")));
    noted.map_err(|error| failed("error writing metadata of", error))?;
    Ok(written(&target.path, &target.metadata))
}

/// What a client is told of a file that was written.
pub(super) fn written(path: &Path, metadata: &Metadata) -> WrittenFile {
    WrittenFile {
        path: path_text(path),
        name: path.file_name().map_or_else(String::new, |name| path_text(name.as_ref())),
        kind: FileKind::File,
        metadata: metadata.clone().into_map(),
    }
}

/// Opens the target for writing, empty, made if need be, and owned by the user either way.
fn open(target: &Target) -> Result<std::fs::File, StoreError> {
    let path = path_text(&target.path);
    let failed = |what: &'static str, source: io::Error| {
        if is_full(&source) {
            return StoreError::NoInodes(path.clone());
        }
        StoreError::File { what, path: path.clone(), source }
    };
    if let Some(parent) = target.path.parent() {
        make_all(parent, &target.user)
            .map_err(|error| failed("error creating directories for", error))?;
    }
    if target.path.is_dir() {
        return Err(StoreError::IsDirectory(path));
    }
    // Without the flag, opening a pipe that nobody reads would wait for ever.
    let file = std::fs::File::options()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o666)
        .custom_flags(libc::O_NONBLOCK)
        .open(&target.path)
        .map_err(|error| failed("error opening file", error))?;
    fchown(&file, Some(target.user.uid), Some(target.user.gid))
        .map_err(|error| failed("error changing owner of", error))?;
    Ok(file)
}

pub(super) fn is_full(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOSPC | libc::EDQUOT))
}

/// Unpacks gzip on the way. A few bytes of it can become very many, so it is fed in small
/// pieces and memory use stays bounded.
pub(super) fn unpacked(content: Content) -> Content {
    struct State {
        content: Content,
        decoder: MultiGzDecoder<Vec<u8>>,
        waiting: Bytes,
        is_finished: bool,
    }
    /// Deflate packs at most about a thousand to one, so this becomes 4 MiB at worst.
    const FED_BYTES: usize = 4 * 1024;

    let broken = |error: io::Error| {
        io::Error::new(io::ErrorKind::InvalidData, format!("it is not gzip: {error}"))
    };
    let state = State {
        content,
        decoder: MultiGzDecoder::new(Vec::new()),
        waiting: Bytes::new(),
        is_finished: false,
    };
    Box::pin(futures::stream::try_unfold(state, move |mut state| async move {
        loop {
            if state.is_finished {
                return Ok(None);
            }
            if state.waiting.is_empty() {
                match state.content.next().await.transpose()? {
                    Some(piece) => state.waiting = piece,
                    None => {
                        state.decoder.try_finish().map_err(broken)?;
                        state.is_finished = true;
                    }
                }
            }
            let fed = state.waiting.split_to(state.waiting.len().min(FED_BYTES));
            state.decoder.write_all(&fed).map_err(broken)?;
            let unpacked = std::mem::take(state.decoder.get_mut());
            if !unpacked.is_empty() {
                return Ok(Some((Bytes::from(unpacked), state)));
            }
        }
    }))
}

#[cfg(test)]
mod tests {
    use flate2::Compression;
    use flate2::write::GzEncoder;

    use super::*;

    fn packed(data: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
        encoder.write_all(data).unwrap();
        encoder.finish().unwrap()
    }

    async fn unpack(data: &[u8], piece_bytes: usize) -> io::Result<Vec<u8>> {
        let pieces: Vec<_> =
            data.chunks(piece_bytes).map(|piece| Ok(Bytes::copy_from_slice(piece))).collect();
        let mut content = unpacked(Box::pin(futures::stream::iter(pieces)));
        let mut all = Vec::new();
        while let Some(piece) = content.next().await {
            let piece = piece?;
            assert!(piece.len() <= 8 << 20, "a piece of {} bytes", piece.len());
            all.extend_from_slice(&piece);
        }
        Ok(all)
    }

    #[tokio::test]
    async fn gzip_is_unpacked_however_it_is_cut() {
        let data = b"some text, some text, some text".repeat(1000);
        let mut whole = packed(&data);
        for piece_bytes in [1, 7, 100_000] {
            assert_eq!(unpack(&whole, piece_bytes).await.unwrap(), data);
        }
        whole.extend(packed(b"second member"));
        assert!(unpack(&whole, 50).await.unwrap().ends_with(b"second member"));
    }

    #[tokio::test]
    async fn what_unpacks_to_very_much_comes_in_bounded_pieces() {
        let zeros = packed(&vec![0; 64 << 20]);
        assert_eq!(unpack(&zeros, usize::MAX).await.unwrap().len(), 64 << 20);
    }

    #[tokio::test]
    async fn broken_gzip_is_an_error() {
        assert!(unpack(b"plain text, not gzip at all", 100).await.is_err());
        let whole = packed(b"some text that is cut off");
        assert!(unpack(&whole[..whole.len() - 6], 100).await.is_err());
    }
}
