//! The end of the last claim of a host.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::{BLOCKS, CLAIMS, HostError, block_in, choose, lock_soon};
use crate::error::Tried;

/// Removes the directory of all claims, if there is none any more. Else changes nothing and says
/// which data directories have one. To be called outside of a view, by one without a claim.
///
/// A node that is just being started, and has no claim yet, may fail to start; the next start works.
///
/// # Errors
/// When a claim cannot be read, or a file not be removed.
pub fn retire() -> Result<Vec<PathBuf>, HostError> {
    retire_in(Path::new(CLAIMS))
}

fn retire_in(claims: &Path) -> Result<Vec<PathBuf>, HostError> {
    if !claims.exists() {
        return Ok(Vec::new());
    }
    let _choosing = choose(claims)?;
    // Their locks are held until their files are gone.
    let (mut free, mut holders) = (Vec::new(), Vec::new());
    for block in 0..BLOCKS {
        let path = block_in(claims, block);
        match File::open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            opened => {
                let mut file = opened.tried("open", path.to_string_lossy())?;
                let mut holder = Vec::new();
                file.read_to_end(&mut holder).tried("read", path.to_string_lossy())?;
                if !holder.is_empty() || !lock_soon(&file)? {
                    holders.push(PathBuf::from(OsStr::from_bytes(&holder)));
                }
                free.push((path, file));
            }
        }
    }
    if !holders.is_empty() {
        return Ok(holders);
    }
    for (path, _locked) in &free {
        fs::remove_file(path).tried("remove", path.to_string_lossy())?;
    }
    match fs::remove_dir(claims.join("view")) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        removed => removed.tried("remove", "the place of the view")?,
    }
    fs::remove_file(claims.join("lock")).tried("remove", "the lock of claims")?;
    match fs::remove_dir(claims) {
        // Files of somebody else: theirs to remove.
        Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => {}
        removed => removed.tried("remove", claims.to_string_lossy())?,
    }
    Ok(Vec::new())
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};
    use std::path::{Path, PathBuf};
    use std::sync::atomic::{AtomicBool, Ordering};

    use rustix::fs::{FlockOperation, flock};

    use super::super::{block_in, choose, is_at, try_lock};
    use super::retire_in;

    /// A directory of claims with blocks that nobody has.
    fn claims(dir: &Path) -> PathBuf {
        let claims = dir.join("claims");
        drop(choose(&claims).unwrap());
        fs::create_dir(claims.join("view")).unwrap();
        for block in [0, 3] {
            fs::write(block_in(&claims, block), "").unwrap();
        }
        claims
    }

    #[test]
    fn the_directory_goes_with_the_last_claim_and_not_before() {
        let dir = tempfile::tempdir().unwrap();
        let claims = claims(dir.path());
        // A stopped node, which has something to reclaim.
        fs::write(block_in(&claims, 3), "/var/lib/other").unwrap();
        assert_eq!(retire_in(&claims).unwrap(), [Path::new("/var/lib/other")]);
        fs::write(block_in(&claims, 3), "").unwrap();
        // One that is about to write its name.
        let taken = File::open(block_in(&claims, 0)).unwrap();
        flock(&taken, FlockOperation::LockExclusive).unwrap();
        assert_eq!(retire_in(&claims).unwrap(), [Path::new("")]);
        assert_eq!(fs::read_dir(&claims).unwrap().count(), 4, "nothing was removed");
        drop(taken);
        // A child that another test starts at this moment has a copy of the lock until it execs.
        crate::thread::testing::wait_until("the block to be let go", || {
            retire_in(&claims).unwrap().is_empty()
        });
        assert!(!claims.exists());
        assert!(retire_in(&claims).unwrap().is_empty(), "there is nothing to do twice");
    }

    #[test]
    fn what_is_not_a_claim_stays() {
        let dir = tempfile::tempdir().unwrap();
        let claims = claims(dir.path());
        fs::write(claims.join("notes"), "a person's").unwrap();
        assert!(retire_in(&claims).unwrap().is_empty());
        assert_eq!(fs::read_dir(&claims).unwrap().count(), 1);
    }

    /// Ends what waits for it, also when the test fails.
    struct Sets<'a>(&'a AtomicBool);

    impl Drop for Sets<'_> {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Relaxed);
        }
    }

    #[test]
    fn however_often_the_directory_goes_one_at_a_time_chooses() {
        let dir = tempfile::tempdir().unwrap();
        let claims = dir.path().join("claims");
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    retire_in(&claims).unwrap();
                }
            });
            let _done = Sets(&done);
            for _ in 0..300 {
                let chosen = choose(&claims).unwrap();
                let path = claims.join("lock");
                assert!(is_at(&chosen, &path), "it was removed by one whose turn it was not");
                let rival = File::open(&path).unwrap();
                let how = FlockOperation::NonBlockingLockExclusive;
                assert!(!try_lock(&rival, how).unwrap());
            }
        });
    }
}
