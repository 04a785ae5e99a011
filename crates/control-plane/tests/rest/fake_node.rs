mod api;
mod journal;
mod pause;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Arc, Weak};
use std::time::{Duration, SystemTime};

use model::{
    BuildId, Egress, EndReason, Keep, LifecycleId, NodeId, NodePhase, NodeRequest, Resources,
    SandboxId, SandboxPhase, SandboxSpec, TeamId, TemplateId,
};
use node_wire::{
    AttemptStatus, Blocker, Class, ClassCount, CreateError, DrainStatus, Ending, Explanation,
    Journal, NodeError, NodeEvent, PauseError, PausedStatus, Route, SandboxStatus, Started,
    TemplateInfo,
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
    events: Mutex<broadcast::Sender<NodeEvent>>,
    /// While true, creates wait before they do anything.
    hold: watch::Sender<bool>,
    /// While true, it does not say how it is.
    hold_info: watch::Sender<bool>,
    /// While true, creates, and starts from pauses, wait after they did their work.
    hold_answers: watch::Sender<bool>,
    /// While true, what it has is known and not told yet.
    hold_lists: watch::Sender<bool>,
    /// How often what it has was looked up.
    pub(crate) listed: watch::Sender<u32>,
    /// While true, who moves an end waits for the answer.
    hold_ends: watch::Sender<bool>,
    /// How many such answers there were.
    pub(crate) held_ends: watch::Sender<u32>,
    /// How many starts from pauses did their work.
    pub(crate) resumed: watch::Sender<u32>,
    /// While true, kills wait before they do anything.
    hold_kills: watch::Sender<bool>,
    /// While true, pauses wait when they have begun, and starts from pauses, too.
    hold_pauses: watch::Sender<bool>,
    hold_resumes: watch::Sender<bool>,
    hold_snapshots: watch::Sender<bool>,
    /// How many of them have come so far.
    pub(crate) held_pauses: watch::Sender<u32>,
    pub(crate) held_resumes: watch::Sender<u32>,
    /// How many creates have begun.
    pub(crate) begun: watch::Sender<u32>,
    /// How many questions after how it is have begun.
    pub(crate) asked: watch::Sender<u32>,
    /// How often it told samples.
    pub(crate) sampled: watch::Sender<u32>,
    /// While true, guest agents do not say what they have noted.
    hold_journals: watch::Sender<bool>,
    /// How often one was asked.
    pub(crate) journaled: watch::Sender<u32>,
    /// How many kills have begun, whatever became of them.
    pub(crate) kills: watch::Sender<u32>,
}

#[derive(Debug)]
struct State {
    sandboxes: BTreeMap<SandboxId, SandboxStatus>,
    paused: BTreeMap<SandboxId, PausedStatus>,
    /// Is paused as soon as what is paused has been told.
    paused_behind: Option<SandboxId>,
    /// Whether guest agents give no sign of life.
    silent: bool,
    /// What the next pause or snapshot, and the next start from a pause, answer instead.
    fail_pause: Option<PauseError>,
    fail_resume: Option<CreateError>,
    pauses: u32,
    resumes: u32,
    snapshots: u32,
    last_keep: Option<Keep>,
    specs: Vec<SandboxSpec>,
    /// What the next create answers instead.
    fail: Option<CreateError>,
    /// What cannot be released.
    stuck: BTreeSet<SandboxId>,
    templates: Vec<TemplateInfo>,
    phase: NodePhase,
    epoch: u64,
    /// What every call answers instead.
    fault: Option<Fault>,
    instance: String,
    /// What it was asked to be.
    requests: Vec<NodeRequest>,
    runs: u32,
    /// What it remembers of runs that ended.
    endings: Vec<Ending>,
    asked_for: Option<SandboxId>,
    explanation: Option<Explanation>,
    /// Kills under way, and whether there were ever two of one sandbox.
    killing: BTreeSet<SandboxId>,
    killed_twice_at_a_time: bool,
    kills: BTreeMap<SandboxId, u32>,
    /// The rules for connections that were set, the last one last.
    rules: Vec<(SandboxId, Egress)>,
    /// Everything their guest agents have noted.
    journals: BTreeMap<SandboxId, Journal>,
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
        snapshot: false,
    }
}

impl FakeNode {
    pub(crate) fn new() -> Arc<Self> {
        Self::named("node-1")
    }

    pub(crate) fn named(name: &'static str) -> Arc<Self> {
        let state = State {
            sandboxes: BTreeMap::new(),
            paused: BTreeMap::new(),
            paused_behind: None,
            silent: false,
            fail_pause: None,
            fail_resume: None,
            pauses: 0,
            resumes: 0,
            snapshots: 0,
            last_keep: None,
            specs: Vec::new(),
            fail: None,
            stuck: BTreeSet::new(),
            templates: vec![template("basetemplateid00000a", "base")],
            phase: NodePhase::Healthy,
            epoch: 1,
            fault: None,
            instance: format!("{name}-instance-1"),
            requests: Vec::new(),
            runs: 0,
            endings: Vec::new(),
            asked_for: None,
            explanation: None,
            killing: BTreeSet::new(),
            killed_twice_at_a_time: false,
            kills: BTreeMap::new(),
            rules: Vec::new(),
            journals: BTreeMap::new(),
        };
        Arc::new_cyclic(|me| Self {
            me: Weak::clone(me),
            name,
            changes: watch::channel(0).0,
            hold_info: watch::channel(false).0,
            state: Mutex::new(state),
            events: Mutex::new(broadcast::channel(EVENTS).0),
            hold: watch::channel(false).0,
            hold_answers: watch::channel(false).0,
            hold_lists: watch::channel(false).0,
            listed: watch::channel(0).0,
            hold_ends: watch::channel(false).0,
            held_ends: watch::channel(0).0,
            resumed: watch::channel(0).0,
            hold_kills: watch::channel(false).0,
            hold_pauses: watch::channel(false).0,
            hold_resumes: watch::channel(false).0,
            hold_snapshots: watch::channel(false).0,
            held_pauses: watch::channel(0).0,
            held_resumes: watch::channel(0).0,
            begun: watch::channel(0).0,
            asked: watch::channel(0).0,
            kills: watch::channel(0).0,
            sampled: watch::channel(0).0,
            hold_journals: watch::channel(false).0,
            journaled: watch::channel(0).0,
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
            epoch: state.epoch,
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
        let state = self.state.lock();
        state.sandboxes.contains_key(id) || state.paused.contains_key(id)
    }

    pub(crate) fn count(&self) -> usize {
        self.state.lock().sandboxes.len()
    }

    pub(crate) fn lifecycle(&self, id: &SandboxId) -> LifecycleId {
        self.state.lock().sandboxes.get(id).unwrap().lifecycle.clone()
    }

    /// The one it was asked for last, whatever became of that.
    pub(crate) fn last_asked(&self) -> SandboxId {
        self.state.lock().asked_for.clone().unwrap()
    }

    /// The one sandbox it has.
    pub(crate) fn only(&self) -> SandboxId {
        let state = self.state.lock();
        assert_eq!(state.sandboxes.len(), 1);
        state.sandboxes.keys().next().unwrap().clone()
    }

    /// How often it was asked to kill this one.
    pub(crate) fn kills_of(&self, id: &SandboxId) -> u32 {
        self.state.lock().kills.get(id).copied().unwrap_or(0)
    }

    /// The callers of the kills under way have died.
    pub(crate) fn forget_kills(&self) {
        self.state.lock().killing.clear();
    }

    pub(crate) fn last_spec(&self) -> SandboxSpec {
        self.state.lock().specs.last().unwrap().clone()
    }

    /// The rules of `id` for connections, as they were last set.
    pub(crate) fn rules(&self, id: &SandboxId) -> Option<Egress> {
        let state = self.state.lock();
        state.rules.iter().rev().find(|(of, _)| of == id).map(|(_, rules)| rules.clone())
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
        let lost = {
            let mut state = self.state.lock();
            state.paused.remove(id);
            state.sandboxes.remove(id)
        };
        self.changed();
        lost
    }

    /// Has the sandbox that `other` has, as one that restarted under another name.
    pub(crate) fn take_over(&self, other: &Self, id: &SandboxId) {
        let status = other.state.lock().sandboxes.get(id).unwrap().clone();
        self.state.lock().sandboxes.insert(id.clone(), status);
    }

    /// Ends it without a word, and remembers.
    pub(crate) fn end_unheard(&self, id: &SandboxId, reason: EndReason, detail: &str) -> Ending {
        let status = self.lose(id).unwrap();
        let ending = Ending {
            id: id.clone(),
            lifecycle: status.lifecycle,
            reason,
            at: CHANGED_AT + Duration::from_secs(1_700_000_000),
            detail: detail.to_owned(),
        };
        self.remember(ending.clone());
        ending
    }

    pub(crate) fn remember(&self, ending: Ending) {
        self.state.lock().endings.push(ending);
    }

    pub(crate) fn explain_with(&self, explanation: Explanation) {
        self.state.lock().explanation = Some(explanation);
    }

    /// Ends the stream of its events, as a connection that breaks does.
    pub(crate) fn break_events(&self) {
        *self.events.lock() = broadcast::channel(EVENTS).0;
    }

    /// Has a sandbox that nobody asked this test's control plane for.
    pub(crate) fn plant(&self, change: impl FnOnce(&mut SandboxStatus)) -> SandboxStatus {
        let mut status = SandboxStatus {
            id: SandboxId::parse("iplanted").unwrap(),
            lifecycle: LifecycleId::parse("planted1").unwrap(),
            team: TeamId::parse("c0ffe7da-0000-4000-8000-000000000001").unwrap(),
            template: TemplateId::parse("basetemplateid00000a").unwrap(),
            phase: SandboxPhase::Live,
            resources: RESOURCES,
            metadata: BTreeMap::from([("who".to_owned(), "planted".to_owned())]),
            started_at: SystemTime::now() - Duration::from_secs(60),
            ends_at: SystemTime::now() + Duration::from_secs(600),
            addr: Some(ADDR),
            left: Vec::new(),
        };
        change(&mut status);
        self.state.lock().sandboxes.insert(status.id.clone(), status.clone());
        status
    }

    pub(crate) fn hold_lists(&self, hold: bool) {
        self.hold_lists.send_replace(hold);
    }

    pub(crate) fn lists_are_held(&self) -> bool {
        *self.hold_lists.borrow()
    }

    pub(crate) fn hold_ends(&self, hold: bool) {
        self.hold_ends.send_replace(hold);
    }

    pub(crate) fn hold_kills(&self, hold: bool) {
        self.hold_kills.send_replace(hold);
    }

    pub(crate) fn set_status_phase(&self, id: &SandboxId, phase: SandboxPhase) {
        self.state.lock().sandboxes.get_mut(id).unwrap().phase = phase;
    }

    /// Whether it was ever asked to kill a sandbox while it was killing it.
    pub(crate) fn killed_twice_at_a_time(&self) -> bool {
        self.state.lock().killed_twice_at_a_time
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
        state.asked_for = Some(spec.id.clone());
        if let Some(error) = state.fail.take() {
            return Err(error);
        }
        match state.phase {
            NodePhase::Starting => return Err(CreateError::Starting),
            phase if phase.is_draining() => return Err(CreateError::Draining),
            _ => {}
        }
        if !state.templates.iter().any(|template| template.id == spec.template) {
            return Err(CreateError::UnknownTemplate(spec.template.to_string()));
        }
        if state.sandboxes.contains_key(&spec.id) || state.paused.contains_key(&spec.id) {
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
            addr: Some(ADDR),
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
        drop(self.events.lock().send(event));
    }
}
