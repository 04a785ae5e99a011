use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use model::{BuildId, TemplateId};

use crate::Template;

/// The right to use a template's files. The build is not removed while one is out, by this
/// process or by another.
#[derive(Debug, Clone)]
#[must_use = "the template may be removed once the lease is dropped"]
pub struct Lease {
    pub(crate) template: Arc<Template>,
    pub(crate) rootfs: PathBuf,
    pub(crate) _hold: Arc<Hold>,
}

/// A shared lock on a template's directory: one descriptor for all leases of one build.
#[derive(Debug)]
pub(crate) struct Hold {
    pub(crate) _dir: File,
}

/// Why a template cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum LeaseError {
    #[error("there is no template {0}")]
    Unknown(TemplateId),
    #[error("build {0} of the template is not there any more")]
    BuildGone(BuildId),
    #[error("lock template build {build}")]
    Lock { build: BuildId, source: io::Error },
}

impl Lease {
    /// The root file system, read-only by agreement: it is shared by every sandbox of the build.
    #[must_use]
    pub fn rootfs(&self) -> &Path {
        &self.rootfs
    }

    #[must_use]
    pub fn build(&self) -> &BuildId {
        &self.template.build
    }

    #[must_use]
    pub fn template(&self) -> &Arc<Template> {
        &self.template
    }
}
