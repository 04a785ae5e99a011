//! The node's order, time and books on a machine without a kernel ([`crate::fake`]) and a clock that
//! stands still until everybody waits: what takes days is over in milliseconds, and always the same.

mod adopt;
mod closers;
mod crashes;
mod escalation;
mod events;
mod janitor;
mod journal;
mod late;
mod leave;
mod log;
mod matrix;
mod pairs;
mod pause;
mod retry;
mod seal;
mod silent;
mod stale;
mod upkeep;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use host::Faults;
use images::{NewTemplate, Store, Template};
use lifecycle::Budget;
use model::{
    Egress, EndReason, OnTimeout, Resources, SandboxId, SandboxPhase, SandboxSpec, TeamId,
    TemplateId,
};
use node_wire::{
    AttemptStatus, CreateError, DrainStatus, NodeApi, NodeError, SandboxStatus, Started,
};

use crate::config::Config;
use crate::entry::Entry;
use crate::fake::Fake;
use crate::shutdown::{Escalation, ShutdownReport, StopPlan};
use crate::start::Node;
use crate::teardown::Step;

/// More than any create or stop here needs.
const LIMIT: Duration = Duration::from_secs(60);
/// Fails until it is disarmed.
const EVERY: u32 = u32::MAX;

const fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// Waits for what has to end; for longer than anything here takes, and no longer.
async fn ends<T>(what: &'static str, work: impl Future<Output = T>) -> T {
    Budget::within(secs(24 * 3600)).run(what, work).await.unwrap()
}

/// A template to start from. The machine never looks at its files.
struct Images {
    store: Arc<Store>,
    template: TemplateId,
    _dir: tempfile::TempDir,
}

/// The next build of the one template.
fn publish(store: &Store) -> Arc<Template> {
    let content = NewTemplate {
        aliases: vec!["base".into()],
        resources: Resources { vcpus: 1, memory_mib: 128, disk_mib: 1024 },
        user: "user".into(),
        workdir: None,
        envd_version: "1".into(),
        packages: Vec::new(),
    };
    let draft = store.begin().unwrap();
    std::fs::create_dir_all(draft.rootfs()).unwrap();
    store.publish(draft, content).map_err(|(_draft, error)| error).unwrap()
}

impl Images {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = Arc::new(Store::open(dir.path()).unwrap());
        let template = publish(&store).id.clone();
        Self { store, template, _dir: dir }
    }

    async fn node(&self) -> Bench {
        self.node_with(|_| {}).await
    }

    async fn node_with(&self, change: impl FnOnce(&mut Config)) -> Bench {
        let faults = Faults::default();
        self.node_on(Fake::new(faults.clone()), faults, change).await
    }

    /// What its nodes are told.
    fn config(&self, faults: &Faults) -> Config {
        let mut config = Config::new(PathBuf::from("/nowhere"), PathBuf::from("/nowhere"));
        config.faults = faults.clone();
        config
    }

    async fn node_on(
        &self,
        fake: Arc<Fake>,
        faults: Faults,
        change: impl FnOnce(&mut Config),
    ) -> Bench {
        let mut config = self.config(&faults);
        change(&mut config);
        let node = Node::start_on(config, Arc::clone(&self.store), fake.clone()).await.unwrap();
        Bench { node, fake, faults, template: self.template.clone() }
    }
}

/// A node on a fake machine.
struct Bench {
    node: Arc<Node>,
    fake: Arc<Fake>,
    faults: Faults,
    template: TemplateId,
}

fn id(id: &str) -> SandboxId {
    id.parse().unwrap()
}

impl Bench {
    fn spec(&self, id: &str) -> SandboxSpec {
        SandboxSpec {
            id: id.parse().unwrap(),
            team: TeamId::parse("team").unwrap(),
            template: self.template.clone(),
            resources: None,
            env: [].into(),
            metadata: [].into(),
            access_token: None,
            // Nothing ends by itself here unless it is told to.
            ttl: secs(365 * 24 * 3600),
            on_timeout: OnTimeout::Kill,
            internet: true,
            egress: Egress::default(),
        }
    }

    async fn create(&self, id: &str) -> Result<Started, CreateError> {
        ends("create", self.node.create(self.spec(id), LIMIT)).await
    }

    async fn create_all<'a>(&self, ids: impl IntoIterator<Item = &'a str>) {
        for id in ids {
            self.create(id).await.unwrap();
        }
    }

    async fn kill(&self, sandbox: &str) -> Result<(), NodeError> {
        ends("kill", self.node.kill(&id(sandbox), EndReason::Request)).await
    }

    /// The entry of a sandbox that is there.
    fn entry(&self, sandbox: &str) -> Arc<Entry> {
        self.node.inner.registry.get(&id(sandbox)).unwrap()
    }

    async fn list(&self) -> Vec<SandboxStatus> {
        self.node.list().await.unwrap()
    }

    async fn document(&self) -> DrainStatus {
        self.node.drain_status().await.unwrap()
    }

    /// Waits for the attempt to force that runs.
    async fn attempt_ended(&self) -> AttemptStatus {
        let inner = &self.node.inner;
        let over = || inner.drain_document().attempt.is_some_and(|attempt| !attempt.running);
        ends("attempt", inner.pulse.listen().until(over)).await;
        inner.drain_document().attempt.unwrap()
    }

    /// Ends everything and closes the node.
    async fn stop(&self) -> ShutdownReport {
        ends("stop", self.node.stop(StopPlan::at_once(LIMIT), &Escalation::default())).await
    }

    /// As [`Bench::stop`]; nothing may be left, and nothing impossible may have been asked of the
    /// machine in all its time.
    async fn stop_clean(&self, case: &str) {
        let report = self.stop().await;
        assert!(report.is_clean(), "{case}: {report:#?}");
        self.assert_given_back(case);
    }

    fn assert_given_back(&self, case: &str) {
        assert_eq!(self.fake.held(), [], "{case}");
        assert!(self.fake.is_given_back(), "{case}");
        assert_eq!(self.fake.wrongs(), [""; 0], "{case}");
    }

    /// One whose teardown has failed at `step` shows in every place where an operator or a user
    /// looks, and keeps its id.
    async fn assert_stuck(&self, sandbox: &str, step: Step, case: &str) {
        let listed = self.list().await;
        let [status] = &listed[..] else { panic!("{case}: {listed:?}") };
        assert_eq!((&status.id, status.phase), (&id(sandbox), SandboxPhase::Stuck), "{case}");
        assert!(status.left[0].starts_with(step.name()), "{case}: {:?}", status.left);
        let blocker = self.document().await.blockers.remove(0);
        assert_eq!((blocker.id.as_str(), blocker.state.as_str()), (sandbox, "stuck"), "{case}");
        assert!(blocker.last_error.unwrap().starts_with(step.name()), "{case}");
        let entry = self.entry(sandbox);
        let again = self.create(sandbox).await.unwrap_err();
        assert!(
            matches!(again, CreateError::AlreadyExists(_) | CreateError::Draining),
            "{case}: {again:?}"
        );
        assert!(
            self.node.inner.registry.get(&id(sandbox)).is_some_and(|e| Arc::ptr_eq(&e, &entry))
        );
        assert_eq!(entry.state().pending.first(), Some(&step), "{case}");
    }

    /// Whether the sandbox, which is stuck, has its slot still, and the machine agrees.
    fn keeps_slot(&self, sandbox: &str) -> bool {
        let entry = self.entry(sandbox);
        let pending = entry.state().pending.contains(&Step::Slot);
        assert_eq!(pending, self.fake.has_slot_of(entry.lifecycle.as_str()), "{sandbox}");
        pending
    }
}
