use std::fmt;
use std::future::Future;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use async_trait::async_trait;
use host::HostError;
use host::cgroup::{Cgroup, Support};
use host::mount::RootMount;
use host::net::Slot;
use host::process::Process;
use lifecycle::{Budget, Expired, Owned};
use tokio_util::sync::CancellationToken;

/// What a driver needs to make a machine.
#[derive(Debug)]
pub struct BootSpec<'a> {
    /// The lifecycle's id; names everything the driver makes.
    pub id: &'a str,
    /// The lifecycle's directory; everything the driver writes is below it.
    pub dir: &'a Path,
    /// The template's root file system in layers, the topmost first. Never written to.
    pub layers: &'a [PathBuf],
    pub hostname: &'a str,
    /// The guest agent's environment.
    pub env: &'a [(&'a str, String)],
    /// Bytes of memory, for the sizes that hang on it.
    pub memory_bytes: u64,
    pub resolvers: &'a [Ipv4Addr],
    pub cgroup: &'a Cgroup,
    pub slot: &'a mut Slot,
    /// Where the driver puts what must be released even if the boot does not end.
    pub held: &'a mut Held,
}

/// What a boot holds on the way.
#[derive(Debug, Default)]
pub struct Held {
    pub mount: Option<Owned<RootMount>>,
    /// The machine's first process, once there is one. When it ends, the machine has ended. It is a
    /// child of the daemon and has to be waited for.
    pub process: Option<Process>,
}

/// What a driver may have made for a lifecycle, beside processes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Part {
    /// The runtime's own record of the machine.
    Runtime,
    /// Mounts in the daemon's private view.
    Mounts,
    /// Files below the lifecycle directory: the writable layer and the driver's own.
    Files,
}

/// Until when, and unless what, a boot goes on.
#[derive(Debug, Clone)]
pub struct Stop {
    pub budget: Budget,
    pub cancelled: CancellationToken,
}

/// A boot was told to stop, or ran out of time.
#[derive(Debug, thiserror::Error)]
pub enum Stopped {
    #[error("cancelled")]
    Cancelled,
    #[error(transparent)]
    Expired(#[from] Expired),
}

impl Stop {
    /// Runs `work` unless it is told to stop first; `work` is dropped then.
    ///
    /// # Errors
    /// [`Stopped`].
    pub async fn race<T>(
        &self,
        step: &'static str,
        work: impl Future<Output = T>,
    ) -> Result<T, Stopped> {
        tokio::select! {
            biased;
            () = self.cancelled.cancelled() => Err(Stopped::Cancelled),
            done = self.budget.run(step, work) => Ok(done?),
        }
    }
}

/// Why a machine could not be made.
#[derive(Debug, thiserror::Error)]
pub enum BootError {
    #[error(transparent)]
    Host(#[from] HostError),
    #[error("write {what}")]
    Write { what: &'static str, source: std::io::Error },
    /// The runtime said no.
    #[error("{runtime} {call}: {message}")]
    Refused { runtime: &'static str, call: &'static str, message: String },
    #[error("the machine's first process is not where it should be: {0}")]
    Astray(String),
    #[error("{call}")]
    Stopped { call: &'static str, source: Stopped },
    #[error(transparent)]
    Injected(#[from] host::fault::Injected),
}

impl BootError {
    /// Whether somebody ended the sandbox while it started.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        matches!(self, Self::Stopped { source: Stopped::Cancelled, .. })
    }

    /// Whether the time was over.
    #[must_use]
    pub fn is_expired(&self) -> bool {
        matches!(self, Self::Stopped { source: Stopped::Expired(_), .. })
    }
}

/// How machines are made on this host.
#[async_trait]
pub trait Driver: fmt::Debug + Send + Sync {
    /// The driver's name in configuration and status.
    fn name(&self) -> &'static str;

    /// Which limits are kept, and which cannot be on this host.
    fn support(&self) -> Vec<Support>;

    /// The last lines that were written about the machine in `dir`, for people; a bounded number.
    fn log(&self, dir: &Path) -> Vec<String>;

    /// Makes a machine and starts it. Returns when its first process, which is in
    /// [`Held::process`] then, runs and its guest agent is about to answer at the slot's address.
    ///
    /// On an error, what was made is still there: kill the cgroup, then release every part. The
    /// call ends by itself when `stop` says so; it must not be dropped.
    async fn boot(&self, spec: BootSpec<'_>, stop: &Stop) -> Result<(), BootError>;

    /// Releases one part of the lifecycle `id` in `dir`, from name alone. May be repeated; what is
    /// gone is fine. The cgroup must be empty.
    async fn release(
        &self,
        part: Part,
        id: &str,
        dir: &Path,
        budget: Budget,
    ) -> Result<(), HostError>;
}
