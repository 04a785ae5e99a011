use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime};

use lifecycle::Budget;
use model::{NodeId, NodePhase, TemplateId};
use node_wire::{CreateError, DrainStatus, NodeApi, NodeError, NodeInfo};
use parking_lot::Mutex;
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep};

use crate::placement::{Candidate, Standing};

/// Questions in a row without an answer after which a node counts as unreachable.
const LOST_AFTER: u32 = 4;
/// Between two looks at whether it still answers, for who waits for it.
const LINK_PAUSE: Duration = Duration::from_millis(50);

/// One node: how to call it, and what it last said.
#[derive(Debug)]
pub(crate) struct Session {
    api: Arc<dyn NodeApi>,
    /// Known from its first answer on.
    id: OnceLock<NodeId>,
    state: Mutex<State>,
    starts: watch::Sender<bool>,
    /// Whether everything was compared with it since it last came back.
    compared: watch::Sender<bool>,
    /// One question at a time: an older answer never replaces a newer one.
    asking: tokio::sync::Mutex<()>,
    poked: Notify,
    compare: Notify,
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
    /// When the last question that is over began.
    asked: Option<Instant>,
    /// It answers after it did not, as a new process, or has finished starting, and nobody has taken
    /// note of that yet.
    back: bool,
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
            state: Mutex::new(State {
                link,
                report: None,
                refusal: None,
                given: 0,
                asked: None,
                back: false,
            }),
            starts: watch::Sender::new(false),
            compared: watch::Sender::new(false),
            asking: tokio::sync::Mutex::default(),
            poked: Notify::new(),
            compare: Notify::new(),
            creates: CreateCounts::default(),
        }
    }

    /// Whether it still takes over, or removes, what an earlier process of it left.
    pub(crate) fn is_starting(&self) -> bool {
        *self.starts.borrow()
    }

    /// Waits until it does not say any more that it is starting. One that has said nothing is not
    /// waited for.
    ///
    /// Cancel safety: yes.
    pub(crate) async fn started(&self) {
        // The sender is in this value: it cannot be gone.
        drop(self.starts.subscribe().wait_for(|starts| !starts).await);
    }

    /// Everything it has was compared with the records.
    pub(crate) fn compared(&self) {
        self.compared.send_replace(true);
    }

    /// Waits until the records say what it has. One that does not answer is not waited for.
    ///
    /// Cancel safety: yes.
    pub(crate) async fn in_the_records(&self) {
        let mut compared = self.compared.subscribe();
        while self.link() == Link::Up && !*compared.borrow_and_update() {
            tokio::select! {
                _changed = compared.changed() => {}
                () = sleep(LINK_PAUSE) => {}
            }
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

    /// The version of the agent in its templates, if it has any.
    pub(crate) fn envd_version(&self) -> Option<String> {
        let report = self.report()?;
        report.info.templates.first().map(|template| template.envd_version.clone())
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

    /// Has the records compared soon with what the node has.
    pub(crate) fn compare_soon(&self) {
        self.compare.notify_one();
    }

    /// Cancel safety: yes; a wish is kept until somebody waits.
    pub(crate) async fn to_be_compared(&self) {
        self.compare.notified().await;
    }

    /// Whether it answers after it did not, is not the process it was, or has finished starting
    /// and so taken over all it will; told once.
    pub(crate) fn came_back(&self) -> bool {
        std::mem::take(&mut self.state.lock().back)
    }

    /// Waits for an answer of the node. One that does not come in time is as none at all: what was
    /// asked for may still happen.
    ///
    /// # Errors
    /// Those of the node, and [`NodeError::Unreachable`] at the end of `limit`.
    pub(crate) async fn within<T>(
        &self,
        limit: Duration,
        call: impl Future<Output = Result<T, NodeError>>,
    ) -> Result<T, NodeError> {
        let answer = Budget::within(limit).run("ask a node", call).await;
        let answer = answer.unwrap_or_else(|late| Err(NodeError::Unreachable(late.to_string())));
        if matches!(answer, Err(NodeError::Unreachable(_))) {
            self.poke();
        }
        answer
    }

    /// Asks the node how it is and keeps the answer, if `accept` takes it. Whoever asks while a
    /// question is under way shares the next one with all who do.
    ///
    /// Cancel safety: yes; what it knew stays.
    pub(super) async fn refresh(
        &self,
        limit: Duration,
        accept: impl FnOnce(&Report) -> Result<(), NodeError>,
    ) {
        let called = Instant::now();
        let _alone = self.asking.lock().await;
        if self.state.lock().asked.is_some_and(|asked| asked > called) {
            return;
        }
        let began = Instant::now();
        let asked = Budget::within(limit).run("ask a node", async {
            let info = self.api.info().await?;
            // The newer of the two: it is what decides.
            let drain = self.api.drain_status().await?;
            Ok(Report { info, drain })
        });
        let told = match asked.await {
            Ok(told) => told.and_then(|report| accept(&report).map(|()| report)),
            Err(late) => Err(NodeError::Unreachable(late.to_string())),
        };
        let mut state = self.state.lock();
        state.asked = Some(began);
        match told {
            Ok(report) => {
                self.starts.send_replace(report.drain.phase == NodePhase::Starting);
                state.heard(report, began);
                if state.back {
                    self.compared.send_replace(false);
                }
            }
            Err(error) => state.missed(self.id(), &error),
        }
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

impl State {
    fn heard(&mut self, report: Report, began: Instant) {
        let (id, phase) = (&report.info.id, report.drain.phase);
        let before = self.report.as_ref().map(|report| report.drain.phase);
        if before != Some(phase) {
            tracing::info!(node.id = %id, phase = phase.as_str(), "a node is in another phase");
        }
        let instance = |report: &Report| report.drain.service_instance.clone();
        let known = self.report.as_deref().map(instance);
        if self.link != Link::Up || known != Some(instance(&report)) {
            tracing::info!(node.id = %id, "a node answers, or another process in its place");
            self.link = Link::Up;
            self.back = true;
        }
        self.back |= before == Some(NodePhase::Starting) && phase != NodePhase::Starting;
        // A refusal after the question was asked is newer than the answer.
        if self.refusal.as_ref().is_some_and(|(at, _)| *at < began) {
            self.refusal = None;
        }
        self.given = 0;
        self.report = Some(Arc::new(report));
    }

    fn missed(&mut self, id: Option<&NodeId>, error: &NodeError) {
        self.link = match self.link {
            Link::Up => Link::Connecting { since: SystemTime::now(), failures: 1 },
            Link::Connecting { since, failures } if failures + 1 < LOST_AFTER => {
                Link::Connecting { since, failures: failures + 1 }
            }
            Link::Connecting { since, .. } => {
                let id = id.map_or("not known yet", NodeId::as_str);
                let error = observe::chain(error).to_string();
                tracing::warn!(node.id = id, error, "a node does not answer; it is asked on");
                Link::Unreachable { since }
            }
            Link::Unreachable { since } => Link::Unreachable { since },
        };
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
