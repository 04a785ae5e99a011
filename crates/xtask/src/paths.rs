//! Where things are in the workspace.

use std::path::{Path, PathBuf};

/// The root of the repository.
pub(crate) fn root() -> PathBuf {
    // Cargo builds this crate anew when the workspace moves, so the path of the build holds.
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.ancestors().nth(2).unwrap_or(here).to_path_buf()
}

/// Cargo's output directory.
pub(crate) fn target() -> PathBuf {
    root().join("target")
}

/// Where both binaries end up.
pub(crate) fn release() -> PathBuf {
    target().join("release")
}

/// The SDKs' environments, their logs and their copies of the JavaScript tests.
pub(crate) fn sdk() -> PathBuf {
    target().join("sdk")
}

/// The SDK tests themselves.
pub(crate) fn sdk_tests() -> PathBuf {
    root().join("tests/sdk")
}
