//! The first step of a test run: what tests that were killed have left goes, for it has names that the
//! next ones want. A node has its names as long as its data directory is there, and what a test makes
//! beside a node has the test's process number in its name.
//!
//! Nothing of a node that somebody keeps is touched: a block is cleared only where nobody holds its
//! lock, and its data directory is gone or a scratch directory of a test.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime};

use super::leftovers;
use crate::{command, processes};

/// Where nodes record which block of names they have, and lock it.
const CLAIMS: &str = "/run/cofferdam";
/// No group of tests runs for longer: what is older is nobody's, whoever else tests here now.
const OLD: Duration = Duration::from_secs(3600);
/// How long what was killed may take to be gone.
const SETTLE: Duration = Duration::from_secs(15);

/// Clears what can be told to be nobody's. One line for each thing.
pub(super) fn clear() -> Vec<String> {
    let mut cleared = Vec::new();
    let is_old_enough = if tests_run() { OLD } else { Duration::ZERO };
    for claim in leftovers::entries(Path::new(CLAIMS)) {
        let Some(block) = block_of(&claim.file_name().to_string_lossy()) else { continue };
        if let Some(deserted) = deserted(&claim.path(), &std::env::temp_dir(), is_old_enough) {
            clear_block(block, &deserted, &mut cleared);
        }
    }
    for found in leftovers::named() {
        if found.maker().is_some_and(|pid| !Path::new("/proc").join(pid.to_string()).exists()) {
            cleared.extend(found.remove(SETTLE));
        }
    }
    cleared
}

/// Whether a test program of any workspace runs on this host.
fn tests_run() -> bool {
    processes::pids().any(|pid| {
        let program = fs::read_link(format!("/proc/{pid}/exe")).unwrap_or_default();
        let folder = program.parent().and_then(Path::file_name);
        pid != std::process::id() && folder.is_some_and(|folder| folder == "deps")
    })
}

/// The number of the block that a claim of this name is for.
fn block_of(name: &str) -> Option<u8> {
    name.strip_prefix("block-")?.parse().ok()
}

/// A block that is nobody's, locked so that nobody chooses it now.
struct Deserted {
    claim: File,
    /// The scratch directory of the test whose it was, if that is there.
    scratch: Option<PathBuf>,
}

/// `None` where the block of `claim` is somebody's.
fn deserted(claim: &Path, temp: &Path, is_old_enough: Duration) -> Option<Deserted> {
    let claim = File::options().read(true).write(true).open(claim).ok()?;
    claim.try_lock().ok()?;
    let data = PathBuf::from(std::io::read_to_string(&claim).ok()?);
    if data.as_os_str().is_empty() || !data.exists() {
        return Some(Deserted { claim, scratch: None });
    }
    let scratch = scratch_of(&data, temp)?;
    let changed = claim.metadata().ok()?.modified().ok()?;
    let age = SystemTime::now().duration_since(changed).unwrap_or_default();
    (age >= is_old_enough).then_some(Deserted { claim, scratch: Some(scratch) })
}

/// The directory directly below `temp` that `data` is in, if it has a name as tests give it.
fn scratch_of(data: &Path, temp: &Path) -> Option<PathBuf> {
    let below = data.strip_prefix(temp).ok()?;
    let first = below.components().next()?.as_os_str();
    first.to_str()?.starts_with(".tmp").then(|| temp.join(first))
}

/// Removes everything that has the names of a block, and then what they were recorded for.
fn clear_block(block: u8, deserted: &Deserted, cleared: &mut Vec<String>) {
    for found in leftovers::named().into_iter().filter(|found| found.block() == Some(block)) {
        cleared.extend(found.remove(SETTLE));
    }
    let Some(scratch) = &deserted.scratch else { return };
    for place in leftovers::mounts_below(scratch) {
        drop(command::answer(Command::new("umount").arg("-l").arg(place)));
    }
    // The record goes last: without it nobody finds the rest.
    if fs::remove_dir_all(scratch).is_ok() && deserted.claim.set_len(0).is_ok() {
        cleared.push(format!("block {block} of {}", scratch.display()));
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};
    use std::path::{Path, PathBuf};
    use std::time::Duration;

    use super::{block_of, deserted, scratch_of};

    /// A folder of a test's own.
    fn folder(test: &str) -> PathBuf {
        let name = format!("xtask-sweep-{test}-{}", std::process::id());
        let folder = std::env::temp_dir().join(name);
        fs::create_dir_all(&folder).unwrap();
        folder
    }

    #[test]
    fn only_the_scratch_directories_of_tests_are_theirs() {
        let temp = Path::new("/tmp");
        let of = |data: &str| scratch_of(Path::new(data), temp);
        assert_eq!(of("/tmp/.tmpAbCdEf/data"), Some(PathBuf::from("/tmp/.tmpAbCdEf")));
        assert_eq!(of("/tmp/.tmpAbCdEf"), Some(PathBuf::from("/tmp/.tmpAbCdEf")));
        for somebodys in ["/var/lib/cofferdam", "/tmp", "/tmp/mine/.tmpAbCdEf", "/tmp/mine", ""] {
            assert_eq!(of(somebodys), None, "{somebodys}");
        }
    }

    #[test]
    fn a_claim_is_named_after_its_block() {
        assert_eq!(block_of("block-14"), Some(14));
        for other in ["lock", "view", "block-", "block-x"] {
            assert_eq!(block_of(other), None, "{other}");
        }
    }

    #[test]
    fn a_block_that_is_held_or_that_somebody_comes_back_for_is_left_alone() {
        let temp = folder("claims");
        let (claim, scratch) = (temp.join("block-3"), temp.join(".tmpScratch"));
        let (node, hour) = (temp.join("node"), Duration::from_secs(3600));
        fs::create_dir_all(scratch.join("data")).unwrap();
        fs::create_dir(&node).unwrap();
        let record = |data: &Path| fs::write(&claim, data.to_str().unwrap()).unwrap();
        let look = |old: Duration| deserted(&claim, &temp, old).map(|deserted| deserted.scratch);
        record(&node);
        assert_eq!(look(Duration::ZERO), None, "a node that is stopped");
        record(&scratch.join("data"));
        assert_eq!(look(hour), None, "its test may run still");
        assert_eq!(look(Duration::ZERO), Some(Some(scratch)));
        record(&temp.join("gone"));
        assert_eq!(look(hour), Some(None));
        record(Path::new(""));
        let holder = File::open(&claim).unwrap();
        holder.lock().unwrap();
        assert_eq!(look(Duration::ZERO), None, "somebody holds it");
        drop(holder);
        assert_eq!(look(Duration::ZERO), Some(None));
        fs::remove_dir_all(&temp).unwrap();
    }
}
