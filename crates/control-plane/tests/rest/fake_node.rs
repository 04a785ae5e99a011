use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Arc, Weak};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use futures::stream::{BoxStream, unfold};
use model::{
    BuildId, Change, EndReason, LifecycleId, NodeId, NodePhase, NodeRequest, Resources, SandboxId,
    SandboxPhase, SandboxSpec, TemplateId,
};
use node_wire::{
    AttemptStatus, Blocker, BuildError, BuildRequest, BuildStatus, Class, ClassCount, CreateError,
    DrainStatus, Enforcement, LeakItem, Leaks, NodeApi, NodeError, NodeEvent, NodeInfo,
    NodeMetrics, Processor, Route, Sample, SandboxStatus, Started, StatusError, TemplateInfo,
};
use parking_lot::Mutex;
use tokio::sync::{broadcast, watch};

pub(crate) const ADDR: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 1, 2, 3));
pub(crate) const RESOURCES: Resources = Resources { vcpus: 2, memory_mib: 512, disk_mib: 1024 };
const EVENTS: usize = 16;
pub(crate) const CHANGED_AT: SystemTime = SystemTime::UNIX_EPOCH;

fn away() -> NodeError {
    NodeError::Unreachable("a fault of this test".to_owned())
}

/// A node that keeps its sandboxes in a map.
#[derive(Debug)]
pub(crate) struct FakeNode {
    me: Weak<Self>,
    name: &'static str,
    state: Mutex<State>,
    /// Changes with everything that a drain shows.
    changes: watch::Sender<u64>,
    events: broadcast::Sender<NodeEvent>,
    /// While true, creates wait before they do anything.
    hold: watch::Sender<bool>,
    /// While true, it does not say how it is.
    hold_info: watch::Sender<bool>,
    /// While true, creates wait after they did their work.
    hold_answers: watch::Sender<bool>,
    /// How many creates have begun.
    pub(crate) begun: watch::Sender<u32>,
    /// How many questions after how it is have begun.
    pub(crate) asked: watch::Sender<u32>,
}

#[derive(Debug)]
struct State {
    sandboxes: BTreeMap<SandboxId, SandboxStatus>,
    specs: Vec<SandboxSpec>,
    /// What the next create answers instead.
    fail: Option<CreateError>,
    /// What cannot be released.
    stuck: BTreeSet<SandboxId>,
    templates: Vec<TemplateInfo>,
    phase: NodePhase,
    /// What every call answers instead.
    fault: Option<Fault>,
    instance: String,
    /// What it was asked to be.
    requests: Vec<NodeRequest>,
    runs: u32,
}

/// Why a node answers no call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    Unreachable,
    Internal,
    /// It does what it is asked for, and its answer is lost.
    AnswersLost,
}

pub(crate) fn template(id: &str, alias: &str) -> TemplateInfo {
    TemplateInfo {
        id: TemplateId::parse(id).unwrap(),
        build: BuildId::parse("11111111-2222-4333-8444-555555555555").unwrap(),
        aliases: vec![alias.to_owned()],
        resources: RESOURCES,
        envd_version: "0.6.4".to_owned(),
        created_at: SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000),
    }
}

impl FakeNode {
    pub(crate) fn new() -> Arc<Self> {
        Self::named("node-1")
    }

    pub(crate) fn named(name: &'static str) -> Arc<Self> {
        let state = State {
            sandboxes: BTreeMap::new(),
            specs: Vec::new(),
            fail: None,
            stuck: BTreeSet::new(),
            templates: vec![template("basetemplateid00000a", "base")],
            phase: NodePhase::Healthy,
            fault: None,
            instance: format!("{name}-instance-1"),
            requests: Vec::new(),
            runs: 0,
        };
        Arc::new_cyclic(|me| Self {
            me: Weak::clone(me),
            name,
            changes: watch::channel(0).0,
            hold_info: watch::channel(false).0,
            state: Mutex::new(state),
            events: broadcast::channel(EVENTS).0,
            hold: watch::channel(false).0,
            hold_answers: watch::channel(false).0,
            begun: watch::channel(0).0,
            asked: watch::channel(0).0,
        })
    }

    pub(crate) fn fail_next(&self, error: CreateError) {
        self.state.lock().fail = Some(error);
    }

    pub(crate) fn hold_creates(&self, hold: bool) {
        self.hold.send_replace(hold);
    }

    pub(crate) fn hold_answers(&self, hold: bool) {
        self.hold_answers.send_replace(hold);
    }

    pub(crate) fn hold_info(&self, hold: bool) {
        self.hold_info.send_replace(hold);
    }

    pub(crate) fn set_phase(&self, phase: NodePhase) {
        self.state.lock().phase = phase;
        self.changed();
    }

    pub(crate) fn phase(&self) -> NodePhase {
        self.state.lock().phase
    }

    pub(crate) fn set_fault(&self, fault: Option<Fault>) {
        self.state.lock().fault = fault;
    }

    pub(crate) fn set_instance(&self, instance: &str) {
        instance.clone_into(&mut self.state.lock().instance);
    }

    pub(crate) fn requests(&self) -> Vec<NodeRequest> {
        self.state.lock().requests.clone()
    }

    /// How many streams of its drain are open.
    pub(crate) fn watched(&self) -> usize {
        self.changes.receiver_count()
    }

    fn changed(&self) {
        self.changes.send_modify(|changes| *changes += 1);
    }

    fn check(&self) -> Result<(), NodeError> {
        match self.state.lock().fault {
            None => Ok(()),
            Some(Fault::Internal) => Err(NodeError::Internal("a fault of this test".to_owned())),
            Some(Fault::Unreachable | Fault::AnswersLost) => Err(away()),
        }
    }

    fn drain(&self) -> DrainStatus {
        let state = self.state.lock();
        let live = u32::try_from(state.sandboxes.len()).unwrap();
        let count =
            |class| ClassCount { class, count: if class == Class::Live { live } else { 0 } };
        let blocker = |status: &SandboxStatus| Blocker {
            class: Class::Live,
            id: status.id.to_string(),
            state: "live".to_owned(),
            age: Duration::from_millis(1500),
            ends_at: Some(status.ends_at),
            last_error: None,
        };
        let forcing = state.phase == NodePhase::Forcing;
        DrainStatus {
            node: NodeId::parse(self.name).unwrap(),
            service_instance: state.instance.clone(),
            phase: state.phase,
            changed_at: CHANGED_AT,
            accepting: state.phase.is_eligible(),
            draining_since: state.phase.is_draining().then_some(CHANGED_AT),
            force_at: None,
            counts: Class::ALL.map(count).to_vec(),
            blockers: state.sandboxes.values().map(blocker).collect(),
            attempt: forcing.then(|| AttemptStatus {
                number: 1,
                started_at: CHANGED_AT,
                running: true,
                stopped: 0,
                late: 0,
                failed: Vec::new(),
            }),
            eta: (live == 0).then_some(Duration::ZERO),
            leaked: None,
        }
    }

    pub(crate) fn set_templates(&self, templates: Vec<TemplateInfo>) {
        self.state.lock().templates = templates;
    }

    pub(crate) fn set_stuck(&self, id: &SandboxId, stuck: bool) {
        let mut state = self.state.lock();
        if stuck {
            state.stuck.insert(id.clone());
        } else {
            state.stuck.remove(id);
        }
    }

    pub(crate) fn has(&self, id: &SandboxId) -> bool {
        self.state.lock().sandboxes.contains_key(id)
    }

    pub(crate) fn count(&self) -> usize {
        self.state.lock().sandboxes.len()
    }

    pub(crate) fn last_spec(&self) -> SandboxSpec {
        self.state.lock().specs.last().unwrap().clone()
    }

    pub(crate) fn ends_at(&self, id: &SandboxId) -> SystemTime {
        self.state.lock().sandboxes.get(id).unwrap().ends_at
    }

    /// Ends it and says so.
    pub(crate) fn end(&self, id: &SandboxId, reason: EndReason) {
        if let Some(status) = self.lose(id) {
            let (lifecycle, at) = (status.lifecycle, SystemTime::now());
            self.tell(NodeEvent::Ended { id: id.clone(), lifecycle, reason, at });
        }
    }

    /// Ends it without a word.
    pub(crate) fn lose(&self, id: &SandboxId) -> Option<SandboxStatus> {
        let lost = self.state.lock().sandboxes.remove(id);
        self.changed();
        lost
    }

    /// Has the sandbox that `other` has, as one that restarted under another name.
    pub(crate) fn take_over(&self, other: &Self, id: &SandboxId) {
        let status = other.state.lock().sandboxes.get(id).unwrap().clone();
        self.state.lock().sandboxes.insert(id.clone(), status);
    }

    /// Ends every sandbox without a word.
    pub(crate) fn lose_all(&self) {
        self.state.lock().sandboxes.clear();
    }

    /// Says so much at once that nobody can follow.
    pub(crate) fn babble(&self) {
        for _ in 0..4 * EVENTS {
            self.tell(NodeEvent::EndMoved {
                id: SandboxId::parse("inone").unwrap(),
                lifecycle: LifecycleId::parse("none").unwrap(),
                ends_at: SystemTime::now(),
            });
        }
    }

    fn start(&self, spec: SandboxSpec) -> Result<Started, CreateError> {
        let mut state = self.state.lock();
        if let Some(error) = state.fail.take() {
            return Err(error);
        }
        match state.phase {
            NodePhase::Starting => return Err(CreateError::Starting),
            phase if phase.is_draining() => return Err(CreateError::Draining),
            _ => {}
        }
        if state.sandboxes.contains_key(&spec.id) {
            return Err(CreateError::AlreadyExists(spec.id.to_string()));
        }
        state.runs += 1;
        let lifecycle = LifecycleId::parse(&format!("run{}", state.runs)).unwrap();
        let started_at = SystemTime::now();
        let status = SandboxStatus {
            id: spec.id.clone(),
            lifecycle: lifecycle.clone(),
            team: spec.team.clone(),
            template: spec.template.clone(),
            phase: SandboxPhase::Live,
            resources: RESOURCES,
            metadata: spec.metadata.clone(),
            started_at,
            ends_at: started_at + spec.ttl,
            left: Vec::new(),
        };
        state.sandboxes.insert(spec.id.clone(), status.clone());
        let route = Route { sandbox: spec.id.clone(), lifecycle, addr: ADDR };
        state.specs.push(spec);
        drop(state);
        self.changed();
        Ok(Started { status, route })
    }

    fn tell(&self, event: NodeEvent) {
        // An error only says that nobody listens.
        drop(self.events.send(event));
    }
}

#[async_trait]
impl NodeApi for FakeNode {
    async fn info(&self) -> Result<NodeInfo, NodeError> {
        self.asked.send_modify(|asked| *asked += 1);
        self.hold_info.subscribe().wait_for(|hold| !hold).await.unwrap();
        self.check()?;
        let state = self.state.lock();
        Ok(NodeInfo {
            id: NodeId::parse(self.name).unwrap(),
            phase: state.phase,
            version: "1.2.3".to_owned(),
            driver: "fake".to_owned(),
            sandboxes: u32::try_from(state.sandboxes.len()).unwrap(),
            starting: 0,
            stuck: 0,
            slots: 100,
            processor: Processor { model_name: "Fake".to_owned(), ..Processor::default() },
            metrics: NodeMetrics { cpu_count: 4, cpu_percent: 12.5, ..NodeMetrics::default() },
            enforcement: vec![Enforcement {
                what: "swap",
                enforced: false,
                detail: "the kernel has no swap accounting".to_owned(),
            }],
            templates: state.templates.clone(),
        })
    }

    async fn create(&self, spec: SandboxSpec, _limit: Duration) -> Result<Started, CreateError> {
        self.begun.send_modify(|begun| *begun += 1);
        self.hold.subscribe().wait_for(|hold| !hold).await.unwrap();
        if self.state.lock().fault == Some(Fault::Unreachable) {
            return Err(CreateError::Unreachable("a fault of this test".to_owned()));
        }
        let started = self.start(spec);
        if self.state.lock().fault == Some(Fault::AnswersLost) {
            return Err(CreateError::Unreachable("the answer was lost".to_owned()));
        }
        self.hold_answers.subscribe().wait_for(|hold| !hold).await.unwrap();
        started
    }

    async fn kill(&self, id: &SandboxId, reason: EndReason) -> Result<(), NodeError> {
        self.check()?;
        let stuck = {
            let mut state = self.state.lock();
            let stuck = state.stuck.contains(id);
            let Some(status) = state.sandboxes.get_mut(id) else {
                return Err(NodeError::NotFound(id.to_string()));
            };
            if stuck {
                status.phase = SandboxPhase::Stuck;
            }
            stuck
        };
        if stuck {
            let left = "/var/lib/secret: busy".to_owned();
            return Err(NodeError::Stuck { id: id.to_string(), left });
        }
        self.end(id, reason);
        Ok(())
    }

    async fn set_end(&self, id: &SandboxId, ends_at: SystemTime) -> Result<(), NodeError> {
        self.check()?;
        let over = {
            let mut state = self.state.lock();
            let Some(status) = state.sandboxes.get_mut(id) else {
                return Err(NodeError::NotFound(id.to_string()));
            };
            status.ends_at = ends_at;
            ends_at <= SystemTime::now()
        };
        if over {
            self.end(id, EndReason::Timeout);
        }
        Ok(())
    }

    async fn list(&self) -> Result<Vec<SandboxStatus>, NodeError> {
        self.check()?;
        Ok(self.state.lock().sandboxes.values().cloned().collect())
    }

    async fn samples(&self, id: &SandboxId) -> Result<Vec<Sample>, NodeError> {
        self.check()?;
        if !self.has(id) {
            return Err(NodeError::NotFound(id.to_string()));
        }
        let sample = |second| Sample {
            at: SystemTime::UNIX_EPOCH + Duration::from_secs(second),
            cpu_count: 2,
            cpu_used_pct: 12.5,
            mem_total_bytes: 512 << 20,
            mem_used_bytes: 64 << 20,
            mem_cache_bytes: 8 << 20,
            disk_total_bytes: 1 << 30,
            disk_used_bytes: 1 << 20,
        };
        Ok(vec![sample(1_700_000_000), sample(1_700_000_010)])
    }

    fn events(&self) -> broadcast::Receiver<NodeEvent> {
        self.events.subscribe()
    }

    async fn request(&self, request: NodeRequest) -> Result<(), StatusError> {
        match self.check() {
            Ok(()) => {}
            Err(NodeError::Unreachable(reason)) => return Err(StatusError::Unreachable(reason)),
            Err(error) => return Err(StatusError::Internal(error.to_string())),
        }
        {
            let mut state = self.state.lock();
            if let Change::To(next) = state.phase.on(request)? {
                state.phase = next;
            }
            state.requests.push(request);
        }
        self.changed();
        Ok(())
    }

    async fn drain_status(&self) -> Result<DrainStatus, NodeError> {
        self.check().map(|()| self.drain())
    }

    async fn drain_updates(&self) -> Result<BoxStream<'static, DrainStatus>, NodeError> {
        self.check()?;
        let Some(node) = self.me.upgrade() else { return Err(away()) };
        let changes = self.changes.subscribe();
        Ok(Box::pin(unfold((node, changes, true), |(node, mut changes, first)| async move {
            if !first {
                changes.changed().await.ok()?;
            }
            changes.borrow_and_update();
            let gone = node.check().is_err();
            (!gone).then(|| (node.drain(), (Arc::clone(&node), changes, false)))
        })))
    }

    async fn leaks(&self) -> Result<Leaks, NodeError> {
        self.check()?;
        let item = |kind: &str, name: &str, owner: &str| LeakItem {
            kind: kind.to_owned(),
            name: name.to_owned(),
            owner: owner.to_owned(),
        };
        Ok(Leaks {
            owned: vec![item("cgroup", "cofferdam-0", "node")],
            leaked: vec![item("link", "cd0-7", "slot 7")],
        })
    }

    async fn build(&self, request: BuildRequest) -> Result<(), BuildError> {
        Err(BuildError::Unsupported(request.alias))
    }

    async fn build_status(&self, id: &BuildId) -> Result<BuildStatus, BuildError> {
        Err(BuildError::NotFound(id.clone()))
    }

    async fn build_delete(&self, id: &BuildId) -> Result<(), BuildError> {
        Err(BuildError::NotFound(id.clone()))
    }

    async fn builds(&self) -> Result<Vec<BuildStatus>, NodeError> {
        Ok(Vec::new())
    }
}
