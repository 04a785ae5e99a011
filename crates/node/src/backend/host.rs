//! The real machine: the kernel, a runtime and a firewall.

use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use host::HostError;
use host::Mark;
use host::census::{CensusError, HELPERS, Item, census};
use host::cgroup::{Cgroups, Peak, Support, Usage};
use host::identity::Claim;
use host::net::Firewall;
use host::view::View;
use images::{Store, base};
use lifecycle::{Budget, Owned, Release, close_in};
use machine::{Container, ContainerConfig, Driver, Runtime};
use model::{Egress, LifecycleId, SandboxId};
use node_wire::{Journal, JournalMark, NodeMetrics};
use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;

use crate::adopt::AdoptError;
use crate::backend::host::holdings::HostHoldings;
use crate::backend::host::load::CpuClock;
use crate::backend::host::sealed::Sealed;
use crate::backend::host::upkeep::{forget_ended, reap_last_orphans, reap_orphans};
use crate::backend::host::ways::Ways;
use crate::backend::{Backend, CloseError, Closer, Disk, Holdings, Leftover, NotAdopted, Upkeep};
use crate::config::{Config, LimitsPolicy};
use crate::journal::JournalError;
use crate::leave::LeaveStep;
use crate::ledger::{Record, ended_dir, read_all};
use crate::pool::Pool;
use crate::pool::stock::Counts;
use crate::start::{BOOT_ID, StartError, boot_id, find};
use crate::teardown::StepError;

mod adopt;
mod directories;
mod halt;
mod holdings;
mod journal;
mod load;
mod sealed;
mod upkeep;
mod ways;

pub(crate) use ways::WayError;

/// This machine, claimed by a node.
#[derive(Debug)]
pub(crate) struct Host {
    config: Config,
    mark: Mark,
    /// `None` once the next daemon may have it.
    claim: parking_lot::Mutex<Option<Claim>>,
    boot_id: String,
    /// Slots of nobody whose links are there, kept from everybody.
    strays: parking_lot::Mutex<Vec<u16>>,
    cgroups: Cgroups,
    /// Held over the closing, so that one that is cut off leaves the table where it is.
    firewall: Mutex<Option<Owned<Firewall>>>,
    firewall_name: Firewall,
    nft: PathBuf,
    images: Arc<Store>,
    sealed: Arc<Sealed>,
    driver: Arc<dyn Driver>,
    resolvers: Vec<Ipv4Addr>,
    ways: Arc<Ways>,
    pool: Arc<Pool>,
    cpu: CpuClock,
}

const FIREWALL_LIMIT: Duration = Duration::from_secs(10);
/// Between two looks at links that the kernel is about to take away.
const LINKS_PAUSE: Duration = Duration::from_millis(5);
/// What is left of the helpers of an earlier daemon may take this long to go.
const OLD_HELPERS_LIMIT: Duration = Duration::from_secs(120);

impl Host {
    /// Claims the data directory, and prepares what everything else is made in.
    pub(crate) async fn open(
        config: Config,
        view: View,
        images: Arc<Store>,
    ) -> Result<Self, StartError> {
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
        let config = directories::prepare(config)?;
        let claim = Claim::take(&config.data_dir, config.network)?;
        let root = claim.mark().cgroup_root();
        let cgroups = Cgroups::open(layout, root).map_err(StartError::Cgroups)?;
        let parts = Parts { config, claim, cgroups, images, runtime, support, nft };
        parts.assemble().await
    }

    /// What it was told, with its directory's real name.
    pub(crate) fn config(&self) -> &Config {
        &self.config
    }

    fn mark(&self) -> Mark {
        self.mark
    }

    async fn close_slots(&self, budget: Budget) -> Result<(), CloseError> {
        self.pool.close().await;
        Ok(self.pool.wait_idle_unlinked(budget).await?)
    }
}

/// What a host is made of.
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
    async fn assemble(self) -> Result<Host, StartError> {
        let Self { config, claim, cgroups, images, runtime, support, nft } = self;
        let mark = claim.mark();
        let boot_id =
            boot_id().map_err(|source| StartError::Read { path: BOOT_ID.into(), source })?;
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
        old.release(Budget::within(OLD_HELPERS_LIMIT)).await.map_err(StartError::Cgroups)?;
        let helpers = cgroups.helpers().map_err(StartError::Cgroups)?;
        let pool = Pool::new(
            mark,
            guest_wire::ENVD_PORT,
            config.warm_slots,
            helpers,
            config.faults.clone(),
        );
        let resolvers = if config.resolvers.is_empty() {
            host::net::resolvers()
        } else {
            config.resolvers.clone()
        };
        let lifecycles = config.lifecycles();
        let sealed = Sealed::open(&lifecycles, &images)
            .map(Arc::new)
            .map_err(|source| StartError::Directory { path: lifecycles, source })?;
        Ok(Host {
            cgroups,
            sealed,
            firewall: Mutex::new(None),
            firewall_name: Firewall::new(nft.clone(), mark),
            ways: Arc::new(Ways::new(
                nft.clone(),
                resolvers.clone(),
                config.data_dir.join("node"),
                config.authorities.clone(),
            )),
            nft,
            images,
            driver,
            resolvers,
            pool: Arc::new(pool),
            cpu: CpuClock::default(),
            mark,
            claim: parking_lot::Mutex::new(Some(claim)),
            boot_id,
            strays: parking_lot::Mutex::default(),
            config,
        })
    }
}

#[async_trait]
impl Backend for Host {
    fn driver(&self) -> &'static str {
        self.driver.name()
    }

    fn support(&self) -> Vec<Support> {
        self.driver.support()
    }

    fn holdings(self: Arc<Self>, lifecycle: &LifecycleId) -> Box<dyn Holdings> {
        Box::new(HostHoldings::new(self, lifecycle))
    }

    fn boot_id(&self) -> &str {
        &self.boot_id
    }

    fn leftovers(&self) -> Result<Vec<Leftover>, AdoptError> {
        self.find_leftovers()
    }

    fn adopt(
        self: Arc<Self>,
        lifecycle: &LifecycleId,
        record: &Record,
    ) -> Result<Box<dyn Holdings>, NotAdopted> {
        Ok(Box::new(self.take_over(lifecycle, record)?))
    }

    fn left_behind(
        self: Arc<Self>,
        lifecycle: &LifecycleId,
        record: Option<Record>,
    ) -> Box<dyn Holdings> {
        Box::new(self.left(lifecycle, record))
    }

    fn set_strays_aside(&self) -> Result<bool, HostError> {
        self.claim_strays()
    }

    fn sealed(&self) -> Vec<Record> {
        self.sealed.all()
    }

    fn sealed_of(&self, id: &SandboxId) -> Option<Record> {
        self.sealed.get(id.as_str())
    }

    async fn discard(&self, id: &SandboxId, budget: Budget) -> Result<(), StepError> {
        // Of a large one the removal is not for the threads that serve.
        let (sealed, id) = (Arc::clone(&self.sealed), id.to_string());
        let discard = move || sealed.discard(&id, budget);
        Ok(tokio::task::spawn_blocking(discard).await??)
    }

    async fn settle(&self, budget: Budget) -> Result<(), HostError> {
        self.remove_strays(budget).await
    }

    async fn leave(&self, budget: Budget) -> Vec<String> {
        let [ways, orphans, slots, helpers] = budget.split([1, 1, 3, 1]);
        let (faults, mut errors) = (&self.config.faults, Vec::new());
        let left = self.ways.leave(ways).await;
        errors.extend(left.err().map(|expired| expired.to_string()));
        let reap = orphans.run("orphans", reap_last_orphans());
        let reaped = LeaveStep::Orphans.run(faults, &mut errors, reap).await;
        errors.extend(reaped.err().map(|expired| expired.to_string()));
        let closed = LeaveStep::Slots.run(faults, &mut errors, self.close_slots(slots)).await;
        errors.extend(closed.err().map(|error| format!("slots: {}", observe::chain(&error))));
        let group = self.cgroups.named(HELPERS);
        let released = LeaveStep::Helpers.run(faults, &mut errors, group.release(helpers)).await;
        errors.extend(released.err().map(|error| format!("helpers: {}", observe::chain(&error))));
        // The table keeps standing around those that run on.
        let leave = async { self.firewall.lock().await.take().into_iter().for_each(Owned::leave) };
        LeaveStep::Firewall.run(faults, &mut errors, leave).await;
        errors
    }

    fn hand_over(&self) {
        self.sealed.let_go();
        drop(self.claim.lock().take());
    }

    async fn bring_up(&self) -> Result<(), StartError> {
        let firewall = Firewall::new(self.nft.clone(), self.mark());
        let budget = Budget::within(FIREWALL_LIMIT);
        firewall.apply(&self.resolvers, budget).await.map_err(StartError::Firewall)?;
        *self.firewall.lock().await = Some(Owned::adopt(firewall));
        forward_packets().map_err(StartError::Forwarding)
    }

    fn upkeep(self: Arc<Self>, stop: &CancellationToken) -> Vec<Upkeep> {
        let fill = Arc::clone(&self.pool).keep_filled(stop.clone());
        let forget_connections = Arc::clone(&self.pool).keep_forgetting(stop.clone());
        let forget = forget_ended(self, stop.clone());
        vec![
            Upkeep { name: "slot pool", work: Box::pin(fill) },
            Upkeep { name: "connections", work: Box::pin(forget_connections) },
            Upkeep { name: "orphans", work: Box::pin(reap_orphans(stop.clone())) },
            Upkeep { name: "records", work: Box::pin(forget) },
        ]
    }

    async fn close(&self, closer: Closer, budget: Budget) -> Result<(), CloseError> {
        match closer {
            Closer::Rounds | Closer::Upkeep => {}
            Closer::Orphans => reap_last_orphans().await,
            Closer::Slots => {
                self.ways.leave(budget).await?;
                self.pool.close().await;
                self.pool.wait_unlinked(budget).await?;
                self.pool.forget_last().await;
            }
            Closer::Firewall => close_in(&mut *self.firewall.lock().await, budget).await?,
            Closer::Helpers => self.cgroups.named(HELPERS).release(budget).await?,
            Closer::Cgroups => self.cgroups.close()?,
        }
        Ok(())
    }

    async fn census(&self, budget: Budget) -> Result<Vec<Item>, CensusError> {
        let lifecycles = self.config.lifecycles();
        census(self.mark(), &self.cgroups, &self.firewall_name, &lifecycles, budget).await
    }

    fn give_back(&self) -> Result<(), HostError> {
        self.sealed.let_go();
        let claim = self.claim.lock();
        claim.as_ref().map_or(Ok(()), Claim::give_back)
    }

    fn slots(&self) -> Counts {
        self.pool.counts()
    }

    fn ready_slots(&self) -> usize {
        self.pool.ready()
    }

    fn has_slot(&self, index: u16) -> bool {
        self.pool.has(index)
    }

    fn disk(&self) -> Option<Disk> {
        load::disk(&self.config.data_dir)
    }

    fn load(&self) -> NodeMetrics {
        load::load(&self.cpu, self.disk())
    }

    fn usage(&self, lifecycle: &LifecycleId) -> Usage {
        self.cgroups.named(lifecycle.as_str()).usage()
    }

    async fn restrict(&self, lifecycle: &LifecycleId, rules: &Egress) -> Result<bool, WayError> {
        self.set_rules(lifecycle, rules).await
    }

    async fn journal(
        &self,
        lifecycle: &LifecycleId,
        address: IpAddr,
        mark: &JournalMark,
    ) -> Result<Option<Journal>, JournalError> {
        self.ask_journal(lifecycle, address, mark).await
    }

    fn peak(&self, lifecycle: &LifecycleId) -> Peak {
        self.cgroups.named(lifecycle.as_str()).peak()
    }

    fn past(&self) -> Vec<Record> {
        read_all(&ended_dir(&self.config.lifecycles()))
    }

    fn written(&self, lifecycle: &LifecycleId) -> u64 {
        load::used_below(&self.config.lifecycles().join(lifecycle.as_str()).join("upper"))
    }

    async fn build(
        &self,
        progress: &(dyn Fn(&'static str) + Send + Sync),
        cancel: &CancellationToken,
        budget: Budget,
    ) -> Result<(), base::BuildError> {
        let request = base::Request::new(guest_wire::ENVD_VERSION.into(), self.config.disk_mib);
        let told = |at: base::Progress| progress(at.what);
        base::build(&self.images, request, &told, cancel, budget).await.map(drop)
    }
}

/// Sandboxes reach the internet through the host. The setting is the host's; it is left on.
fn forward_packets() -> io::Result<()> {
    const KEY: &str = "/proc/sys/net/ipv4/ip_forward";
    if fs::read_to_string(KEY)?.trim() == "1" { Ok(()) } else { fs::write(KEY, "1") }
}
