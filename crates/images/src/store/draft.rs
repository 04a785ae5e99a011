use std::fs::{DirBuilder, File};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use model::{BuildId, IdError, TemplateId};
use rand::Rng;
use rustix::fs::FlockOperation;

use super::{NEW, ROOTFS, Store};
use crate::{Lease, NewTemplate, Origin, Template, manifest, tree};

/// A template that is being made. Nobody sees it until it is published; if its maker dies, the
/// next [`Store::open`] removes it.
#[derive(Debug)]
#[must_use = "publish or discard it"]
pub struct Draft {
    build: BuildId,
    path: PathBuf,
    /// Locked: this maker is alive.
    dir: File,
}

/// A template could not be started or finished.
#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    #[error("make a directory for the template in {}", dir.display())]
    Begin { dir: PathBuf, source: io::Error },
    #[error("make an id for the template")]
    Id(#[source] IdError),
    #[error("write the description of build {build}")]
    Describe { build: BuildId, source: io::Error },
    #[error("write build {build} to disk")]
    Sync { build: BuildId, source: io::Error },
    #[error("give build {build} its final name")]
    Rename { build: BuildId, source: io::Error },
}

impl Draft {
    /// Where the root file system goes. Its maker creates it.
    #[must_use]
    pub fn rootfs(&self) -> PathBuf {
        self.path.join(ROOTFS)
    }

    /// A place for the maker's own files; all but `rootfs` is removed on publishing.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    #[must_use]
    pub fn build(&self) -> &BuildId {
        &self.build
    }

    /// Removes what was made. Blocking.
    ///
    /// # Errors
    /// Something could not be removed; the next [`Store::open`] tries again.
    pub fn discard(self) -> io::Result<()> {
        tree::remove(&self.path)
    }
}

impl Store {
    /// Starts a template.
    ///
    /// # Errors
    /// [`PublishError::Begin`]: no directory could be made for it.
    pub fn begin(&self) -> Result<Draft, PublishError> {
        let build = BuildId::parse(&uuid::Uuid::new_v4().to_string()).map_err(PublishError::Id)?;
        self.begin_as(build)
    }

    /// Starts a template whose build is to have this id, which nobody else may have.
    ///
    /// # Errors
    /// As [`Store::begin`].
    pub fn begin_as(&self, build: BuildId) -> Result<Draft, PublishError> {
        let path = self.dir.join(format!("{NEW}{build}"));
        let failed = |source| PublishError::Begin { dir: self.dir.clone(), source };
        let _changing = self.lock().map_err(failed)?;
        DirBuilder::new().mode(0o700).create(&path).map_err(failed)?;
        let dir = tree::open_dir(&path).map_err(failed)?;
        rustix::fs::flock(&dir, FlockOperation::NonBlockingLockExclusive)
            .map_err(|error| failed(error.into()))?;
        Ok(Draft { build, path, dir })
    }

    /// Makes a finished draft the build in use of its template, which is the one that has its
    /// first alias already, or else a new one. The build it replaces stays for those who lease
    /// it, until [`Store::collect`]. Blocking: waits until the files are on disk.
    ///
    /// # Errors
    /// Hands the draft back with the cause; nothing has changed for readers then.
    pub fn publish(
        &self,
        draft: Draft,
        content: NewTemplate,
    ) -> Result<Arc<Template>, (Draft, PublishError)> {
        match self.publish_draft(&draft, content) {
            Ok(template) => Ok(template),
            Err(error) => Err((draft, error)),
        }
    }

    /// Makes a finished draft, which is what a sandbox of `lease` has written, a build of `id` and
    /// the one in use. Blocking: waits until the files are on disk.
    ///
    /// # Errors
    /// Hands the draft back with the cause; nothing has changed for readers then.
    pub fn publish_layer(
        &self,
        draft: Draft,
        id: TemplateId,
        origin: Origin,
        lease: &Lease,
    ) -> Result<Arc<Template>, (Draft, PublishError)> {
        let under = lease.template();
        let below = std::iter::once(&under.build).chain(&under.below).cloned().collect();
        // Nobody finds it by the names of what it is made of.
        let content = NewTemplate { aliases: Vec::new(), ..under.content.clone() };
        match self.publish_as(&draft, content, |_| Ok(Some(id)), (origin, below)) {
            Ok(template) => Ok(template),
            Err(error) => Err((draft, error)),
        }
    }

    fn publish_draft(
        &self,
        draft: &Draft,
        content: NewTemplate,
    ) -> Result<Arc<Template>, PublishError> {
        let old = |content: &NewTemplate| {
            let old = content.aliases.first().and_then(|alias| self.find(alias));
            Ok(old.map(|old| old.id.clone()))
        };
        self.publish_as(draft, content, old, (Origin::Built, Vec::new()))
    }

    fn publish_as(
        &self,
        draft: &Draft,
        content: NewTemplate,
        id_of: impl FnOnce(&NewTemplate) -> Result<Option<TemplateId>, PublishError>,
        (origin, below): (Origin, Vec<BuildId>),
    ) -> Result<Arc<Template>, PublishError> {
        let build = || draft.build.clone();
        let describe = |source| PublishError::Describe { build: build(), source };
        let sync = |source| PublishError::Sync { build: build(), source };
        let rename = |source| PublishError::Rename { build: build(), source };

        draft.keep_only_rootfs().map_err(describe)?;
        // The bulk is on its way before the lock is taken; under it only the description is left.
        rustix::fs::syncfs(&draft.dir).map_err(|error| sync(error.into()))?;

        let changing = self.lock().map_err(rename)?;
        let id = match id_of(&content)? {
            Some(id) => id,
            None => new_template_id().map_err(PublishError::Id)?,
        };
        let old = self.builds_of(&id).iter().map(|old| old.generation).max();
        let template = Template {
            id,
            build: build(),
            generation: old.map_or(1, |old| old + 1),
            created_at: SystemTime::now(),
            origin,
            below,
            content,
        };
        manifest::write(&draft.path, &template).map_err(describe)?;
        rustix::fs::syncfs(&draft.dir).map_err(|error| sync(error.into()))?;
        // Not in the way of the first lease; no sweep can come between, it needs the store's lock.
        rustix::fs::flock(&draft.dir, FlockOperation::Unlock).map_err(|e| rename(e.into()))?;
        std::fs::rename(&draft.path, self.dir.join(draft.build.as_str())).map_err(rename)?;
        changing.sync_all().map_err(sync)?;
        self.seen.lock().stamp = None;
        Ok(Arc::new(template))
    }
}

impl Draft {
    fn keep_only_rootfs(&self) -> io::Result<()> {
        for entry in std::fs::read_dir(&self.path)? {
            let entry = entry?;
            if entry.file_name() == ROOTFS {
                continue;
            }
            if entry.file_type()?.is_dir() {
                tree::remove(&entry.path())?;
            } else {
                std::fs::remove_file(entry.path())?;
            }
        }
        Ok(())
    }
}

/// E2B's form of a template id: 20 characters of `[a-z0-9]`.
fn new_template_id() -> Result<TemplateId, IdError> {
    const ALPHABET: &[u8; 36] = b"abcdefghijklmnopqrstuvwxyz0123456789";
    let mut random = rand::rng();
    let text: String = (0..20)
        .filter_map(|_| ALPHABET.get(random.random_range(0..ALPHABET.len())))
        .map(|&byte| char::from(byte))
        .collect();
    TemplateId::parse(&text)
}
