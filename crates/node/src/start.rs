use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use host::HostError;
use host::identity::ClaimError;
use host::net::FirewallError;
use host::view::View;
use images::Store;
use lifecycle::{Attempts, Budget, Gate, TaskGroup};
use machine::RuntimeError;
use model::NodeId;
use node_wire::{AdoptReport, NodeEvent};
use parking_lot::Mutex;
use tokio::sync::{Notify, Semaphore, broadcast, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::adopt::{AdoptError, adopt};
use crate::backend::Backend;
use crate::backend::host::Host;
use crate::builds::Builds;
use crate::config::Config;
use crate::drain::Outcome;
use crate::leave::{FAILED_START, Handing};
use crate::pulse::Pulse;
use crate::reclaim::{AT_A_TIME, Reclaim};
use crate::registry::Registry;
use crate::rounds::Rounds;
use crate::shutdown::RESERVE;
use crate::status::Standing;

/// A running node. Shared; dropping it stops nothing: call [`Node::shutdown`].
#[derive(Debug)]
pub struct Node {
    pub(crate) inner: Arc<Inner>,
}

#[derive(Debug)]
pub(crate) struct Inner {
    pub config: Config,
    pub id: NodeId,
    pub backend: Arc<dyn Backend>,
    pub images: Arc<Store>,
    pub registry: Registry,
    pub gate: Gate,
    /// Cancelled when the node begins to drain.
    pub draining: CancellationToken,
    pub starting: Arc<Semaphore>,
    pub tasks: TaskGroup,
    /// Pool and sampler: stopped apart from the sandboxes' own tasks.
    pub upkeep: TaskGroup,
    /// Which of them has ended before it was told to, and why.
    pub failing: watch::Sender<Option<String>>,
    pub events: broadcast::Sender<NodeEvent>,
    /// New with every process.
    pub instance: String,
    pub pulse: Pulse,
    pub standing: Mutex<Standing>,
    pub builds: Builds,
    pub force: Attempts<Outcome>,
    pub force_started: Mutex<Option<SystemTime>>,
    /// Whether a task tells of the drain already.
    pub reporting: Mutex<bool>,
    /// What the last census found that is nobody's.
    pub leaked: Mutex<Option<u32>>,
    pub rounds: Rounds,
    /// How many teardowns may do more than kill at a time.
    pub releasing: Semaphore,
    /// How many may remove files at a time.
    pub removing: Semaphore,
    /// How many may have what they keep written to the disk at a time.
    pub sealing: Semaphore,
    /// How many that an earlier daemon left are taken down at a time.
    pub reclaiming: Semaphore,
    /// Work was refused because the disk is short of room.
    pub room_wanted: Notify,
    /// What an earlier daemon left.
    pub adopted: Mutex<Option<AdoptReport>>,
    pub handing: Handing,
}

/// Why a node could not be started. Nothing of it runs then.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("make {}", path.display())]
    Directory { path: PathBuf, source: io::Error },
    #[error(transparent)]
    Claim(#[from] ClaimError),
    #[error(transparent)]
    Runtime(#[from] RuntimeError),
    #[error("nft is not installed; install nftables")]
    NoNft,
    #[error("the guest agent {} is not there; build it or set its path", .0.display())]
    NoAgent(PathBuf),
    #[error(
        "this host cannot enforce {what} ({detail}), and the configuration says limits = \"require\""
    )]
    Unenforceable { what: &'static str, detail: String },
    #[error("show the guest agent to sandboxes")]
    Agent(#[source] HostError),
    #[error("prepare cgroups")]
    Cgroups(#[source] HostError),
    #[error("set up the firewall")]
    Firewall(#[source] FirewallError),
    #[error("turn on packet forwarding (net.ipv4.ip_forward)")]
    Forwarding(#[source] io::Error),
    #[error("read {}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("take over what an earlier daemon left")]
    Adopt(#[source] AdoptError),
    #[error("max_sandboxes is {0}; it must be 1 to {slots}", slots = host::identity::SLOTS)]
    MaxSandboxes(u32),
}

/// A teardown runs the runtime and removes files: more at a time than this only slow each other.
const MAX_RELEASING: usize = 16;
/// Removing files keeps the disk busy; it has a queue of its own, so that a sandbox that made
/// millions of them delays only others like it.
const MAX_REMOVING: usize = 8;
/// Node events that a slow listener may be behind.
const EVENTS: usize = 4096;

impl Node {
    /// Claims the data directory and takes over the sandboxes that an earlier daemon left running.
    ///
    /// A node to which nothing else was left admits from then on. Else it does so when the rest has
    /// been removed, or has been tried to be: see [`Node::opened`]. Everything but new work is served
    /// meanwhile.
    ///
    /// `view` is the private view of this process ([`host::view::enter`]).
    ///
    /// # Errors
    /// See [`StartError`]; every one says what to do. What runs runs on then.
    pub async fn start(
        config: Config,
        view: View,
        images: Arc<Store>,
    ) -> Result<Arc<Self>, StartError> {
        if config.max_sandboxes == 0 || config.max_sandboxes > u32::from(host::identity::SLOTS) {
            return Err(StartError::MaxSandboxes(config.max_sandboxes));
        }
        let host = Host::open(config, view, Arc::clone(&images)).await?;
        let config = host.config().clone();
        Self::start_on(config, images, Arc::new(host)).await
    }

    /// As [`Node::start`], on a machine that is claimed.
    pub(crate) async fn start_on(
        config: Config,
        images: Arc<Store>,
        backend: Arc<dyn Backend>,
    ) -> Result<Arc<Self>, StartError> {
        let inner = Arc::new(Inner::new(config, images, backend));
        if let Err(error) = inner.bring_up().await {
            inner.close_failed_start().await?;
            return Err(error);
        }
        Ok(Arc::new(Self { inner }))
    }

    /// Waits until the node has started: it admits, or drains, or is left again.
    ///
    /// Cancel safety: yes.
    pub async fn opened(&self) {
        let inner = &self.inner;
        let started =
            || inner.phase() != model::NodePhase::Starting || inner.handing.begun.is_cancelled();
        inner.pulse.listen().until(started).await;
    }

    /// How many sandboxes hold something.
    #[must_use]
    pub fn sandboxes(&self) -> usize {
        self.inner.registry.len()
    }

    /// Slots that are ready for use.
    #[must_use]
    pub fn warm_slots(&self) -> usize {
        self.inner.backend.ready_slots()
    }
}

impl Inner {
    pub(crate) fn new(config: Config, images: Arc<Store>, backend: Arc<dyn Backend>) -> Self {
        let pulse = Pulse::default();
        let starting = usize::try_from(config.max_starting).unwrap_or(1).max(1);
        Self {
            id: node_id(),
            backend,
            images,
            registry: Registry::new(config.max_sandboxes, pulse.clone()),
            builds: Builds::new(pulse.clone()),
            pulse,
            instance: instance_id(),
            standing: Mutex::new(Standing::starting()),
            force: Attempts::default(),
            force_started: Mutex::default(),
            reporting: Mutex::default(),
            leaked: Mutex::default(),
            rounds: Rounds::default(),
            releasing: Semaphore::new(MAX_RELEASING),
            removing: Semaphore::new(MAX_REMOVING),
            sealing: Semaphore::new(MAX_REMOVING),
            reclaiming: Semaphore::new(AT_A_TIME),
            room_wanted: Notify::new(),
            adopted: Mutex::default(),
            handing: Handing::default(),
            gate: Gate::default(),
            draining: CancellationToken::new(),
            starting: Arc::new(Semaphore::new(starting)),
            tasks: TaskGroup::default(),
            upkeep: TaskGroup::default(),
            failing: watch::Sender::new(None),
            events: broadcast::Sender::new(EVENTS),
            config,
        }
    }

    /// From a claim to a node that can be used, and admits as soon as it can.
    async fn bring_up(self: &Arc<Self>) -> Result<(), StartError> {
        let began = Instant::now();
        // Before anything is adopted: nothing runs on without it.
        self.backend.bring_up().await?;
        let found = adopt(self).await.map_err(StartError::Adopt)?;
        let reclaim = Reclaim::begin(self, found, began);
        self.start_upkeep();
        if reclaim.is_done() {
            reclaim.tell(self);
            self.opened();
            return Ok(());
        }
        let (inner, stop) = (Arc::clone(self), self.upkeep.stop_token().clone());
        self.upkeep.spawn(tracing::info_span!("reclaim"), async move {
            reclaim.run(&inner, &stop).await;
        });
        Ok(())
    }

    /// Closes what was brought up, unless something runs that needs it, or may need it.
    async fn close_failed_start(self: &Arc<Self>) -> Result<(), StartError> {
        let is_empty = || self.backend.leftovers().is_ok_and(|left| left.is_empty());
        let left = if self.registry.len() == 0 && is_empty() {
            self.close_all(Budget::within(RESERVE)).await
        } else {
            let [held, node] = Budget::within(FAILED_START).split([1, 1]);
            self.let_go(held, node).await
        };
        if left.is_empty() && !self.handing.done.is_cancelled() {
            self.backend.give_back().map_err(StartError::Cgroups)?;
        } else if !left.is_empty() {
            tracing::error!(?left, "a start that failed leaves something for the next one");
        }
        Ok(())
    }
}

/// Changes with every boot of the machine.
pub(crate) const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// Which boot of the machine this is.
///
/// # Errors
/// When [`BOOT_ID`] cannot be read.
pub(crate) fn boot_id() -> io::Result<String> {
    Ok(std::fs::read_to_string(BOOT_ID)?.trim().to_owned())
}

/// Where a helper program is.
#[must_use]
pub fn find(program: &str) -> Option<PathBuf> {
    ["/usr/sbin", "/sbin", "/usr/bin", "/bin", "/usr/local/sbin", "/usr/local/bin"]
        .iter()
        .map(|dir| Path::new(dir).join(program))
        .find(|path| path.is_file())
}

/// The host's name, or a fixed word where it is no legal id.
fn node_id() -> NodeId {
    let name = rustix::system::uname().nodename().to_string_lossy().to_lowercase();
    let legal: String =
        name.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).take(64).collect();
    NodeId::parse(&legal).or_else(|_illegal| NodeId::parse("node")).unwrap_or_else(|_never| {
        unreachable!("a constant id is legal");
    })
}

/// 32 hexadecimal characters.
fn instance_id() -> String {
    format!("{:032x}", rand::random::<u128>())
}
