//! A node without machines: phases, sandboxes, pauses, builds and events are as on a real one.

mod documents;
pub(crate) mod pause;

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use futures::StreamExt as _;
use futures::stream::{BoxStream, unfold};
use model::{
    BuildId, Change, Egress, EndReason, Keep, LifecycleId, NodePhase, NodeRequest, SandboxId,
    SandboxPhase, SandboxSpec, TemplateId,
};
use node_wire::{
    AdoptReport, BuildError, BuildRequest, BuildState, BuildStatus, CreateError, DrainStatus,
    Ending, Enforcement, Expected, Explanation, Journal, JournalMark, Leaks, NewSnapshot, NodeApi,
    NodeError, NodeEvent, NodeInfo, NodeMetrics, PauseError, PauseOrder, PausedStatus, Processor,
    RemoveError, Resumed, Route, Sample, SandboxStatus, SnapshotStatus, Started, StatusError,
};
use parking_lot::Mutex;
use tokio::sync::{broadcast, watch};

pub(crate) const GIB: u64 = 1 << 30;

/// A moment with whole milliseconds, so that it survives every form of it.
pub(crate) fn moment(seconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_millis(seconds * 1000 + 250)
}

#[derive(Debug)]
pub(crate) struct FakeNode {
    phase: watch::Sender<NodePhase>,
    pub(crate) sandboxes: Mutex<BTreeMap<SandboxId, SandboxStatus>>,
    /// The orders as they came.
    pub(crate) orders: Mutex<Vec<(SandboxSpec, Duration)>>,
    /// Why sandboxes were killed.
    pub(crate) kills: Mutex<Vec<(SandboxId, EndReason)>>,
    /// The rules for connections that were set since.
    pub(crate) rules: Mutex<Vec<(SandboxId, Egress)>>,
    /// Whether a kill waits.
    pub(crate) held: watch::Sender<bool>,
    builds: Mutex<BTreeMap<BuildId, BuildStatus>>,
    events: broadcast::Sender<NodeEvent>,
    /// What the next create fails with.
    pub(crate) fail_create: Mutex<Option<CreateError>>,
    /// What every call fails with that has a [`NodeError`].
    pub(crate) fail: Mutex<Option<NodeError>>,
    /// What an earlier daemon left.
    pub(crate) adopted: Mutex<Option<AdoptReport>>,
    pub(crate) fail_status: Mutex<Option<StatusError>>,
    pub(crate) fail_build: Mutex<Option<BuildError>>,
    pub(crate) pauses: pause::Pauses,
}

impl Default for FakeNode {
    fn default() -> Self {
        Self {
            phase: watch::Sender::new(NodePhase::Healthy),
            sandboxes: Mutex::default(),
            orders: Mutex::default(),
            kills: Mutex::default(),
            rules: Mutex::default(),
            held: watch::Sender::new(false),
            builds: Mutex::default(),
            events: broadcast::Sender::new(4),
            fail_create: Mutex::default(),
            fail: Mutex::default(),
            adopted: Mutex::default(),
            fail_status: Mutex::default(),
            fail_build: Mutex::default(),
            pauses: pause::Pauses::default(),
        }
    }
}

impl FakeNode {
    pub(crate) fn set_phase(&self, phase: NodePhase) {
        self.phase.send_replace(phase);
    }

    pub(crate) fn phase(&self) -> NodePhase {
        *self.phase.borrow()
    }

    pub(crate) fn announce(&self, event: NodeEvent) {
        self.events.send(event).expect("someone listens");
    }

    pub(crate) fn listeners(&self) -> usize {
        self.events.receiver_count()
    }

    /// How many watch the drain.
    pub(crate) fn watchers(&self) -> usize {
        self.phase.receiver_count()
    }

    pub(crate) fn end_build(&self, id: &BuildId, state: BuildState) {
        let mut builds = self.builds.lock();
        let build = builds.get_mut(id).expect("the build runs");
        build.state = state;
        build.ended_at = Some(moment(70));
        build.step = "install".into();
    }

    fn check(&self) -> Result<(), NodeError> {
        self.fail.lock().clone().map_or(Ok(()), Err)
    }

    fn admit(&self) -> Result<(), CreateError> {
        match self.phase() {
            NodePhase::Starting => Err(CreateError::Starting),
            phase if phase.is_draining() => Err(CreateError::Draining),
            _ => Ok(()),
        }
    }
}

#[async_trait]
impl NodeApi for FakeNode {
    async fn info(&self) -> Result<NodeInfo, NodeError> {
        self.check()?;
        Ok(NodeInfo {
            id: "node-1".parse().unwrap(),
            phase: self.phase(),
            version: "1.2.3".into(),
            driver: "container".into(),
            sandboxes: u32::try_from(self.sandboxes.lock().len()).unwrap(),
            starting: 1,
            stuck: 2,
            slots: 16,
            processor: Processor {
                family: "6".into(),
                model: "143".into(),
                model_name: "A processor".into(),
                architecture: "x86_64".into(),
            },
            metrics: NodeMetrics {
                cpu_count: 8,
                cpu_percent: 41.6,
                memory_total_bytes: 32 * GIB,
                memory_used_bytes: 3 * GIB,
                disk_total_bytes: 100 * GIB,
                disk_used_bytes: 40 * GIB,
                allocated_vcpus: 4,
                allocated_memory_bytes: 2 * GIB,
            },
            enforcement: vec![Enforcement {
                what: "memory",
                enforced: true,
                detail: "cgroup v2".into(),
            }],
            templates: self.templates(),
        })
    }

    async fn create(&self, spec: SandboxSpec, limit: Duration) -> Result<Started, CreateError> {
        self.orders.lock().push((spec.clone(), limit));
        if let Some(error) = self.fail_create.lock().take() {
            return Err(error);
        }
        self.admit()?;
        let mut sandboxes = self.sandboxes.lock();
        if sandboxes.contains_key(&spec.id) {
            return Err(CreateError::AlreadyExists(spec.id.to_string()));
        }
        let lifecycle: LifecycleId = format!("l{}", self.orders.lock().len()).parse().unwrap();
        let addr = IpAddr::V4(Ipv4Addr::new(10, 213, 0, 7));
        let status = SandboxStatus {
            id: spec.id.clone(),
            lifecycle: lifecycle.clone(),
            team: spec.team,
            template: spec.template,
            phase: SandboxPhase::Live,
            resources: spec.resources.unwrap_or_else(|| Self::template().resources),
            metadata: spec.metadata,
            started_at: moment(40),
            ends_at: moment(40) + spec.ttl,
            addr: Some(addr),
            left: Vec::new(),
        };
        sandboxes.insert(spec.id.clone(), status.clone());
        Ok(Started { status, route: Route { sandbox: spec.id, lifecycle, addr } })
    }

    async fn kill(&self, id: &SandboxId, reason: EndReason) -> Result<(), NodeError> {
        self.check()?;
        let ran = self.sandboxes.lock().remove(id).is_some();
        let stood_still = self.pauses.paused.lock().remove(id).is_some();
        (ran || stood_still).then_some(()).ok_or_else(|| NodeError::NotFound(id.to_string()))?;
        drop(self.held.subscribe().wait_for(|held| !held).await);
        self.kills.lock().push((id.clone(), reason));
        Ok(())
    }

    async fn pause_by(
        &self,
        id: &SandboxId,
        order: PauseOrder,
    ) -> Result<PausedStatus, PauseError> {
        self.do_pause(id, order)
    }

    async fn resume(
        &self,
        spec: SandboxSpec,
        keep: Keep,
        limit: Duration,
    ) -> Result<Resumed, CreateError> {
        self.do_resume(spec, keep, limit)
    }

    async fn paused(&self) -> Result<Vec<PausedStatus>, NodeError> {
        self.check()?;
        Ok(self.pauses.paused.lock().values().cloned().collect())
    }

    async fn snapshot(
        &self,
        id: &SandboxId,
        new: NewSnapshot,
    ) -> Result<SnapshotStatus, PauseError> {
        self.do_snapshot(id, new)
    }

    async fn remove_template(&self, id: &TemplateId) -> Result<(), RemoveError> {
        self.do_remove_template(id)
    }

    async fn set_end(&self, id: &SandboxId, ends_at: SystemTime) -> Result<(), NodeError> {
        self.check()?;
        let mut sandboxes = self.sandboxes.lock();
        let found = sandboxes.get_mut(id).ok_or_else(|| NodeError::NotFound(id.to_string()))?;
        found.ends_at = ends_at;
        Ok(())
    }

    async fn set_egress(&self, id: &SandboxId, egress: Egress) -> Result<(), NodeError> {
        self.check()?;
        let known = self.sandboxes.lock().contains_key(id);
        known.then_some(()).ok_or_else(|| NodeError::NotFound(id.to_string()))?;
        self.rules.lock().push((id.clone(), egress));
        Ok(())
    }

    async fn list(&self) -> Result<Vec<SandboxStatus>, NodeError> {
        self.check()?;
        Ok(self.sandboxes.lock().values().cloned().collect())
    }

    async fn ended(&self, ids: &[SandboxId]) -> Result<Vec<Ending>, NodeError> {
        self.check()?;
        Ok(Self::endings().into_iter().filter(|ending| ids.contains(&ending.id)).collect())
    }

    async fn explain(
        &self,
        id: &SandboxId,
        lifecycle: Option<&LifecycleId>,
    ) -> Result<Option<Explanation>, NodeError> {
        self.check()?;
        let explanation = Self::explanation();
        let this = lifecycle.is_none_or(|lifecycle| *lifecycle == explanation.lifecycle);
        Ok((this && id.as_str() == "i1").then_some(explanation))
    }

    async fn adopt_report(&self) -> Result<Option<AdoptReport>, NodeError> {
        self.check()?;
        Ok(self.adopted.lock().clone())
    }

    async fn samples(&self, id: &SandboxId) -> Result<Vec<Sample>, NodeError> {
        self.check()?;
        if self.sandboxes.lock().contains_key(id) {
            Ok(vec![Self::sample()])
        } else {
            Err(NodeError::NotFound(id.to_string()))
        }
    }

    async fn journal(
        &self,
        id: &SandboxId,
        mark: &JournalMark,
    ) -> Result<Option<Journal>, NodeError> {
        self.check()?;
        Ok((id.as_str() == "i1").then(|| Self::journal_after(mark)))
    }

    fn events(&self) -> broadcast::Receiver<NodeEvent> {
        self.events.subscribe()
    }

    async fn request_if(
        &self,
        request: NodeRequest,
        expected: Expected,
    ) -> Result<(), StatusError> {
        if let Some(error) = self.fail_status.lock().clone() {
            return Err(error);
        }
        let now = self.document();
        expected.check(&now.service_instance, now.phase, now.epoch)?;
        let change = self.phase().on(request)?;
        if let Change::To(phase) = change {
            self.set_phase(phase);
        }
        Ok(())
    }

    async fn drain_status(&self) -> Result<DrainStatus, NodeError> {
        self.check()?;
        Ok(self.document())
    }

    async fn drain_updates(&self) -> Result<BoxStream<'static, DrainStatus>, NodeError> {
        self.check()?;
        let document = self.document();
        let phases = self.phase.subscribe();
        // The document of a phase, as it is for a node without sandboxes.
        let updates = unfold((phases, true), move |(mut phases, first)| {
            let document = document.clone();
            async move {
                if !first {
                    phases.changed().await.ok()?;
                }
                let phase = *phases.borrow_and_update();
                Some((DrainStatus { phase, ..document }, (phases, false)))
            }
        });
        Ok(updates.boxed())
    }

    async fn leaks(&self) -> Result<Leaks, NodeError> {
        self.check()?;
        Ok(Self::census())
    }

    async fn build(&self, request: BuildRequest) -> Result<(), BuildError> {
        if let Some(error) = self.fail_build.lock().clone() {
            return Err(error);
        }
        if self.phase().is_draining() {
            return Err(BuildError::Draining);
        }
        if request.alias != "base" {
            return Err(BuildError::Unsupported(request.alias));
        }
        let mut builds = self.builds.lock();
        if builds.contains_key(&request.build) {
            return Err(BuildError::AlreadyExists(request.build));
        }
        let status = BuildStatus {
            request: request.clone(),
            state: BuildState::Building,
            started_at: moment(50),
            ended_at: None,
            step: "unpack".into(),
        };
        builds.insert(request.build, status);
        Ok(())
    }

    async fn build_status(&self, id: &BuildId) -> Result<BuildStatus, BuildError> {
        self.builds.lock().get(id).cloned().ok_or_else(|| BuildError::NotFound(id.clone()))
    }

    async fn build_delete(&self, id: &BuildId) -> Result<(), BuildError> {
        let gone = self.builds.lock().remove(id);
        gone.map(drop).ok_or_else(|| BuildError::NotFound(id.clone()))
    }

    async fn builds(&self) -> Result<Vec<BuildStatus>, NodeError> {
        self.check()?;
        Ok(self.builds.lock().values().cloned().collect())
    }
}
