//! Making a sandbox, step by step. What a step acquires is put into the holdings at once, so that a
//! failure at any point leaves exactly what the teardown knows of.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use guest_wire::rest::InitRequest;
use host::cgroup::Limits;
use host::fault::Injected;
use host::process::Process;
use images::Template;
use machine::{BootError, BootSpec, Stop};
use model::{SandboxEvent, SandboxSpec};
use node_wire::CreateError;

use crate::entry::Entry;
use crate::ledger::{LedgerError, LifecycleDir, Record, VERSION};
use crate::pool::SlotError;
use crate::start::Inner;
use crate::teardown::Holdings;

/// The guest agent's answer to one `/init` is waited for this long; the connection itself waits in
/// the slot's socket until the agent accepts it.
const INIT_LIMIT: Duration = Duration::from_secs(10);

/// Every fault point of a create, in the order in which they are passed.
pub const CREATE_POINTS: [&str; 15] = [
    "create.directory.before",
    "create.directory.after",
    "create.lease.before",
    "create.lease.after",
    "create.slot.before",
    "create.slot.after",
    "create.cgroup.before",
    "create.cgroup.after",
    "create.mount.before",
    "create.mount.after",
    "create.machine.before",
    "create.machine.after",
    "create.start.after",
    "create.init.before",
    "create.init.after",
];

/// A start that failed, with the name of the step.
#[derive(Debug, thiserror::Error)]
#[error("{step}")]
pub(crate) struct ProvisionError {
    pub step: &'static str,
    #[source]
    pub cause: Cause,
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum Cause {
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    #[error(transparent)]
    Lease(#[from] images::LeaseError),
    #[error(transparent)]
    Slot(#[from] SlotError),
    #[error(transparent)]
    Host(#[from] host::HostError),
    #[error(transparent)]
    Boot(#[from] BootError),
    #[error(transparent)]
    Guest(#[from] guest_wire::client::ClientError),
    #[error("the machine ended before its guest agent answered")]
    EndedEarly,
    #[error(transparent)]
    Stopped(#[from] machine::Stopped),
    #[error(transparent)]
    Injected(#[from] Injected),
    #[error("the step panicked: {0}")]
    Panicked(String),
}

impl Cause {
    fn is_cancelled(&self) -> bool {
        match self {
            Self::Boot(error) => error.is_cancelled(),
            Self::Stopped(machine::Stopped::Cancelled) => true,
            _ => false,
        }
    }

    fn is_expired(&self) -> bool {
        match self {
            Self::Boot(error) => error.is_expired(),
            Self::Stopped(machine::Stopped::Expired(_)) => true,
            _ => false,
        }
    }

    fn is_disk_full(&self) -> bool {
        match self {
            Self::Ledger(error) => error.is_disk_full(),
            Self::Host(error) | Self::Boot(BootError::Host(error)) => error.is_disk_full(),
            Self::Boot(BootError::Write { source, .. }) => {
                source.kind() == std::io::ErrorKind::StorageFull
            }
            _ => false,
        }
    }
}

impl ProvisionError {
    pub(crate) fn cancelled(step: &'static str) -> Self {
        Self { step, cause: Cause::Stopped(machine::Stopped::Cancelled) }
    }

    pub(crate) fn panicked(panic: &(dyn std::any::Any + Send)) -> Self {
        Self { step: "start", cause: Cause::Panicked(crate::teardown::words_of(panic)) }
    }

    /// What the caller of the create is told. The chain stays in the log.
    pub(crate) fn to_wire(&self, inner: &Inner, limit: Duration) -> CreateError {
        if self.cause.is_cancelled() {
            return CreateError::Cancelled;
        }
        if self.cause.is_expired() {
            let limit_ms = u64::try_from(limit.as_millis()).unwrap_or(u64::MAX);
            return CreateError::Expired { step: self.step, limit_ms };
        }
        if self.cause.is_disk_full() {
            return inner.disk_full();
        }
        if matches!(self.cause, Cause::Slot(SlotError::Exhausted)) {
            return CreateError::Full { limit: u32::from(host::identity::SLOTS) };
        }
        CreateError::Failed { step: self.step, message: self.cause.to_string() }
    }
}

/// What a create is about.
pub(crate) struct Order {
    pub entry: Arc<Entry>,
    pub spec: SandboxSpec,
    pub template: Arc<Template>,
    pub stop: Stop,
}

trait At<T> {
    fn at(self, step: &'static str) -> Result<T, ProvisionError>;
}

impl<T, E: Into<Cause>> At<T> for Result<T, E> {
    fn at(self, step: &'static str) -> Result<T, ProvisionError> {
        self.map_err(|cause| ProvisionError { step, cause: cause.into() })
    }
}

/// Makes the sandbox; answers with its address. Always runs to its end; on an error the holdings have
/// what was acquired.
pub(crate) async fn provision(
    inner: &Arc<Inner>,
    order: &Order,
    held: &mut Holdings,
) -> Result<Ipv4Addr, ProvisionError> {
    let (entry, faults) = (&order.entry, &inner.config.faults);
    let id = entry.lifecycle.as_str();
    entry.on(SandboxEvent::Acquire, |_| {});
    let mut record = record(order);

    faults.hit("create.directory.before", order.stop.budget).await.at("directory")?;
    let dir = held
        .dir
        .insert(LifecycleDir::create(&inner.config.lifecycles(), id, &record).at("directory")?);
    faults.hit("create.directory.after", order.stop.budget).await.at("directory")?;

    faults.hit("create.lease.before", order.stop.budget).await.at("lease")?;
    let lease = held.lease.insert(inner.images.lease(&entry.template).at("lease")?);
    faults.hit("create.lease.after", order.stop.budget).await.at("lease")?;

    faults.hit("create.slot.before", order.stop.budget).await.at("slot")?;
    // About a millisecond, and never dropped in the middle: a slot that is made has an owner.
    let slot = inner.pool.take().await.at("slot")?;
    let slot = held.slot.insert(slot);
    faults.hit("create.slot.after", order.stop.budget).await.at("slot")?;
    if !order.spec.internet {
        slot.isolate().at("slot")?;
    }
    record.slot = Some(slot.net().index);
    dir.write(&record).at("directory")?;

    faults.hit("create.cgroup.before", order.stop.budget).await.at("cgroup")?;
    let cgroup = held.cgroup.insert(inner.cgroups.create(id, &limits(inner, order)).at("cgroup")?);
    faults.hit("create.cgroup.after", order.stop.budget).await.at("cgroup")?;

    let addr = slot.net().guest;
    let agent = SocketAddr::from((addr, guest_wire::ENVD_PORT));
    let env = [
        ("E2B_SANDBOX", "true".to_owned()),
        ("E2B_SANDBOX_ID", entry.id.to_string()),
        ("E2B_TEMPLATE_ID", entry.template.to_string()),
    ];
    let spec = BootSpec {
        id,
        dir: dir.path(),
        base: lease.rootfs(),
        hostname: HOSTNAME,
        env: &env,
        memory_bytes: memory_bytes(entry.resources.memory_mib),
        resolvers: &inner.resolvers,
        cgroup,
        slot,
        held: &mut held.machine,
    };
    inner.driver.boot(spec, &order.stop).await.at("machine")?;
    let process = held.machine.process.as_ref();
    record.process = process.map(Process::identity);

    faults.hit("create.init.before", order.stop.budget).await.at("init")?;
    init(order, agent, process).await?;
    faults.hit("create.init.after", order.stop.budget).await.at("init")?;
    let now = SystemTime::now();
    record.started_at_us = Some(micros(now));
    record.ends_at_us = Some(micros(now + order.spec.ttl));
    dir.write(&record).at("directory")?;
    Ok(addr)
}

/// E2B's sandboxes call themselves this.
const HOSTNAME: &str = "e2b.local";

async fn init(
    order: &Order,
    agent: SocketAddr,
    process: Option<&Process>,
) -> Result<(), ProvisionError> {
    let token = order.spec.access_token.as_ref().map(|token| token.expose().to_owned());
    let content = &order.template.content;
    let request = InitRequest {
        timestamp: jiff::Timestamp::try_from(SystemTime::now()).ok().map(|t| t.to_string()),
        env_vars: Some(order.spec.env.clone()),
        access_token: token.clone(),
        default_user: Some(content.user.clone()),
        default_workdir: content.workdir.clone(),
        lifecycle_id: Some(order.entry.lifecycle.to_string()),
        ..InitRequest::default()
    };
    let budget = order.stop.budget.slice(INIT_LIMIT);
    let stop = Stop { budget, cancelled: order.stop.cancelled.clone() };
    let answered = async {
        tokio::select! {
            biased;
            answer = guest_wire::client::init(agent, token.as_deref(), &request) => {
                answer.map(|_reply| ()).map_err(Cause::from)
            }
            () = ended(process) => Err(Cause::EndedEarly),
        }
    };
    stop.race("init", answered).await.at("init")?.at("init")
}

/// Waits for the end of the machine; for ever when there is nothing to wait for.
pub(crate) async fn ended(process: Option<&Process>) {
    let Some(process) = process else { return std::future::pending().await };
    match process.exited().await {
        Ok(status) => tracing::debug!(?status, "the machine has ended"),
        Err(error) => {
            tracing::error!(error = %observe::chain(&error), "the machine cannot be watched")
        }
    }
}

fn record(order: &Order) -> Record {
    let (entry, spec) = (&order.entry, &order.spec);
    Record {
        version: VERSION,
        lifecycle: entry.lifecycle.to_string(),
        sandbox: entry.id.to_string(),
        team: entry.team.to_string(),
        template: entry.template.to_string(),
        build: order.template.build.to_string(),
        vcpus: entry.resources.vcpus,
        memory_mib: entry.resources.memory_mib,
        disk_mib: entry.resources.disk_mib,
        metadata: entry.metadata.clone(),
        internet: spec.internet,
        access_token: spec.access_token.as_ref().map(|token| token.expose().to_owned()),
        slot: None,
        process: None,
        started_at_us: None,
        ends_at_us: None,
    }
}

fn limits(inner: &Inner, order: &Order) -> Limits {
    let resources = order.entry.resources;
    Limits {
        memory_bytes: Some(memory_bytes(resources.memory_mib)),
        pids: Some(inner.config.max_pids),
        cpu_millis: Some(u64::from(resources.vcpus) * 1000),
    }
}

const fn memory_bytes(mib: u64) -> u64 {
    mib.saturating_mul(1024 * 1024)
}

/// Microseconds since 1970.
pub(crate) fn micros(time: SystemTime) -> i64 {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_micros()).unwrap_or(i64::MAX)
}
