use std::io;
use std::path::{Path, PathBuf};

use super::{AuthoritiesError, ROOM_MIB, ReleaseError, SourcesError};
use crate::{CommandError, PublishError};

/// The base template could not be made. Nothing has changed for readers of the store.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    #[error("making a template needs root; run it as root")]
    NotRoot,
    #[error("{tool} is not installed; install it (on Debian: apt-get install {package})")]
    MissingTool { tool: &'static str, package: &'static str },
    #[error(
        "{} has {free_mib} MiB free and making a template needs {ROOM_MIB}; free some space, or \
         set another data directory",
        dir.display()
    )]
    NoRoom { dir: PathBuf, free_mib: u64 },
    #[error("read how much space is free in {}", dir.display())]
    Free { dir: PathBuf, source: io::Error },
    #[error("find out which release to install")]
    Release(#[from] ReleaseError),
    #[error("find the host's package sources")]
    Sources(#[from] SourcesError),
    #[error("collect the certificate authorities that were added to this host")]
    Authorities(#[from] AuthoritiesError),
    #[error("write the package sources")]
    WriteSources(#[source] io::Error),
    #[error("write the certificate authorities")]
    WriteAuthorities(#[source] io::Error),
    #[error(
        "packages could not be fetched; check this host's network, its DNS, and that \
         `apt-get update` works"
    )]
    Network(#[source] CommandError),
    #[error("package lists are from the future: this host's clock is wrong; set it and try again")]
    Clock(#[source] CommandError),
    #[error("the disk of {} is full; free some space and try again", dir.display())]
    DiskFull { dir: PathBuf, source: CommandError },
    #[error("the build was cancelled")]
    Cancelled,
    #[error("install the packages")]
    Install(#[source] CommandError),
    #[error("set up {what} in the template")]
    SetUp { what: &'static str, source: io::Error },
    #[error("the finished template is not right: {0}")]
    Wrong(String),
    #[error("publish the template")]
    Publish(#[from] PublishError),
    #[error("a worker thread ended early")]
    Worker(#[from] tokio::task::JoinError),
}

/// Tells the failures a person can do something about from the others, by what the tools say in
/// the C locale.
pub(super) fn sort(error: CommandError, dir: &Path) -> BuildError {
    const FULL: [&str; 2] = ["No space left on device", "Disk quota exceeded"];
    const NETWORK: [&str; 6] = [
        "Temporary failure resolving",
        "Could not resolve",
        "Could not connect",
        "Unable to connect",
        "Failed to fetch",
        "Connection timed out",
    ];
    let says = |phrases: &[&str]| phrases.iter().any(|phrase| error.tail().contains(phrase));
    if matches!(error, CommandError::Cancelled { .. }) {
        return BuildError::Cancelled;
    }
    if says(&FULL) {
        return BuildError::DiskFull { dir: dir.to_path_buf(), source: error };
    }
    if says(&["is not valid yet"]) {
        return BuildError::Clock(error);
    }
    if says(&NETWORK) {
        return BuildError::Network(error);
    }
    BuildError::Install(error)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::{BuildError, sort};
    use crate::CommandError;

    fn failed(tail: &str) -> CommandError {
        let status = std::os::unix::process::ExitStatusExt::from_raw(256);
        CommandError::Failed { program: "mmdebstrap", status, tail: tail.to_owned() }
    }

    #[test]
    fn what_a_person_can_mend_is_told_apart_from_the_rest() {
        let at = Path::new("/d");
        let full = "dpkg: error: failed to write: No space left on device";
        assert!(matches!(sort(failed(full), at), BuildError::DiskFull { .. }));
        let dns = "W: Failed to fetch http://x/ Temporary failure resolving 'x'";
        assert!(matches!(sort(failed(dns), at), BuildError::Network(_)));
        let early = "E: Release file for http://x/ is not valid yet (invalid for another 3d)";
        assert!(matches!(sort(failed(early), at), BuildError::Clock(_)));
        assert!(matches!(sort(failed("E: unmet dependencies"), at), BuildError::Install(_)));
    }
}
