//! Copying what a sandbox has written.

use std::path::Path;

use lifecycle::Budget;
use tokio_util::sync::CancellationToken;

use crate::command::{Command, Keeper, find_program};
use crate::{CommandError, Draft};

/// A layer could not be copied.
#[derive(Debug, thiserror::Error)]
pub enum CopyError {
    #[error("there is no program {0} on this host")]
    Missing(&'static str),
    #[error(transparent)]
    Command(#[from] CommandError),
}

impl CopyError {
    /// Whether there was no room for the copy.
    #[must_use]
    pub fn is_disk_full(&self) -> bool {
        // The program is asked to speak in the C locale.
        matches!(self, Self::Command(error) if error.tail().contains("No space left on device"))
    }
}

/// Copies the writable layer `upper`, in which nobody writes meanwhile, into `draft`: owners, modes,
/// times, extended attributes, hard links and holes stay as they are, and blocks are shared where the
/// file system can. Not synced.
///
/// Cancel safety: no; `cancel` and the end of `budget` end it, and what was copied goes with the
/// draft.
///
/// # Errors
/// See [`CopyError`].
pub async fn copy_layer(
    upper: &Path,
    draft: &Draft,
    cancel: &CancellationToken,
    budget: Budget,
) -> Result<(), CopyError> {
    let find = |program| find_program(program).ok_or(CopyError::Missing(program));
    let keeper = Keeper { setpriv: find("setpriv")?, unshare: find("unshare")? };
    let program = find("cp")?;
    let mut args = ["--archive", "--reflink=auto", "--no-target-directory", "--"]
        .map(std::ffi::OsString::from)
        .to_vec();
    args.extend([upper.into(), draft.rootfs().into_os_string()]);
    let command =
        Command { name: "cp", keeper: &keeper, program: &program, args, scratch: draft.path() };
    Ok(command.run(|line| tracing::debug!(line, "cp"), cancel, budget).await?)
}
