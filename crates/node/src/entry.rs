//! One lifecycle as the rest of the node sees it. Its supervisor is the only writer.

use std::collections::{BTreeMap, VecDeque};
use std::net::IpAddr;
use std::sync::OnceLock;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, SystemTime};

use model::{
    BuildId, EndReason, Keep, LifecycleId, OnTimeout, Resources, SandboxEvent, SandboxId,
    SandboxPhase, TeamId, TemplateId,
};
use node_wire::{Sample, SandboxStatus};
use parking_lot::Mutex;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::pulse::Pulse;
use crate::teardown::Step;

// Where it is wherever this file is part of: the model checks have it, too.
#[path = "entry/wish.rs"]
pub(crate) mod wish;

use wish::Moves;

/// No sandbox is given more time than this, ten years: sums with it stay in range.
const FAR: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

/// Samples kept of one sandbox: 20 minutes at one every 5 seconds.
const MAX_SAMPLES: usize = 240;

#[derive(Debug)]
pub(crate) struct Entry {
    pub id: SandboxId,
    pub lifecycle: LifecycleId,
    pub team: TeamId,
    pub template: TemplateId,
    pub build: BuildId,
    pub resources: Resources,
    pub metadata: BTreeMap<String, String>,
    state: watch::Sender<State>,
    /// Says to the whole node that something has changed.
    pulse: Pulse,
    end: Mutex<Option<EndReason>>,
    ended: CancellationToken,
    /// Somebody asked a stuck teardown to try again now.
    retry: Notify,
    moves: Mutex<Moves>,
    moved: Notify,
    wished: Notify,
    /// Whether what it has written is kept when it goes.
    kept: AtomicBool,
    /// Cancelled when its owner wants nothing of it any more.
    unwanted: CancellationToken,
    /// Set once it is known.
    addr: OnceLock<IpAddr>,
    samples: Mutex<VecDeque<Sample>>,
    /// Processor time at the last sample.
    cpu: Mutex<Option<(Instant, Duration)>>,
}

/// What changes over a lifecycle's time.
#[derive(Debug, Clone)]
pub(crate) struct State {
    pub phase: SandboxPhase,
    pub started_at: SystemTime,
    /// For people; [`State::deadline`] is what is kept.
    pub ends_at: SystemTime,
    pub deadline: Instant,
    /// What becomes of it then.
    pub on_timeout: OnTimeout,
    /// Since when it is paused.
    pub paused_at: Option<SystemTime>,
    /// Whether its guest agent was silent then.
    pub agent_silent: bool,
    /// When its end was decided.
    pub ended_at: Option<SystemTime>,
    /// Whether it was ever live.
    pub lived: bool,
    /// When this phase began.
    pub since: Instant,
    /// Rounds of teardown that have ended.
    pub rounds: u32,
    pub left: Vec<String>,
    /// Release steps that are not confirmed; empty unless stuck.
    pub pending: Vec<Step>,
    /// The release step that runs, and since when.
    pub step: Option<(Step, Instant)>,
}

/// From when to when a sandbox is live.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Life {
    pub started_at: SystemTime,
    pub ends_at: SystemTime,
}

impl Life {
    /// From now on. In whole microseconds, as it is written.
    pub(crate) fn of(ttl: Duration) -> Self {
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let whole = Duration::new(since.as_secs(), since.subsec_micros() * 1000);
        let started_at = SystemTime::UNIX_EPOCH + whole;
        Self { started_at, ends_at: started_at + ttl.min(FAR) }
    }

    fn deadline(self) -> Instant {
        deadline(self.ends_at)
    }
}

fn deadline(ends_at: SystemTime) -> Instant {
    Instant::now() + ends_at.duration_since(SystemTime::now()).unwrap_or_default().min(FAR)
}

/// What an entry is made of.
#[derive(Debug)]
pub(crate) struct Identity {
    pub id: SandboxId,
    pub lifecycle: LifecycleId,
    pub team: TeamId,
    pub template: TemplateId,
    pub build: BuildId,
    pub resources: Resources,
    pub metadata: BTreeMap<String, String>,
}

impl Entry {
    /// One that is about to be made.
    pub(crate) fn new(identity: Identity, ttl: Duration, pulse: Pulse) -> Self {
        Self::in_phase(SandboxPhase::Reserved, identity, Life::of(ttl), pulse)
    }

    /// One that an earlier daemon has made: it runs, and its time goes on.
    pub(crate) fn adopted(identity: Identity, life: Life, pulse: Pulse) -> Self {
        Self::in_phase(SandboxPhase::Live, identity, life, pulse)
    }

    /// One that an earlier daemon has paused, and whose machine stands still.
    pub(crate) fn adopted_paused(
        identity: Identity,
        life: Life,
        (paused_at, agent_silent): (SystemTime, bool),
        pulse: Pulse,
    ) -> Self {
        let entry = Self::in_phase(SandboxPhase::Paused, identity, life, pulse);
        entry.state.send_modify(|state| {
            state.paused_at = Some(paused_at);
            state.agent_silent = agent_silent;
        });
        entry.set_kept(true);
        entry
    }

    /// One that an earlier daemon has left, and that goes for `reason` since `ended_at`.
    pub(crate) fn left_behind(
        identity: Identity,
        life: Life,
        (reason, ended_at): (EndReason, SystemTime),
        pulse: Pulse,
    ) -> Self {
        let entry = Self::in_phase(SandboxPhase::Stopping, identity, life, pulse);
        entry.state.send_modify(|state| state.ended_at = Some(ended_at));
        entry.end(reason);
        entry
    }

    fn in_phase(phase: SandboxPhase, identity: Identity, life: Life, pulse: Pulse) -> Self {
        let state = State {
            phase,
            started_at: life.started_at,
            ends_at: life.ends_at,
            deadline: life.deadline(),
            on_timeout: OnTimeout::Kill,
            paused_at: None,
            agent_silent: false,
            ended_at: None,
            lived: matches!(phase, SandboxPhase::Live | SandboxPhase::Paused),
            since: Instant::now(),
            rounds: 0,
            left: Vec::new(),
            pending: Vec::new(),
            step: None,
        };
        Self {
            id: identity.id,
            lifecycle: identity.lifecycle,
            team: identity.team,
            template: identity.template,
            build: identity.build,
            resources: identity.resources,
            metadata: identity.metadata,
            state: watch::Sender::new(state),
            pulse,
            end: Mutex::new(None),
            ended: CancellationToken::new(),
            retry: Notify::new(),
            moves: Mutex::default(),
            moved: Notify::new(),
            wished: Notify::new(),
            kept: AtomicBool::new(false),
            unwanted: CancellationToken::new(),
            addr: OnceLock::new(),
            samples: Mutex::default(),
            cpu: Mutex::default(),
        }
    }

    /// What its records are found by. Never filtered out: without the ids a failure is nobody's.
    pub(crate) fn span(&self) -> tracing::Span {
        tracing::error_span!(
            "sandbox",
            sandbox.id = %self.id,
            lifecycle.id = %self.lifecycle,
            template.id = %self.template,
        )
    }

    pub(crate) fn state(&self) -> State {
        self.state.borrow().clone()
    }

    /// Where it can be reached from now on. Only the supervisor calls this.
    pub(crate) fn set_addr(&self, addr: IpAddr) {
        // It has one slot in all its life.
        let _same = self.addr.set(addr);
    }

    pub(crate) fn phase(&self) -> SandboxPhase {
        self.state.borrow().phase
    }

    pub(crate) fn watch(&self) -> watch::Receiver<State> {
        self.state.subscribe()
    }

    /// Moves on by `event`. Only the supervisor calls this.
    pub(crate) fn on(&self, event: SandboxEvent, change: impl FnOnce(&mut State)) {
        self.state.send_modify(|state| {
            match state.phase.on(event) {
                Ok(next) => {
                    tracing::debug!(from = ?state.phase, to = ?next, "sandbox phase changed");
                    state.phase = next;
                    state.since = Instant::now();
                    if event == SandboxEvent::End {
                        state.ended_at.get_or_insert_with(SystemTime::now);
                    }
                }
                Err(illegal) => {
                    tracing::error!(error = %illegal, "a supervisor took an impossible step");
                    debug_assert!(false, "{illegal}");
                }
            }
            change(state);
        });
        self.pulse.beat();
    }

    /// A release step begins. Only the supervisor calls this.
    pub(crate) fn begin_step(&self, step: Step) {
        // Nobody waits for it.
        self.state.send_if_modified(|state| {
            state.step = Some((step, Instant::now()));
            false
        });
    }

    /// Starts the clock: the guest agent has answered. `false` when its end was asked for before: then
    /// it never was live.
    pub(crate) fn set_live(&self, life: Life) -> bool {
        // Held over the change: who asks for the end from here on asks it of a live sandbox.
        let end = self.end.lock();
        if end.is_some() {
            return false;
        }
        self.on(SandboxEvent::Ready, |state| {
            state.started_at = life.started_at;
            state.ends_at = life.ends_at;
            state.deadline = life.deadline();
            state.lived = true;
        });
        true
    }

    /// Moves the end of a live sandbox. Only the supervisor calls this.
    pub(crate) fn move_end(&self, ends_at: SystemTime) {
        self.state.send_modify(|state| {
            state.ends_at = ends_at;
            state.deadline = deadline(ends_at);
        });
    }

    /// Whether its time is over and it is to be paused then.
    pub(crate) fn pauses_now(&self) -> Option<Keep> {
        let state = self.state.borrow();
        match state.on_timeout {
            OnTimeout::Pause(keep) if state.deadline <= Instant::now() => Some(keep),
            OnTimeout::Pause(_) | OnTimeout::Kill => None,
        }
    }

    /// Ends a live sandbox whose time is over. `false` when it is not, or not live, or to be paused
    /// then: a clock that has moved on since [`Entry::pauses_now`] must not make an end of a pause.
    pub(crate) fn expire(&self) -> bool {
        let expired = self.state.send_if_modified(|state| {
            let over = state.phase == SandboxPhase::Live
                && state.on_timeout == OnTimeout::Kill
                && state.deadline <= Instant::now();
            if over {
                // From here on its end cannot be moved.
                state.phase = SandboxPhase::Stopping;
                state.ended_at = Some(SystemTime::now());
                state.since = Instant::now();
            }
            over
        });
        if expired {
            self.pulse.beat();
        }
        expired
    }

    /// Asks for the end; the first reason counts. A stuck teardown tries again at once.
    pub(crate) fn end(&self, reason: EndReason) {
        self.end.lock().get_or_insert(reason);
        self.ended.cancel();
        // A round that is under way answers for this call, too.
        if self.phase() == SandboxPhase::Stuck {
            self.retry.notify_one();
        }
    }

    pub(crate) fn end_reason(&self) -> Option<EndReason> {
        *self.end.lock()
    }

    /// Cancelled when the end was asked for.
    pub(crate) fn ended(&self) -> &CancellationToken {
        &self.ended
    }

    /// Waits until a retry is asked for.
    ///
    /// Cancel safety: yes; a request that nobody waited for is kept.
    pub(crate) async fn retry_asked(&self) {
        self.retry.notified().await;
    }

    /// The processor time at the last sample.
    pub(crate) fn last_cpu(&self) -> Option<(Instant, Duration)> {
        *self.cpu.lock()
    }

    pub(crate) fn set_cpu(&self, at: Instant, used: Duration) {
        *self.cpu.lock() = Some((at, used));
    }

    pub(crate) fn push_sample(&self, sample: Sample) {
        let mut samples = self.samples.lock();
        if samples.len() == MAX_SAMPLES {
            samples.pop_front();
        }
        samples.push_back(sample);
    }

    pub(crate) fn samples(&self) -> Vec<Sample> {
        self.samples.lock().iter().copied().collect()
    }

    pub(crate) fn status(&self) -> SandboxStatus {
        let state = self.state();
        SandboxStatus {
            id: self.id.clone(),
            lifecycle: self.lifecycle.clone(),
            team: self.team.clone(),
            template: self.template.clone(),
            phase: state.phase,
            resources: self.resources,
            metadata: self.metadata.clone(),
            started_at: state.started_at,
            ends_at: state.ends_at,
            addr: self.addr.get().copied(),
            left: state.left,
        }
    }
}
