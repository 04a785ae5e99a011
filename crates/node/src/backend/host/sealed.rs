//! Paused sandboxes that have nothing on this machine but files.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

use host::files::remove_tree;
use images::{Lease, Store};
use lifecycle::Budget;
use model::BuildId;
use parking_lot::Mutex;

use crate::ledger::{Record, SealedDir};

#[derive(Debug)]
pub(super) struct Sealed {
    dir: SealedDir,
    known: Mutex<BTreeMap<String, Kept>>,
}

#[derive(Debug)]
struct Kept {
    record: Record,
    /// Its files are laid over the template's. `None` when that is gone: it cannot be resumed then.
    _lease: Option<Lease>,
}

impl Sealed {
    pub(super) fn open(lifecycles: &Path, images: &Store) -> io::Result<Self> {
        let dir = SealedDir::open(lifecycles)?;
        let records = dir.read()?.into_iter();
        let known = records.map(|record| (record.sandbox.clone(), Kept::of(record, images)));
        Ok(Self { known: Mutex::new(known.collect()), dir })
    }

    pub(super) fn all(&self) -> Vec<Record> {
        self.known.lock().values().map(|kept| kept.record.clone()).collect()
    }

    pub(super) fn get(&self, sandbox: &str) -> Option<Record> {
        self.known.lock().get(sandbox).map(|kept| kept.record.clone())
    }

    /// As [`SealedDir::put`].
    pub(super) fn put(&self, record: &Record, lifecycle: &Path, images: &Store) -> io::Result<()> {
        self.dir.put(record, lifecycle)?;
        // A resume that failed has left it as it was.
        self.known
            .lock()
            .entry(record.sandbox.clone())
            .or_insert_with(|| Kept::of(record.clone(), images));
        Ok(())
    }

    /// As [`SealedDir::take`]; it is listed until it is forgotten.
    pub(super) fn take(&self, sandbox: &str, lifecycle: &Path) -> io::Result<()> {
        self.dir.take(sandbox, lifecycle)
    }

    pub(super) fn forget(&self, sandbox: &str) -> io::Result<()> {
        self.known.lock().remove(sandbox);
        self.dir.forget(sandbox)
    }

    /// Gives up the right to the templates: another node has it from here on.
    pub(super) fn let_go(&self) {
        self.known.lock().clear();
    }

    /// Removes everything that is kept of `sandbox`. Blocks.
    pub(super) fn discard(&self, sandbox: &str, budget: Budget) -> Result<(), host::HostError> {
        if !self.known.lock().contains_key(sandbox) {
            return Ok(());
        }
        remove_tree(&self.dir.of(sandbox), budget)?;
        self.known.lock().remove(sandbox);
        Ok(())
    }
}

impl Kept {
    fn of(record: Record, images: &Store) -> Self {
        let lease = BuildId::parse(&record.build).ok().and_then(|build| {
            let leased = images.lease_build(&build).inspect_err(|error| {
                let error = observe::chain(error).to_string();
                tracing::error!(sandbox.id = record.sandbox, error, "cannot be resumed any more");
            });
            leased.ok()
        });
        Self { record, _lease: lease }
    }
}
