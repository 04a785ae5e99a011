//! The directories of a node.

use std::fs;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

use host::files::keep_apart;

use crate::config::Config;
use crate::ledger::ended_dir;
use crate::start::StartError;

/// Makes what is not there. Returns the configuration with the real name of its directory: names in
/// the census are compared with what the kernel shows.
pub(super) fn prepare(config: Config) -> Result<Config, StartError> {
    let lifecycles = config.lifecycles();
    for dir in [&config.data_dir, &lifecycles, &ended_dir(&lifecycles)] {
        make_dir(dir).map_err(|source| StartError::Directory { path: dir.clone(), source })?;
    }
    if let Err(error) = keep_apart(&lifecycles) {
        tracing::debug!(error = %observe::chain(&error), "sandboxes are not kept apart on the disk");
    }
    let data_dir = fs::canonicalize(&config.data_dir)
        .map_err(|source| StartError::Directory { path: config.data_dir.clone(), source })?;
    Ok(Config { data_dir, ..config })
}

fn make_dir(path: &Path) -> std::io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path)
}
