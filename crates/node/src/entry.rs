//! One lifecycle as the rest of the node sees it. Its supervisor is the only writer.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, SystemTime};

use model::{
    EndReason, LifecycleId, Resources, SandboxEvent, SandboxId, SandboxPhase, TeamId, TemplateId,
};
use node_wire::{Sample, SandboxStatus};
use parking_lot::Mutex;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::pulse::Pulse;
use crate::teardown::Step;

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
    pub resources: Resources,
    pub metadata: BTreeMap<String, String>,
    state: watch::Sender<State>,
    /// Says to the whole node that something has changed.
    pulse: Pulse,
    end: Mutex<Option<EndReason>>,
    ended: CancellationToken,
    /// Somebody asked a stuck teardown to try again now.
    retry: Notify,
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
    /// When this phase began.
    pub since: Instant,
    /// Rounds of teardown that have ended.
    pub rounds: u32,
    pub left: Vec<String>,
    /// Release steps that are not confirmed; empty unless stuck.
    pub pending: Vec<Step>,
}

/// What an entry is made of.
#[derive(Debug)]
pub(crate) struct Identity {
    pub id: SandboxId,
    pub lifecycle: LifecycleId,
    pub team: TeamId,
    pub template: TemplateId,
    pub resources: Resources,
    pub metadata: BTreeMap<String, String>,
}

impl Entry {
    pub(crate) fn new(identity: Identity, ttl: Duration, pulse: Pulse) -> Self {
        let now = SystemTime::now();
        let ttl = ttl.min(FAR);
        let state = State {
            phase: SandboxPhase::Reserved,
            started_at: now,
            ends_at: now + ttl,
            deadline: Instant::now() + ttl,
            since: Instant::now(),
            rounds: 0,
            left: Vec::new(),
            pending: Vec::new(),
        };
        Self {
            id: identity.id,
            lifecycle: identity.lifecycle,
            team: identity.team,
            template: identity.template,
            resources: identity.resources,
            metadata: identity.metadata,
            state: watch::Sender::new(state),
            pulse,
            end: Mutex::new(None),
            ended: CancellationToken::new(),
            retry: Notify::new(),
            samples: Mutex::default(),
            cpu: Mutex::default(),
        }
    }

    pub(crate) fn state(&self) -> State {
        self.state.borrow().clone()
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

    /// Starts the clock: the guest agent has answered. `false` when its end was asked for before: then
    /// it never was live.
    pub(crate) fn set_live(&self, ttl: Duration) -> bool {
        // Held over the change: who asks for the end from here on asks it of a live sandbox.
        let end = self.end.lock();
        if end.is_some() {
            return false;
        }
        let now = SystemTime::now();
        let ttl = ttl.min(FAR);
        self.on(SandboxEvent::Ready, |state| {
            state.started_at = now;
            state.ends_at = now + ttl;
            state.deadline = Instant::now() + ttl;
        });
        true
    }

    /// Moves the end of a live sandbox. `false` when it is not live.
    pub(crate) fn set_end(&self, ends_at: SystemTime) -> bool {
        let left = ends_at.duration_since(SystemTime::now()).unwrap_or_default().min(FAR);
        self.state.send_if_modified(|state| {
            let live = state.phase == SandboxPhase::Live;
            if live {
                state.ends_at = ends_at;
                state.deadline = Instant::now() + left;
            }
            live
        })
    }

    /// Ends a live sandbox whose time is over. `false` when the end was moved before that.
    pub(crate) fn expire(&self) -> bool {
        let expired = self.state.send_if_modified(|state| {
            let over = state.phase == SandboxPhase::Live && state.deadline <= Instant::now();
            if over {
                // From here on its end cannot be moved.
                state.phase = SandboxPhase::Stopping;
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
            left: state.left,
        }
    }
}
