use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use model::{BuildId, TemplateId};

use crate::Template;

/// The right to use a template's files. The build is not removed while one is out, by this
/// process or by another.
#[derive(Debug, Clone)]
#[must_use = "the template may be removed once the lease is dropped"]
pub struct Lease {
    pub(crate) template: Arc<Template>,
    pub(crate) layers: Vec<PathBuf>,
    pub(crate) _holds: Vec<Arc<Hold>>,
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
    /// The root file system in layers, the topmost first. Read-only by agreement: they are shared
    /// by every sandbox of the build.
    #[must_use]
    pub fn layers(&self) -> &[PathBuf] {
        &self.layers
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
