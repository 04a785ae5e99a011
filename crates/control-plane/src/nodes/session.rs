use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime};

use lifecycle::Budget;
use model::{NodeId, NodePhase, TemplateId};
use node_wire::{CreateError, DrainStatus, NodeApi, NodeError, NodeInfo};
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::placement::{Candidate, Standing};

/// How long a node may take to say how it is.
const ASK_LIMIT: Duration = Duration::from_secs(2);
/// Questions in a row without an answer after which a node counts as unreachable.
const LOST_AFTER: u32 = 4;

/// One node: how to call it, and what it last said.
#[derive(Debug)]
pub(crate) struct Session {
    api: Arc<dyn NodeApi>,
    /// Known from its first answer on.
    id: OnceLock<NodeId>,
    state: Mutex<State>,
    /// One question at a time: an older answer never replaces a newer one.
    asking: tokio::sync::Mutex<()>,
    poked: Notify,
    pub(crate) creates: CreateCounts,
}

#[derive(Debug)]
struct State {
    link: Link,
    report: Option<Arc<Report>>,
    /// The last create it turned away, and when; until it says anew how it is.
    refusal: Option<(Instant, CreateError)>,
    /// Creates it was given since it last said how it is.
    given: u32,
}

/// What a node said of itself.
#[derive(Debug)]
pub(crate) struct Report {
    pub(crate) info: NodeInfo,
    pub(crate) drain: DrainStatus,
}

/// Whether a node answers. Apart from what it said, which stays as it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Link {
    Up,
    /// It has not answered yet, or not for a moment.
    Connecting {
        since: SystemTime,
        failures: u32,
    },
    Unreachable {
        since: SystemTime,
    },
}

/// What asking a node has changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Heard {
    /// It answers, as before.
    Again,
    /// It answers for the first time, or after it did not.
    Back,
    Nothing,
}

/// Outcomes of creates on one node since this process started; refusals are neither.
#[derive(Debug, Default)]
pub(crate) struct CreateCounts {
    pub(crate) successes: AtomicU64,
    pub(crate) fails: AtomicU64,
}

impl Session {
    pub(super) fn new(api: Arc<dyn NodeApi>) -> Self {
        let link = Link::Connecting { since: SystemTime::now(), failures: 0 };
        Self {
            api,
            id: OnceLock::new(),
            state: Mutex::new(State { link, report: None, refusal: None, given: 0 }),
            asking: tokio::sync::Mutex::default(),
            poked: Notify::new(),
            creates: CreateCounts::default(),
        }
    }

    pub(crate) fn api(&self) -> &Arc<dyn NodeApi> {
        &self.api
    }

    pub(crate) fn id(&self) -> Option<&NodeId> {
        self.id.get()
    }

    /// The first name it gets is the one it keeps.
    pub(super) fn set_id(&self, id: NodeId) {
        self.id.get_or_init(|| id);
    }

    pub(crate) fn report(&self) -> Option<Arc<Report>> {
        self.state.lock().report.clone()
    }

    pub(crate) fn link(&self) -> Link {
        self.state.lock().link
    }

    /// Has it asked soon how it is: something happened that may have changed it.
    pub(crate) fn poke(&self) {
        self.poked.notify_one();
    }

    /// Cancel safety: yes; a poke is kept until somebody waits.
    pub(crate) async fn poked(&self) {
        self.poked.notified().await;
    }

    /// Asks the node how it is and keeps the answer, if `accept` takes it.
    ///
    /// Cancel safety: yes; what it knew stays.
    pub(super) async fn refresh(
        &self,
        accept: impl FnOnce(&Report) -> Result<(), NodeError>,
    ) -> Heard {
        let _alone = self.asking.lock().await;
        let began = Instant::now();
        let asked = Budget::within(ASK_LIMIT).run("ask a node", async {
            let info = self.api.info().await?;
            // The newer of the two: it is what decides.
            let drain = self.api.drain_status().await?;
            Ok(Report { info, drain })
        });
        let told = match asked.await {
            Ok(told) => told.and_then(|report| accept(&report).map(|()| report)),
            Err(late) => Err(NodeError::Unreachable(late.to_string())),
        };
        match told {
            Ok(report) => self.heard(report, began),
            Err(error) => {
                self.missed(&error);
                Heard::Nothing
            }
        }
    }

    fn heard(&self, report: Report, began: Instant) -> Heard {
        let mut state = self.state.lock();
        let (id, phase) = (&report.info.id, report.drain.phase);
        let before = state.report.as_ref().map(|report| report.drain.phase);
        if before != Some(phase) {
            tracing::info!(node.id = %id, phase = phase.as_str(), "a node said what phase it is in");
        }
        let back = state.link != Link::Up;
        if back {
            tracing::info!(node.id = %id, "a node answers");
        }
        state.link = Link::Up;
        // A refusal after the question was asked is newer than the answer.
        if state.refusal.as_ref().is_some_and(|(at, _)| *at < began) {
            state.refusal = None;
        }
        state.given = 0;
        state.report = Some(Arc::new(report));
        if back { Heard::Back } else { Heard::Again }
    }

    fn missed(&self, error: &NodeError) {
        let mut state = self.state.lock();
        let next = match state.link {
            Link::Up => Link::Connecting { since: SystemTime::now(), failures: 1 },
            Link::Connecting { since, failures } if failures + 1 < LOST_AFTER => {
                Link::Connecting { since, failures: failures + 1 }
            }
            Link::Connecting { since, .. } => {
                let id = self.id().map_or("not known yet", NodeId::as_str);
                let error = observe::chain(error).to_string();
                tracing::warn!(node.id = id, error, "a node does not answer; it is asked on");
                Link::Unreachable { since }
            }
            Link::Unreachable { since } => Link::Unreachable { since },
        };
        state.link = next;
    }

    /// The node is about to be asked for a sandbox.
    pub(crate) fn give(&self) {
        let mut state = self.state.lock();
        state.given = state.given.saturating_add(1);
    }

    /// The node did not take a sandbox, for a reason that holds for the next one, too.
    pub(crate) fn refused(&self, error: CreateError) {
        self.state.lock().refusal = Some((Instant::now(), error));
        self.poke();
    }

    /// It as placement sees it; `None` until it has said who it is.
    pub(super) fn candidate(&self, template: &TemplateId) -> Option<Candidate> {
        let state = self.state.lock();
        let node = self.id()?.clone();
        let report = state.report.as_ref()?;
        let info = &report.info;
        Some(Candidate {
            node,
            standing: standing(&state, report.drain.phase),
            has_template: info.templates.iter().any(|known| known.id == *template),
            load: info.sandboxes.saturating_add(info.starting).saturating_add(state.given),
            cpus: info.metrics.cpu_count.max(1),
        })
    }

    /// What it is to placement; a node that never answered cannot be reached.
    pub(crate) fn standing(&self) -> Standing {
        let state = self.state.lock();
        match &state.report {
            Some(report) => standing(&state, report.drain.phase),
            None => Standing::Unreachable,
        }
    }
}

fn standing(state: &State, phase: NodePhase) -> Standing {
    if state.link != Link::Up {
        return Standing::Unreachable;
    }
    match state.refusal.as_ref().map(|(_, error)| error) {
        Some(CreateError::Draining) => return Standing::Phase(NodePhase::Draining),
        Some(CreateError::Starting) => return Standing::Phase(NodePhase::Starting),
        Some(CreateError::Unreachable(_)) => return Standing::Unreachable,
        Some(_) if phase.is_eligible() => return Standing::Full,
        Some(_) | None => {}
    }
    Standing::Phase(phase)
}

impl CreateCounts {
    pub(crate) fn count(&self, succeeded: bool) {
        let counter = if succeeded { &self.successes } else { &self.fails };
        counter.fetch_add(1, Ordering::Relaxed);
    }
}
