use std::fs;
use std::io;
use std::net::Ipv4Addr;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use host::census::HELPERS;
use host::cgroup::{Cgroups, Support};
use host::identity::{Claim, ClaimError};
use host::net::{Firewall, FirewallError};
use host::process::Orphans;
use host::view::View;
use host::{HostError, Mark};
use images::Store;
use lifecycle::{Attempts, Budget, Gate, Owned, Release, TaskGroup};
use machine::{Container, ContainerConfig, Driver, Runtime, RuntimeError};
use model::NodeId;
use node_wire::NodeEvent;
use parking_lot::Mutex;
use tokio::sync::{Semaphore, broadcast};
use tokio_util::sync::CancellationToken;

use crate::builds::Builds;
use crate::config::{Config, LimitsPolicy};
use crate::drain::Outcome;
use crate::metrics::{self, CpuClock};
use crate::pool::Pool;
use crate::pulse::Pulse;
use crate::reclaim::{ReclaimError, reclaim};
use crate::registry::Registry;
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
    pub claim: Claim,
    pub cgroups: Cgroups,
    pub firewall: Mutex<Option<Owned<Firewall>>>,
    pub firewall_name: Firewall,
    pub images: Arc<Store>,
    pub driver: Arc<dyn Driver>,
    pub resolvers: Vec<Ipv4Addr>,
    pub pool: Arc<Pool>,
    pub registry: Registry,
    pub gate: Gate,
    pub starting: Arc<Semaphore>,
    pub tasks: TaskGroup,
    /// Pool and sampler: stopped apart from the sandboxes' own tasks.
    pub upkeep: TaskGroup,
    pub events: broadcast::Sender<NodeEvent>,
    pub cpu: CpuClock,
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
    /// How many teardowns may do more than kill at a time.
    pub releasing: Semaphore,
    /// How many may remove files at a time.
    pub removing: Semaphore,
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
    #[error("remove what an earlier daemon left")]
    Reclaim(#[source] ReclaimError),
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
const FIREWALL_LIMIT: Duration = Duration::from_secs(10);
const RECLAIM_LIMIT: Duration = Duration::from_secs(120);

impl Inner {
    pub(crate) fn mark(&self) -> Mark {
        self.claim.mark()
    }
}

impl Node {
    /// Claims the data directory, removes what an earlier daemon left, and begins to admit.
    ///
    /// `view` is the private view of this process ([`host::view::enter`]).
    ///
    /// # Errors
    /// See [`StartError`]; every one says what to do.
    pub async fn start(
        config: Config,
        view: View,
        images: Arc<Store>,
    ) -> Result<Arc<Self>, StartError> {
        if config.max_sandboxes == 0 || config.max_sandboxes > u32::from(host::identity::SLOTS) {
            return Err(StartError::MaxSandboxes(config.max_sandboxes));
        }
        if !config.agent.is_file() {
            return Err(StartError::NoAgent(config.agent));
        }
        let runtime = Runtime::find(&config.runtime)?;
        let nft = find("nft").ok_or(StartError::NoNft)?;
        let layout = view.into_layout();
        let support = layout.support();
        if config.limits == LimitsPolicy::Require
            && let Some(lack) = support.iter().find(|s| !s.enforced)
        {
            return Err(StartError::Unenforceable { what: lack.what, detail: lack.detail.clone() });
        }
        make_dir(&config.data_dir, 0o700)?;
        make_dir(&config.lifecycles(), 0o700)?;
        // Names in the census are compared with what the kernel shows.
        let data_dir = fs::canonicalize(&config.data_dir)
            .map_err(|source| StartError::Directory { path: config.data_dir.clone(), source })?;
        let config = Config { data_dir, ..config };
        let claim = Claim::take(&config.data_dir, config.network)?;
        let root = claim.mark().cgroup_root();
        let cgroups = Cgroups::open(layout, root).map_err(StartError::Cgroups)?;
        let parts = Parts { config, claim, cgroups, images, runtime, support, nft: nft.clone() };
        let inner = Arc::new(parts.assemble().await?);
        if let Err(error) = inner.bring_up(nft).await {
            let left = inner.close_all(Budget::within(RESERVE)).await;
            if left.is_empty() {
                inner.claim.give_back().map_err(StartError::Cgroups)?;
            } else {
                tracing::error!(?left, "a start that failed leaves something for the next one");
            }
            return Err(error);
        }
        Ok(Arc::new(Self { inner }))
    }

    /// How many sandboxes hold something.
    #[must_use]
    pub fn sandboxes(&self) -> usize {
        self.inner.registry.len()
    }

    /// Slots that are ready for use.
    #[must_use]
    pub fn warm_slots(&self) -> usize {
        self.inner.pool.ready()
    }
}

/// What a node is made of.
struct Parts {
    config: Config,
    claim: Claim,
    cgroups: Cgroups,
    images: Arc<Store>,
    runtime: Runtime,
    support: Vec<Support>,
    nft: PathBuf,
}

impl Parts {
    async fn assemble(self) -> Result<Inner, StartError> {
        let Self { config, claim, cgroups, images, runtime, support, nft } = self;
        let mark = claim.mark();
        let driver = Arc::new(Container::new(ContainerConfig {
            runtime,
            agent: host::view::show_file(&config.agent, "envd").map_err(StartError::Agent)?,
            view: host::view::DIR.into(),
            cgroup_root: mark.cgroup_root(),
            support,
            faults: config.faults.clone(),
        }));
        // A group that was killed once kills whatever is cloned into it (kernel 6.18: the kill
        // counter of the target is compared with the cloner's own): always a new one.
        let old = cgroups.named(HELPERS);
        old.release(Budget::within(RECLAIM_LIMIT)).await.map_err(StartError::Cgroups)?;
        let helpers = cgroups.helpers().map_err(StartError::Cgroups)?;
        let pool = Pool::new(mark, guest_wire::ENVD_PORT, config.warm_slots, helpers);
        let resolvers = if config.resolvers.is_empty() {
            host::net::resolvers()
        } else {
            config.resolvers.clone()
        };
        let pulse = Pulse::default();
        let starting = usize::try_from(config.max_starting).unwrap_or(1).max(1);
        Ok(Inner {
            id: node_id(),
            cgroups,
            firewall: Mutex::new(None),
            firewall_name: Firewall::new(nft, mark),
            images,
            driver,
            resolvers,
            pool: Arc::new(pool),
            registry: Registry::new(config.max_sandboxes, pulse.clone()),
            builds: Builds::new(pulse.clone()),
            pulse,
            instance: instance_id(),
            standing: Mutex::new(Standing::starting()),
            force: Attempts::default(),
            force_started: Mutex::default(),
            reporting: Mutex::default(),
            leaked: Mutex::default(),
            releasing: Semaphore::new(MAX_RELEASING),
            removing: Semaphore::new(MAX_REMOVING),
            gate: Gate::default(),
            starting: Arc::new(Semaphore::new(starting)),
            tasks: TaskGroup::default(),
            upkeep: TaskGroup::default(),
            events: broadcast::Sender::new(EVENTS),
            cpu: CpuClock::default(),
            claim,
            config,
        })
    }
}

impl Inner {
    /// From an empty node to one that admits.
    async fn bring_up(self: &Arc<Self>, nft: PathBuf) -> Result<(), StartError> {
        reclaim(self, Budget::within(RECLAIM_LIMIT)).await.map_err(StartError::Reclaim)?;
        let firewall = Firewall::new(nft, self.mark());
        let budget = Budget::within(FIREWALL_LIMIT);
        firewall.apply(&self.resolvers, budget).await.map_err(StartError::Firewall)?;
        *self.firewall.lock() = Some(Owned::adopt(firewall));
        forward_packets().map_err(StartError::Forwarding)?;
        self.start_upkeep();
        self.opened();
        Ok(())
    }

    fn start_upkeep(self: &Arc<Self>) {
        let stop = self.upkeep.stop_token();
        let fill = Arc::clone(&self.pool).keep_filled(stop.clone());
        self.upkeep.spawn(tracing::info_span!("slot pool"), fill);
        let sample = metrics::sample(Arc::clone(self), stop.clone());
        self.upkeep.spawn(tracing::info_span!("sampler"), sample);
        self.upkeep.spawn(tracing::info_span!("orphans"), reap_orphans(stop.clone()));
    }
}

/// How often descendants that fell to the daemon are looked for.
const ORPHANS_EVERY: Duration = Duration::from_secs(10);

/// Reaps what nobody waits for: children of a runtime that was ended in the middle of a call.
async fn reap_orphans(stop: CancellationToken) {
    let mut orphans = Orphans::default();
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            () = tokio::time::sleep(ORPHANS_EVERY) => {}
        }
        let reaped = orphans.sweep();
        if reaped > 0 {
            tracing::info!(reaped, "orphans reaped");
        }
    }
}

fn make_dir(path: &Path, mode: u32) -> Result<(), StartError> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(mode)
        .create(path)
        .map_err(|source| StartError::Directory { path: path.to_owned(), source })
}

/// Where a helper program is.
pub(crate) fn find(program: &str) -> Option<PathBuf> {
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

/// Sandboxes reach the internet through the host. The setting is the host's; it is left on.
fn forward_packets() -> io::Result<()> {
    const KEY: &str = "/proc/sys/net/ipv4/ip_forward";
    if fs::read_to_string(KEY)?.trim() == "1" { Ok(()) } else { fs::write(KEY, "1") }
}
