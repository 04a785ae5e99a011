//! What one lifecycle has on this machine, and how it comes and goes.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use guest_wire::rest::InitRequest;
use host::blocking;
use host::cgroup::{Cgroup, Limits};
use host::net::{Slot, is_linked, remove_link};
use host::process::Process;
use images::Lease;
use lifecycle::{Budget, Owned, Release, close_in};
use machine::{BootSpec, Part};
use model::LifecycleId;
use node_wire::NewSnapshot;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::backend::host::Host;
use crate::backend::host::ways::WayError;
use crate::backend::{Acquire, Holdings};
use crate::ledger::{LedgerError, LifecycleDir, Record};
use crate::pause::HaltError;
use crate::provision::{Cause, Order, answer_of};
use crate::teardown::{Step, StepError};

/// Everything one lifecycle holds. Of one that another daemon left the names do.
#[derive(Debug)]
pub(super) struct HostHoldings {
    pub(super) host: Arc<Host>,
    pub(super) lifecycle: String,
    /// What is to be written, and mostly is.
    pub(super) record: Option<Record>,
    /// Whether the last writing failed.
    pub(super) unwritten: bool,
    pub(super) lease: Option<Lease>,
    pub(super) slot: Option<Owned<Slot>>,
    /// The slot that an earlier daemon has left it, and that is kept from others.
    pub(super) left_slot: Option<u16>,
    pub(super) cgroup: Option<Owned<Cgroup>>,
    pub(super) machine: machine::Held,
    pub(super) dir: Option<Owned<LifecycleDir>>,
    /// The writing to the disk that was begun last, if it may still go on.
    pub(super) syncing: Option<JoinHandle<std::io::Result<()>>>,
}

/// E2B's sandboxes call themselves this.
const HOSTNAME: &str = "e2b.local";

impl HostHoldings {
    pub(super) fn new(host: Arc<Host>, lifecycle: &LifecycleId) -> Self {
        Self {
            host,
            lifecycle: lifecycle.to_string(),
            record: None,
            unwritten: false,
            lease: None,
            slot: None,
            left_slot: None,
            cgroup: None,
            machine: machine::Held::default(),
            dir: None,
            syncing: None,
        }
    }

    fn make_directory(&mut self, order: &Order) -> Result<(), Cause> {
        let record = Record::new(order, &self.host.boot_id);
        let lifecycles = self.host.config.lifecycles();
        let made = blocking(|| LifecycleDir::create(&lifecycles, &self.lifecycle, &record));
        let dir = self.dir.insert(made?);
        let take = |from: &Record| self.host.sealed.take(&from.sandbox, dir.path());
        let taken = blocking(|| order.from.as_ref().map(take));
        self.record = Some(record);
        taken.unwrap_or(Ok(())).map_err(Cause::Unseal)
    }

    pub(super) fn named_dir(&self) -> LifecycleDir {
        LifecycleDir::named(&self.host.config.lifecycles(), &self.lifecycle)
    }

    async fn take_slot(&mut self, order: &Order) -> Result<(), Cause> {
        // About a millisecond, and never dropped in the middle: a slot that is made has an owner.
        let slot = self.slot.insert(self.host.pool.take().await?);
        let dir = has(self.dir.as_ref(), "directory")?.path();
        self.host.ways.open(&self.lifecycle, dir, slot, &order.spec.rules()).await?;
        let index = slot.net().index;
        Ok(self.write(&mut |record| record.slot = Some(index))?)
    }

    fn make_cgroup(&mut self, order: &Order) -> Result<(), Cause> {
        let resources = order.entry.resources;
        let limits = Limits {
            memory_bytes: Some(memory_bytes(resources.memory_mib)),
            pids: Some(self.host.config.max_pids),
            cpu_millis: Some(u64::from(resources.vcpus) * 1000),
        };
        self.cgroup = Some(self.host.cgroups.create(&self.lifecycle, &limits)?);
        Ok(())
    }

    async fn boot(&mut self, order: &Order) -> Result<(), Cause> {
        let entry = &order.entry;
        let env = [
            ("E2B_SANDBOX", "true".to_owned()),
            ("E2B_SANDBOX_ID", entry.id.to_string()),
            ("E2B_TEMPLATE_ID", entry.template.to_string()),
        ];
        let spec = BootSpec {
            id: &self.lifecycle,
            dir: has(self.dir.as_ref(), "directory")?.path(),
            layers: has(self.lease.as_ref(), "lease")?.layers(),
            hostname: HOSTNAME,
            env: &env,
            memory_bytes: memory_bytes(entry.resources.memory_mib),
            resolvers: &self.host.resolvers,
            cgroup: has(self.cgroup.as_ref(), "cgroup")?,
            slot: has(self.slot.as_mut(), "slot")?,
            held: &mut self.machine,
        };
        self.host.driver.boot(spec, &order.stop).await?;
        // A daemon that comes after this one may find it from here on.
        let process = self.machine.process.as_ref().map(Process::identity);
        Ok(self.write(&mut |record| record.process = process)?)
    }

    async fn init(&mut self, order: &Order) -> Result<(), Cause> {
        let address = self.address().ok_or(Cause::Without("slot"))?;
        let agent = SocketAddr::from((address, guest_wire::ENVD_PORT));
        let certificate = self.host.ways.certificate(&order.spec.rules()).await;
        let request = init_request(order, certificate.map_err(WayError::Trust)?);
        let token = request.access_token.as_deref();
        let answer = async {
            guest_wire::client::init(agent, token, &request).await?;
            Ok(())
        };
        answer_of(order, answer, self.ended()).await
    }

    /// Kills every process, and takes the status of the first: a zombie keeps its number.
    async fn kill(&mut self, budget: Budget) -> Result<(), StepError> {
        let cgroup = self.host.cgroups.named(&self.lifecycle);
        // A start that was cut off may have made its first process and not have said which it is.
        let unnamed: Vec<Process> = match self.machine.process {
            Some(_) => Vec::new(),
            None => cgroup.pids()?.into_iter().flat_map(Process::open).collect(),
        };
        cgroup.kill(budget).await?;
        for process in self.machine.process.iter().chain(&unnamed) {
            budget.run("reap", process.exited()).await??;
        }
        self.machine.process = None;
        Ok(())
    }

    async fn release_slot(&mut self, budget: Budget) -> Result<(), StepError> {
        // What is open in its network would keep that.
        let dir = self.named_dir();
        self.host.ways.close(&self.lifecycle, dir.path(), budget).await?;
        let own = self.slot.as_ref().map(|slot| slot.net().index);
        close_in(&mut self.slot, budget).await?;
        if let Some(index) = self.left_slot {
            // Its namespace may be kept by somebody who is no process of the sandbox.
            remove_link(self.host.mark(), index)?;
        }
        if let Some(index) = own.or_else(|| self.left_slot.take()) {
            self.host.pool.released(index);
        }
        Ok(())
    }

    /// Keeps the record of what is gone, as it should be.
    async fn remove_directory(&mut self, budget: Budget) -> Result<(), StepError> {
        if self.unwritten
            && let Err(error) = self.write(&mut |_| {})
        {
            tracing::warn!(error = %observe::chain(&error), "the end of a sandbox is not recorded");
        }
        match &self.dir {
            Some(_) => Ok(close_in(&mut self.dir, budget).await?),
            None => Ok(self.named_dir().release(budget).await?),
        }
    }

    /// A writable layer may be large: removing it is not for the threads that serve.
    async fn remove_files(&self, budget: Budget) -> Result<(), StepError> {
        let (host, lifecycle) = (Arc::clone(&self.host), self.lifecycle.clone());
        let dir = host.config.lifecycles().join(&lifecycle);
        let handle = tokio::runtime::Handle::current();
        let removed = tokio::task::spawn_blocking(move || {
            handle.block_on(host.driver.release(Part::Files, &lifecycle, &dir, budget))
        });
        Ok(removed.await??)
    }
}

#[async_trait]
impl Holdings for HostHoldings {
    async fn acquire(&mut self, what: Acquire, order: &Order) -> Result<(), Cause> {
        match what {
            Acquire::Directory => self.make_directory(order),
            Acquire::Lease => {
                let images = &self.host.images;
                self.lease = Some(match &order.from {
                    Some(_) => images.lease_build(&order.template.build)?,
                    None => images.lease(&order.entry.template)?,
                });
                Ok(())
            }
            Acquire::Slot => self.take_slot(order).await,
            Acquire::Cgroup => self.make_cgroup(order),
            Acquire::Machine => self.boot(order).await,
            Acquire::Init => Box::pin(self.init(order)).await,
        }
    }

    fn write(&mut self, change: &mut (dyn FnMut(&mut Record) + Send)) -> Result<(), LedgerError> {
        let dir = self.named_dir();
        let Some(record) = &mut self.record else { return Ok(()) };
        change(record);
        let written = blocking(|| dir.write(record));
        self.unwritten = written.is_err();
        written
    }

    fn is_portable(&self) -> bool {
        self.record.as_ref().is_some_and(|record| record.portable)
    }

    async fn freeze(&mut self, budget: Budget) -> Result<(), HaltError> {
        self.freeze_machine(budget).await
    }

    async fn thaw(&mut self) -> Result<(), HaltError> {
        self.thaw_machine()
    }

    async fn sync(&mut self, budget: Budget) -> Result<(), HaltError> {
        self.sync_files(budget).await
    }

    async fn answers(&self, budget: Budget) -> Result<(), HaltError> {
        self.agent_answers(budget).await
    }

    async fn snapshot(
        &mut self,
        new: &NewSnapshot,
        cancel: &CancellationToken,
        budget: Budget,
    ) -> Result<Duration, HaltError> {
        self.take_snapshot(new, cancel, budget).await
    }

    fn is_kept(&self) -> bool {
        self.record.as_ref().is_some_and(|record| record.paused_at_us.is_some())
    }

    async fn seal(&mut self) -> Result<(), StepError> {
        self.seal_files().await
    }

    fn unseal(&mut self) -> Result<(), HaltError> {
        let Some(record) = &self.record else { return Ok(()) };
        self.host.sealed.forget(&record.sandbox).map_err(HaltError::Sync)
    }

    fn log(&self) -> Vec<String> {
        self.host.driver.log(self.named_dir().path())
    }

    fn found(&self) -> Vec<String> {
        let cgroup = self.host.cgroups.named(&self.lifecycle);
        // What cannot be read now is found by its step, or by the census.
        let processes = cgroup.pids().is_ok_and(|pids| !pids.is_empty());
        let link = self.left_slot.is_some_and(|index| is_linked(self.host.mark(), index));
        let files = self.named_dir().path().join("upper").exists();
        let words = [(processes, "processes"), (link, "its network"), (files, "its files")];
        words.into_iter().filter(|(there, _)| *there).map(|(_, what)| what.to_owned()).collect()
    }

    fn leave(self: Box<Self>) {
        let Self { slot, cgroup, machine, dir, .. } = *self;
        slot.into_iter().for_each(Owned::leave);
        cgroup.into_iter().for_each(Owned::leave);
        machine.mount.into_iter().for_each(Owned::leave);
        dir.into_iter().for_each(Owned::leave);
    }

    async fn release(&mut self, step: Step, budget: Budget) -> Result<(), StepError> {
        let host = Arc::clone(&self.host);
        let (driver, id) = (&host.driver, self.lifecycle.as_str());
        let dir = LifecycleDir::named(&host.config.lifecycles(), id);
        match step {
            Step::Kill => self.kill(budget).await,
            Step::Runtime => Ok(driver.release(Part::Runtime, id, dir.path(), budget).await?),
            Step::Mounts => {
                close_in(&mut self.machine.mount, budget).await?;
                Ok(driver.release(Part::Mounts, id, dir.path(), budget).await?)
            }
            Step::Slot => self.release_slot(budget).await,
            Step::Cgroup => match &self.cgroup {
                Some(_) => Ok(close_in(&mut self.cgroup, budget).await?),
                None => Ok(host.cgroups.named(id).release(budget).await?),
            },
            Step::Files => self.remove_files(budget).await,
            Step::Lease => {
                drop(self.lease.take());
                Ok(())
            }
            Step::Directory => self.remove_directory(budget).await,
        }
    }

    async fn ended(&self) {
        let Some(process) = &self.machine.process else { return std::future::pending().await };
        match process.exited().await {
            Ok(status) => tracing::debug!(?status, "the machine has ended"),
            Err(error) => {
                tracing::error!(error = %observe::chain(&error), "the machine cannot be watched");
            }
        }
    }

    fn address(&self) -> Option<Ipv4Addr> {
        Some(self.slot.as_ref()?.net().guest)
    }
}

fn has<T>(held: Option<T>, what: &'static str) -> Result<T, Cause> {
    held.ok_or(Cause::Without(what))
}

fn init_request(order: &Order, certificate: Option<String>) -> InitRequest {
    let content = &order.template.content;
    InitRequest {
        timestamp: jiff::Timestamp::try_from(SystemTime::now()).ok().map(|t| t.to_string()),
        env_vars: Some(order.spec.env.clone()),
        access_token: order.spec.access_token.as_ref().map(|token| token.expose().to_owned()),
        default_user: Some(content.user.clone()),
        default_workdir: content.workdir.clone(),
        lifecycle_id: Some(order.entry.lifecycle.to_string()),
        ca_bundle: certificate,
        ..InitRequest::default()
    }
}

const fn memory_bytes(mib: u64) -> u64 {
    mib.saturating_mul(1024 * 1024)
}
