use std::io;
use std::path::PathBuf;

use model::BuildId;

use super::{RemoveError, Removed, Store};

impl Store {
    /// Removes every build, and then the directory. What is in use, or being made, by another
    /// process stays, and so does what is not the store's; it is returned. Blocking; may be
    /// repeated.
    ///
    /// # Errors
    /// Something could not be removed or looked at.
    pub fn remove_all(&self) -> io::Result<Vec<PathBuf>> {
        self.sweep()?;
        let mut stays = Vec::new();
        for entry in std::fs::read_dir(&self.dir)? {
            let entry = entry?;
            let build = entry.file_name().to_str().and_then(build_of);
            let gone = match build {
                Some(build) if entry.file_type()?.is_dir() => {
                    self.remove_build(&build).map_err(cause)? == Removed::Gone
                }
                _ => false,
            };
            if !gone {
                stays.push(entry.path());
            }
        }
        self.seen.lock().stamp = None;
        if !stays.is_empty() {
            stays.sort();
            return Ok(stays);
        }
        match std::fs::remove_dir(&self.dir) {
            // Somebody has begun a template meanwhile.
            Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => {
                Ok(vec![self.dir.clone()])
            }
            removed => removed.map(|()| stays),
        }
    }
}

/// Builds have names of one form, and nobody else's files have it.
fn build_of(name: &str) -> Option<BuildId> {
    let form = uuid::Uuid::try_parse(name).ok()?;
    (form.hyphenated().to_string() == name).then(|| BuildId::parse(name).ok())?
}

fn cause(error: RemoveError) -> io::Error {
    match error {
        RemoveError::Io { source, .. } => source,
        other => io::Error::other(other),
    }
}
