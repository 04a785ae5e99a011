//! A node without machines: phases, sandboxes, builds and events are as on a real one.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use futures::StreamExt as _;
use futures::stream::{BoxStream, unfold};
use model::{
    BuildId, Change, Egress, EndReason, LifecycleId, NodePhase, NodeRequest, Resources, SandboxId,
    SandboxPhase, SandboxSpec,
};
use node_wire::{
    AdoptReport, AttemptStatus, Blocker, BuildError, BuildRequest, BuildState, BuildStatus, Class,
    ClassCount, CreateError, DrainStatus, Ending, Enforcement, Expected, ExplainedStep,
    Explanation, LeakItem, Leaks, NodeApi, NodeError, NodeEvent, NodeInfo, NodeMetrics, Processor,
    Route, Sample, SandboxStatus, Started, StatusError, TemplateInfo,
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

    pub(crate) fn template() -> TemplateInfo {
        TemplateInfo {
            id: "base".parse().unwrap(),
            build: "b-1".parse().unwrap(),
            aliases: vec!["base".into(), "default".into()],
            resources: Resources { vcpus: 2, memory_mib: 512, disk_mib: 1024 },
            envd_version: "0.6.4".into(),
            created_at: moment(5),
        }
    }

    pub(crate) fn document(&self) -> DrainStatus {
        let phase = self.phase();
        let live = u32::try_from(self.sandboxes.lock().len()).unwrap();
        let count =
            |class| ClassCount { class, count: if class == Class::Live { live } else { 0 } };
        let draining = phase.is_draining();
        DrainStatus {
            node: "node-1".parse().unwrap(),
            service_instance: "instance-1".into(),
            phase,
            changed_at: moment(20),
            epoch: 7,
            accepting: !draining,
            draining_since: draining.then(|| moment(20)),
            force_at: draining.then(|| moment(80)),
            counts: Class::ALL.map(count).to_vec(),
            blockers: self
                .sandboxes
                .lock()
                .keys()
                .map(|id| Blocker {
                    class: Class::Live,
                    id: id.to_string(),
                    state: "live".into(),
                    age: Duration::from_millis(1500),
                    ends_at: Some(moment(60)),
                    last_error: Some("busy".into()),
                })
                .collect(),
            attempt: (phase == NodePhase::Forcing).then(|| AttemptStatus {
                number: 2,
                started_at: moment(30),
                running: true,
                stopped: 3,
                late: 1,
                failed: vec!["slot: busy".into()],
            }),
            eta: draining.then(|| Duration::from_secs(9)),
            leaked: draining.then_some(0),
        }
    }

    pub(crate) fn census() -> Leaks {
        let item = |name: &str| LeakItem {
            kind: "cgroup".into(),
            name: name.into(),
            owner: "slot 3".into(),
        };
        Leaks { owned: vec![item("a"), item("b")], leaked: vec![item("c")] }
    }

    /// One of each reason, of two sandboxes.
    pub(crate) fn endings() -> Vec<Ending> {
        use EndReason as R;
        let reasons =
            [R::Request, R::Timeout, R::Crashed, R::StartFailed, R::NodeStop, R::Reclaimed];
        let ending = |(at, reason): (u64, EndReason)| Ending {
            id: format!("i{}", at % 2).parse().unwrap(),
            lifecycle: format!("l{at}").parse().unwrap(),
            reason,
            at: moment(at),
            detail: if at == 0 { String::new() } else { format!("\u{e9} {at}") },
        };
        (0..).zip(reasons).map(ending).collect()
    }

    pub(crate) fn explanation() -> Explanation {
        let step = |name: &str, took, error: Option<&str>| ExplainedStep {
            at: moment(50),
            name: name.into(),
            took,
            error: error.map(Into::into),
        };
        Explanation {
            lifecycle: "l5".parse().unwrap(),
            steps: vec![
                step("slot", Some(Duration::from_micros(1234)), None),
                step("live", None, None),
                step("mounts", Some(Duration::ZERO), Some("busy")),
            ],
            failed_step: Some("mounts".into()),
            output: vec!["one".into(), "t\u{e9}o".into()],
            memory_peak_bytes: Some(3 * GIB),
            cpu_time: Some(Duration::from_micros(77)),
            reclaimed: vec!["a cgroup".into()],
        }
    }

    pub(crate) fn sample() -> Sample {
        Sample {
            at: moment(33),
            cpu_count: 2,
            cpu_used_pct: 12.5,
            mem_total_bytes: GIB,
            mem_used_bytes: 7,
            mem_cache_bytes: 8,
            disk_total_bytes: 9,
            disk_used_bytes: 10,
        }
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
            templates: vec![Self::template()],
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
        let gone = self.sandboxes.lock().remove(id);
        gone.ok_or_else(|| NodeError::NotFound(id.to_string()))?;
        drop(self.held.subscribe().wait_for(|held| !held).await);
        self.kills.lock().push((id.clone(), reason));
        Ok(())
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
