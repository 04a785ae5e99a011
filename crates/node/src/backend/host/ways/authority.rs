//! The certificate authority by which this node stands in for servers, as it is kept.
//!
//! Made when first needed. Sandboxes believe it for as long as they are there, so it is the same for
//! every daemon of the node, and is of the data directory: whoever removes that removes it.

use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use egress::{Authority, AuthorityError, Interceptor, KeptAuthority, Roots};
use model::Secret;
use serde::{Deserialize, Serialize};
use tokio::sync::OnceCell;
use tokio::task::{JoinError, spawn_blocking};

const FILE: &str = "egress-authority.json";
const NEXT: &str = "egress-authority.json.next";
/// Of the form below.
const VERSION: u32 = 1;

/// HTTPS requests cannot be given headers.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TrustError {
    #[error("{action} {}", path.display())]
    File { action: &'static str, path: PathBuf, source: io::Error },
    #[error(
        "use {}; move it away to have a new certificate authority made, which sandboxes believe from \
         their next start or change of rules on",
        path.display()
    )]
    Kept { path: PathBuf, source: AuthorityError },
    #[error("make a certificate authority")]
    Make(#[source] AuthorityError),
    #[error("a thread ended")]
    Thread(#[from] JoinError),
}

impl TrustError {
    pub(super) fn is_disk_full(&self) -> bool {
        match self {
            Self::File { source, .. } => source.kind() == io::ErrorKind::StorageFull,
            Self::Kept { .. } | Self::Make(_) | Self::Thread(_) => false,
        }
    }
}

/// Whom sandboxes believe, and whom the node does.
#[derive(Debug)]
pub(super) struct Trust {
    /// Where the authority is kept.
    dir: PathBuf,
    /// A file with those that servers are believed by; the host's own without one.
    roots: Option<PathBuf>,
    read: OnceCell<Roots>,
    made: OnceCell<Arc<Interceptor>>,
}

impl Trust {
    pub(super) fn new(dir: PathBuf, roots: Option<PathBuf>) -> Self {
        Self { dir, roots, read: OnceCell::new(), made: OnceCell::new() }
    }

    /// By which servers are believed; as they are at the first call that succeeds.
    ///
    /// Cancel safety: yes.
    ///
    /// # Errors
    /// See [`TrustError`].
    pub(super) async fn roots(&self) -> Result<&Roots, TrustError> {
        let read = || async {
            let roots = self.roots.clone();
            let read = move || roots.as_deref().map_or_else(|| Ok(Roots::of_host()), read_roots);
            spawn_blocking(read).await?
        };
        self.read.get_or_try_init(read).await
    }

    /// Made with the first call that succeeds.
    ///
    /// Cancel safety: yes; the next call finds what was made.
    ///
    /// # Errors
    /// See [`TrustError`].
    pub(super) async fn interceptor(&self) -> Result<&Arc<Interceptor>, TrustError> {
        let make = || async {
            let (dir, roots) = (self.dir.clone(), self.roots().await?.clone());
            let make = move || {
                let authority = authority(&dir, SystemTime::now())?;
                Interceptor::new(authority, &roots).map(Arc::new).map_err(TrustError::Make)
            };
            spawn_blocking(make).await?
        };
        self.made.get_or_try_init(make).await
    }
}

fn read_roots(path: &Path) -> Result<Roots, TrustError> {
    let read = fs::read(path).and_then(|text| Roots::of_pem(&text));
    read.map_err(|source| TrustError::File { action: "read", path: path.to_owned(), source })
}

#[derive(Serialize, Deserialize)]
struct Kept {
    version: u32,
    id: String,
    /// Seconds since 1970.
    ends_at_s: u64,
    certificate: String,
    key: String,
}

/// The one that is kept in `dir`, or a new one when there is none that lasts.
fn authority(dir: &Path, now: SystemTime) -> Result<Authority, TrustError> {
    let path = dir.join(FILE);
    if let Some(kept) = read(&path)? {
        let kept = Authority::restore(kept);
        let kept = kept.map_err(|source| TrustError::Kept { path: path.clone(), source })?;
        if kept.lasts(now) {
            return Ok(kept);
        }
        tracing::info!("the certificate authority of this node ends, and is followed by another");
    }
    let made = Authority::generate(now).map_err(TrustError::Make)?;
    let written = write(dir, made.kept());
    written.map_err(|source| TrustError::File { action: "write", path, source })?;
    Ok(made)
}

fn read(path: &Path) -> Result<Option<KeptAuthority>, TrustError> {
    let failed = |source| TrustError::File { action: "read", path: path.to_owned(), source };
    let text = match fs::read(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(error)),
    };
    let kept: Result<Kept, _> = serde_json::from_slice(&text);
    // What is wrong with it may quote it, and the key is in it.
    let kept = kept.ok().filter(|kept| kept.version == VERSION);
    let damaged = || AuthorityError::Damaged(format!("it is not of form {VERSION}"));
    let kept = kept.ok_or_else(|| TrustError::Kept { path: path.to_owned(), source: damaged() })?;
    let ends_at = SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(kept.ends_at_s));
    Ok(Some(KeptAuthority {
        id: kept.id,
        key: Secret::new(kept.key),
        certificate: kept.certificate,
        ends_at: ends_at.unwrap_or(SystemTime::UNIX_EPOCH),
    }))
}

fn write(dir: &Path, kept: &KeptAuthority) -> io::Result<()> {
    let ends_at = kept.ends_at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let text = serde_json::to_vec(&Kept {
        version: VERSION,
        id: kept.id.clone(),
        ends_at_s: ends_at.as_secs(),
        certificate: kept.certificate.clone(),
        key: kept.key.expose().to_owned(),
    })?;
    let next = dir.join(NEXT);
    // One that is there was cut off, and might be open to others.
    match fs::remove_file(&next) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = fs::File::options().write(true).create_new(true).mode(0o600).open(&next)?;
    file.write_all(&text)?;
    // What sandboxes with nothing but files believe must not be lost with the power.
    file.sync_all()?;
    fs::rename(&next, dir.join(FILE))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;
    use std::time::{Duration, SystemTime};

    use super::{FILE, NEXT, Trust, TrustError, authority};

    #[test]
    fn the_next_daemon_has_the_same_and_nobody_else_reads_it() {
        let dir = tempfile::tempdir().unwrap();
        let now = SystemTime::now();
        fs::write(dir.path().join(NEXT), "torn").unwrap();
        let made = authority(dir.path(), now).unwrap();
        let mode = fs::metadata(dir.path().join(FILE)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert!(!dir.path().join(NEXT).exists());
        let again = authority(dir.path(), now).unwrap();
        assert_eq!((again.id(), again.certificate()), (made.id(), made.certificate()));
        let later = now + Duration::from_secs(15 * 365 * 24 * 3600);
        let next = authority(dir.path(), later).unwrap();
        assert_ne!(next.id(), made.id(), "before its end");
        assert_eq!(authority(dir.path(), later).unwrap().id(), next.id());
    }

    #[test]
    fn what_is_damaged_is_told_and_not_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(FILE);
        let now = SystemTime::now();
        authority(dir.path(), now).unwrap();
        let good = fs::read_to_string(&path).unwrap();
        for bad in ["", "{}", &good.replace("\"version\":1", "\"version\":2")] {
            fs::write(&path, bad).unwrap();
            let error = authority(dir.path(), now).unwrap_err();
            let text = observe::chain(&error).to_string();
            assert!(matches!(error, TrustError::Kept { .. }), "{text}");
            assert!(text.contains("move it away") && !text.contains("PRIVATE"), "{text}");
            assert_eq!(fs::read_to_string(&path).unwrap(), bad);
        }
        let other = tempfile::tempdir().unwrap();
        authority(other.path(), now).unwrap();
        let other = fs::read_to_string(other.path().join(FILE)).unwrap();
        let key = |text: &str| {
            let kept: super::Kept = serde_json::from_str(text).unwrap();
            kept.key
        };
        let [good_key, other_key] = [&good, &other].map(|text| key(text).replace('\n', "\\n"));
        fs::write(&path, good.replace(&good_key, &other_key)).unwrap();
        authority(dir.path(), now).unwrap_err();
    }

    #[tokio::test]
    async fn a_first_try_that_failed_is_followed_by_another() {
        let dir = tempfile::tempdir().unwrap();
        let roots = dir.path().join("roots.pem");
        let trust = Trust::new(dir.path().to_owned(), Some(roots.clone()));
        fs::write(&roots, "nothing").unwrap();
        trust.interceptor().await.unwrap_err();
        let one = egress::Authority::generate(SystemTime::now()).unwrap();
        fs::write(&roots, one.certificate()).unwrap();
        let first = trust.interceptor().await.unwrap().authority().id().to_owned();
        assert_eq!(trust.interceptor().await.unwrap().authority().id(), first);
    }
}
