use std::collections::BTreeMap;
use std::fs::{DirBuilder, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};
use std::time::{Duration, SystemTime};

use model::{BuildId, TemplateId};
use parking_lot::{Mutex, MutexGuard};
use rustix::fs::FlockOperation;

use crate::lease::Hold;
use crate::manifest::{self, ManifestError};
use crate::{Lease, LeaseError, Origin, Template, tree};

mod clear;
mod draft;
#[cfg(test)]
mod tests;

pub use draft::{Draft, PublishError};

/// In front of the name of a template that is being made, and of one that is being removed.
/// A build id never starts with a dot.
const NEW: &str = ".new-";
const GONE: &str = ".gone-";

const ROOTFS: &str = "rootfs";

/// How long sandboxes may take to be started from a snapshot that was made for that.
const PASSING_FOR: Duration = Duration::from_secs(600);

/// A change this recent may share its time stamp with one that is still to come.
const STAMP_SETTLES: Duration = Duration::from_millis(50);

/// A directory of templates, one below `<dir>/<build id>/`. It may be open in several processes
/// at a time: a template made by one is seen by the others at their next call.
#[derive(Debug)]
pub struct Store {
    dir: PathBuf,
    seen: Mutex<Seen>,
}

#[derive(Debug, Default)]
struct Seen {
    /// Modification time of the directory when it was read; `None`: read it again.
    stamp: Option<SystemTime>,
    builds: BTreeMap<BuildId, Build>,
    /// What could not be read and why, so that it is logged once.
    broken: BTreeMap<PathBuf, String>,
}

#[derive(Debug)]
struct Build {
    template: Arc<Template>,
    hold: Weak<Hold>,
}

/// What became of a build that was to be removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Removed {
    Gone,
    /// A sandbox uses it.
    Leased,
    /// Others are laid over it.
    Below,
}

impl Removed {
    fn into_result(self, build: &BuildId) -> Result<(), RemoveError> {
        match self {
            Self::Gone => Ok(()),
            Self::Leased => Err(RemoveError::Leased(build.clone())),
            Self::Below => Err(RemoveError::Below(build.clone())),
        }
    }
}

/// The store cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("make the template directory {}", dir.display())]
    Make { dir: PathBuf, source: io::Error },
    #[error("read the template directory {}", dir.display())]
    Read { dir: PathBuf, source: io::Error },
    #[error("sweep what an interrupted build left in {}", dir.display())]
    Sweep { dir: PathBuf, source: io::Error },
}

/// A template could not be removed.
#[derive(Debug, thiserror::Error)]
pub enum RemoveError {
    #[error("there is no template {0}")]
    Unknown(TemplateId),
    #[error("build {0} of the template is in use by sandboxes; end them first")]
    Leased(BuildId),
    #[error("snapshots are made of build {0} of the template; remove them first")]
    Below(BuildId),
    #[error("remove template build {build}")]
    Io { build: BuildId, source: io::Error },
}

impl Store {
    /// Opens the store in `dir`, making it when it is not there, and removes what interrupted
    /// builds and removals left. Blocking.
    ///
    /// # Errors
    /// The directory cannot be made, read or swept.
    pub fn open(dir: &Path) -> Result<Self, OpenError> {
        let name = || dir.to_path_buf();
        // Beneath are set-user-id files with their real owners: nobody but root may get there.
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(dir)
            .map_err(|source| OpenError::Make { dir: name(), source })?;
        let dir = dir
            .canonicalize()
            .map_err(|source| OpenError::Read { dir: dir.to_path_buf(), source })?;
        let store = Self { dir: dir.clone(), seen: Mutex::default() };
        store.sweep().map_err(|source| OpenError::Sweep { dir: dir.clone(), source })?;
        let mut seen = store.seen.lock();
        seen.read(&dir).map_err(|source| OpenError::Read { dir: dir.clone(), source })?;
        drop(seen);
        Ok(store)
    }

    /// Where it is, without symbolic links.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The templates in use, sorted by id.
    #[must_use]
    pub fn templates(&self) -> Vec<Arc<Template>> {
        let seen = self.current();
        let mut newest: BTreeMap<&TemplateId, &Arc<Template>> = BTreeMap::new();
        for build in seen.builds.values() {
            let best = newest.entry(&build.template.id).or_insert(&build.template);
            if build.template.generation > best.generation {
                *best = &build.template;
            }
        }
        newest.into_values().cloned().collect()
    }

    /// The build of `id` that is in use.
    #[must_use]
    pub fn get(&self, id: &TemplateId) -> Option<Arc<Template>> {
        self.templates().into_iter().find(|template| template.id == *id)
    }

    /// One build, in use or replaced.
    #[must_use]
    pub fn build(&self, id: &BuildId) -> Option<Arc<Template>> {
        self.current().builds.get(id).map(|build| Arc::clone(&build.template))
    }

    /// The template users call `name`: by alias first, then by id.
    #[must_use]
    pub fn find(&self, name: &str) -> Option<Arc<Template>> {
        let templates = self.templates();
        let by_alias = templates.iter().find(|t| t.content.aliases.iter().any(|a| a == name));
        by_alias.or_else(|| templates.iter().find(|t| t.is_called(name))).cloned()
    }

    /// Takes the build of `id` that is in use.
    ///
    /// # Errors
    /// [`LeaseError::Unknown`] when there is none.
    pub fn lease(&self, id: &TemplateId) -> Result<Lease, LeaseError> {
        // Twice: the build may have been replaced between the look and the lock.
        let mut last = None;
        for _ in 0..2 {
            let template = self.get(id).ok_or_else(|| LeaseError::Unknown(id.clone()))?;
            match self.lease_build(&template.build) {
                Err(error @ LeaseError::BuildGone(_)) => last = Some(error),
                other => return other,
            }
        }
        Err(last.unwrap_or_else(|| LeaseError::Unknown(id.clone())))
    }

    /// Takes one build, in use or replaced: for the sandbox that was started from it and is taken
    /// over from an earlier daemon.
    ///
    /// # Errors
    /// [`LeaseError::BuildGone`] when it is not there or is being removed.
    pub fn lease_build(&self, id: &BuildId) -> Result<Lease, LeaseError> {
        let mut seen = self.current();
        let template = match seen.builds.get(id) {
            Some(build) => Arc::clone(&build.template),
            None => return Err(LeaseError::BuildGone(id.clone())),
        };
        // From the top down: nothing goes that something is laid over.
        let (mut layers, mut holds) = (Vec::new(), Vec::new());
        for id in std::iter::once(id).chain(&template.below) {
            holds.push(self.hold(&mut seen, id)?);
            layers.push(self.dir.join(id.as_str()).join(ROOTFS));
        }
        Ok(Lease { template, layers, _holds: holds })
    }

    fn hold(&self, seen: &mut Seen, id: &BuildId) -> Result<Arc<Hold>, LeaseError> {
        let gone = || LeaseError::BuildGone(id.clone());
        let failed = |source| LeaseError::Lock { build: id.clone(), source };
        let build = seen.builds.get_mut(id).ok_or_else(gone)?;
        let path = self.dir.join(id.as_str());
        let hold = match build.hold.upgrade() {
            Some(hold) => hold,
            None => {
                let dir = match tree::open_dir(&path) {
                    Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(gone()),
                    other => other.map_err(failed)?,
                };
                let locked = tree::try_lock(&dir, FlockOperation::NonBlockingLockShared);
                // Moved away between the open and the lock: the lock is on what is going.
                if !locked.map_err(failed)? || !tree::is_at(&dir, &path).map_err(failed)? {
                    seen.stamp = None;
                    return Err(gone());
                }
                Arc::new(Hold { _dir: dir })
            }
        };
        build.hold = Arc::downgrade(&hold);
        Ok(hold)
    }

    /// Removes every build of `id` and its files. Blocking; under a second.
    ///
    /// # Errors
    /// [`RemoveError::Leased`] when a sandbox uses it, in any process; nothing is removed then
    /// but builds that were replaced and are unused.
    pub fn remove(&self, id: &TemplateId) -> Result<(), RemoveError> {
        let mut builds: Vec<_> = self.builds_of(id);
        if builds.is_empty() {
            return Err(RemoveError::Unknown(id.clone()));
        }
        // A build may be laid over one before it.
        builds.sort_by_key(|template| std::cmp::Reverse(template.generation));
        for template in builds {
            self.remove_build(&template.build)?.into_result(&template.build)?;
        }
        Ok(())
    }

    /// Removes a build that was published and of which nobody is to be told after all. One that is not
    /// there has gone. Blocking; under a second.
    ///
    /// # Errors
    /// As [`Store::remove`]; nothing is removed then.
    pub fn retract(&self, id: &BuildId) -> Result<(), RemoveError> {
        self.remove_build(id)?.into_result(id)
    }

    /// Removes the builds that nobody leases, and that were replaced or were made for sandboxes that
    /// have had the time to start; says how many went.
    ///
    /// To be called when every sandbox an earlier daemon left has been taken over: one that has
    /// no lease yet would lose its files. Blocking.
    ///
    /// # Errors
    /// [`RemoveError::Io`]; what was not removed is tried again by the next call.
    pub fn collect(&self) -> Result<usize, RemoveError> {
        let in_use: Vec<BuildId> = self.templates().iter().map(|t| t.build.clone()).collect();
        let is_past = |template: &Template| match template.origin {
            // Every one that was made is there until its owner removes it.
            Origin::Snapshot => false,
            Origin::Passing => template.created_at.elapsed().is_ok_and(|age| age > PASSING_FOR),
            Origin::Built => !in_use.contains(&template.build),
        };
        let mut past: Vec<Arc<Template>> = {
            let seen = self.current();
            let builds = seen.builds.values().map(|build| &build.template);
            builds.filter(|template| is_past(template)).cloned().collect()
        };
        // What is laid over others goes before them.
        past.sort_by_key(|template| std::cmp::Reverse(template.below.len()));
        let mut removed = 0;
        for template in past {
            removed += usize::from(self.remove_build(&template.build)? == Removed::Gone);
        }
        Ok(removed)
    }

    fn remove_build(&self, id: &BuildId) -> Result<Removed, RemoveError> {
        let failed = |source| RemoveError::Io { build: id.clone(), source };
        let going = self.dir.join(format!("{GONE}{id}"));
        // Nobody publishes meanwhile what is laid over it.
        let _changing = self.lock().map_err(failed)?;
        let seen = self.fresh();
        if seen.builds.values().any(|build| build.template.below.contains(id)) {
            return Ok(Removed::Below);
        }
        if seen.builds.get(id).is_some_and(|build| build.hold.strong_count() > 0) {
            return Ok(Removed::Leased);
        }
        drop(seen);
        let path = self.dir.join(id.as_str());
        let dir = match tree::open_dir(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Removed::Gone),
            other => other.map_err(failed)?,
        };
        if !tree::lock_soon(&dir).map_err(failed)? {
            return Ok(Removed::Leased);
        }
        std::fs::rename(&path, &going).map_err(failed)?;
        tree::remove(&going).map_err(failed)?;
        Ok(Removed::Gone)
    }

    fn builds_of(&self, id: &TemplateId) -> Vec<Arc<Template>> {
        let seen = self.current();
        let builds = seen.builds.values().filter(|build| build.template.id == *id);
        builds.map(|build| Arc::clone(&build.template)).collect()
    }

    /// Removes what was half made and half removed, unless its maker is still alive. Blocking.
    ///
    /// # Errors
    /// Something could not be removed; the next call tries again.
    pub fn sweep(&self) -> io::Result<()> {
        let _changing = self.lock()?;
        for entry in std::fs::read_dir(&self.dir)? {
            let entry = entry?;
            let name = entry.file_name();
            let ours = |prefix| name.to_str().is_some_and(|name: &str| name.starts_with(prefix));
            if !(ours(NEW) || ours(GONE)) || !entry.file_type()?.is_dir() {
                continue;
            }
            let dir = tree::open_dir(&entry.path())?;
            if tree::try_lock(&dir, FlockOperation::NonBlockingLockExclusive)? {
                tree::remove(&entry.path())?;
                tracing::info!(path = %entry.path().display(), "swept an unfinished template");
            }
        }
        Ok(())
    }

    /// Excludes every other change of the store, in this process and in others. Held for a
    /// rename or a removal, never while a template is made.
    fn lock(&self) -> io::Result<File> {
        let dir = tree::open_dir(&self.dir)?;
        rustix::fs::flock(&dir, FlockOperation::LockExclusive)?;
        Ok(dir)
    }

    /// What is there now, whatever its time stamp says.
    fn fresh(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().stamp = None;
        self.current()
    }

    /// What is there now. One `stat` unless something changed.
    fn current(&self) -> MutexGuard<'_, Seen> {
        let mut seen = self.seen.lock();
        if let Err(error) = seen.read(&self.dir) {
            // What was read before is still there for all we know, and a lease checks again.
            tracing::warn!(%error, "template directory cannot be read; using what is known");
        }
        seen
    }
}

impl Seen {
    fn read(&mut self, dir: &Path) -> io::Result<()> {
        let modified = std::fs::metadata(dir)?.modified()?;
        if self.stamp == Some(modified) {
            return Ok(());
        }
        let mut builds = BTreeMap::new();
        let mut broken = BTreeMap::new();
        for entry in std::fs::read_dir(dir)? {
            let entry = entry?;
            let name = entry.file_name();
            if name.as_encoded_bytes().starts_with(b".") || !entry.file_type()?.is_dir() {
                continue;
            }
            match load(&entry.path()) {
                Ok(template) => {
                    let old = self.builds.remove(&template.build);
                    let hold = old.map_or_else(Weak::new, |build| build.hold);
                    builds
                        .insert(template.build.clone(), Build { template: template.into(), hold });
                }
                Err(error) => {
                    let error = observed(&error);
                    if self.broken.get(&entry.path()) != Some(&error) {
                        tracing::warn!(path = %entry.path().display(), error, "template ignored");
                    }
                    broken.insert(entry.path(), error);
                }
            }
        }
        let settled = modified.elapsed().is_ok_and(|age| age > STAMP_SETTLES);
        *self = Self { stamp: settled.then_some(modified), builds, broken };
        Ok(())
    }
}

fn load(dir: &Path) -> Result<Template, ManifestError> {
    let template = manifest::read(dir)?;
    let rootfs = std::fs::symlink_metadata(dir.join(ROOTFS)).map_err(ManifestError::Rootfs)?;
    // Of a sandbox's own root directory its owner decides.
    let is_open = template.origin != Origin::Built || rootfs.mode() & 0o005 == 0o005;
    if !rootfs.is_dir() || !is_open {
        return Err(ManifestError::RootfsMode);
    }
    Ok(template)
}

fn observed(error: &ManifestError) -> String {
    match std::error::Error::source(error) {
        Some(cause) => format!("{error}: {cause}"),
        None => error.to_string(),
    }
}
