//! One change of a sandbox at a time: a pause, a start from a pause, or a snapshot. Who wants one
//! while another is under way waits for that one, and looks again.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use lifecycle::Budget;
use model::SandboxId;
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::sleep;

use crate::app::App;
use crate::http::ApiError;
use crate::store::SandboxRow;

/// How long one change is waited for. Below the time of a request.
const WAIT_LIMIT: Duration = Duration::from_secs(60);
/// Changes that are waited for, one after the other.
const ROUNDS: u32 = 3;
/// A client that was told to wait may ask again then.
const RETRY: Duration = Duration::from_secs(1);
/// Between two questions to a node that is changing a sandbox by itself and has said nothing.
const ASK_PAUSE: Duration = Duration::from_millis(500);

/// The changes under way.
#[derive(Debug, Default)]
pub(crate) struct Transitions(Mutex<HashMap<SandboxId, Running>>);

#[derive(Debug)]
struct Running {
    what: What,
    outcome: watch::Receiver<Option<Outcome>>,
}

/// Which change it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum What {
    Pause,
    Resume,
    Snapshot,
}

/// What a change came to.
pub(crate) type Outcome = Result<Turn, ApiError>;

#[derive(Debug, Clone)]
pub(crate) enum Turn {
    /// The row as it is now.
    Done(Box<SandboxRow>),
    /// The record was not what it was read as any more; nothing was done.
    Changed,
}

/// A change under way: one's own, or somebody else's.
#[derive(Debug)]
pub(crate) struct Joined {
    pub(crate) what: What,
    pub(crate) mine: bool,
    outcome: watch::Receiver<Option<Outcome>>,
}

impl Joined {
    /// Cancel safety: yes; the change goes on.
    pub(crate) async fn outcome(mut self) -> Outcome {
        let outcome = self.outcome.wait_for(Option::is_some).await.ok();
        let outcome = outcome.and_then(|outcome| (*outcome).clone());
        outcome.unwrap_or_else(|| Err(ApiError::internal()))
    }
}

impl Transitions {
    pub(crate) fn of(&self, id: &SandboxId) -> Option<Joined> {
        self.0.lock().get(id).map(Running::joined)
    }
}

impl Running {
    fn joined(&self) -> Joined {
        Joined { what: self.what, mine: false, outcome: self.outcome.clone() }
    }
}

impl App {
    /// Begins a change in a task of its own, unless one is under way: then that is the answer, and
    /// `work` is dropped.
    ///
    /// # Errors
    /// 503 when the service closes.
    pub(crate) fn transit<W>(
        self: &Arc<Self>,
        id: &SandboxId,
        what: What,
        work: W,
    ) -> Result<Joined, ApiError>
    where
        W: Future<Output = Outcome> + Send + 'static,
    {
        let mut running = self.transitions.0.lock();
        if let Some(known) = running.get(id) {
            return Ok(known.joined());
        }
        let pass = self.gate.enter().map_err(|_closed| ApiError::closing())?;
        let (tell, outcome) = watch::channel(None);
        running.insert(id.clone(), Running { what, outcome: outcome.clone() });
        drop(running);
        let entry = Entry { app: Arc::clone(self), id: id.clone() };
        self.tasks.spawn(tracing::Span::current(), async move {
            let outcome = work.await;
            // It is over before anybody hears so: who tries again must not join it.
            drop(entry);
            tell.send_replace(Some(outcome));
            drop(pass);
        });
        Ok(Joined { what, mine: true, outcome })
    }
}

/// One entry of [`Transitions`]; dropping it takes it out.
struct Entry {
    app: Arc<App>,
    id: SandboxId,
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.app.transitions.0.lock().remove(&self.id);
    }
}

/// Waiting for a sandbox that changes to be what somebody can use.
#[derive(Debug)]
pub(crate) struct Patience {
    budget: Budget,
    /// Marked as seen before a row is read, so that no change after that is missed.
    turns: watch::Receiver<u64>,
    revision: Option<i64>,
    rounds: u32,
}

impl Patience {
    pub(crate) fn new(app: &App) -> Self {
        let budget = Budget::within(WAIT_LIMIT);
        Self { budget, turns: app.turns.subscribe(), revision: None, rounds: 0 }
    }

    /// To be called before a row is read.
    pub(crate) fn look(&mut self) {
        self.turns.borrow_and_update();
    }

    /// Waits until the change that `row` is in is over, whoever makes it.
    ///
    /// Cancel safety: yes.
    ///
    /// # Errors
    /// 409 when it takes too long, or others follow.
    pub(crate) async fn wait(&mut self, app: &App, row: &SandboxRow) -> Result<(), ApiError> {
        self.count(row)?;
        let changed = self.budget.run("wait for a sandbox", async {
            if let Some(joined) = app.transitions.of(&row.id) {
                // It may be another change by now, which the next look finds.
                drop(joined.outcome().await);
                return;
            }
            // Its node makes it, or an earlier process of this service has begun it.
            let Ok(session) = app.node_of(row) else { return sleep(RETRY).await };
            session.compare_soon();
            tokio::select! {
                _changed = self.turns.changed() => {}
                () = sleep(ASK_PAUSE) => {}
            }
        });
        changed.await.map_err(|_expired| still_transitioning(&row.id))
    }

    /// What was read is known to be out of date: it is read again, and later each time.
    ///
    /// Cancel safety: yes.
    ///
    /// # Errors
    /// 409 when that happens again and again.
    pub(crate) async fn again(&mut self, row: &SandboxRow) -> Result<(), ApiError> {
        self.next_round(row)?;
        if self.rounds > 1 {
            tokio::select! {
                _changed = self.turns.changed() => {}
                () = sleep(ASK_PAUSE) => {}
            }
        }
        Ok(())
    }

    fn count(&mut self, row: &SandboxRow) -> Result<(), ApiError> {
        if self.revision != Some(row.revision) {
            self.revision = Some(row.revision);
            return self.next_round(row);
        }
        Ok(())
    }

    fn next_round(&mut self, row: &SandboxRow) -> Result<(), ApiError> {
        self.rounds += 1;
        if self.rounds > ROUNDS { Err(still_transitioning(&row.id)) } else { Ok(()) }
    }
}

/// What a client is told whose sandbox is on its way to another state for too long.
pub(crate) fn still_transitioning(id: &SandboxId) -> ApiError {
    let message = format!("sandbox {id} is still being paused or started; try again in a moment");
    ApiError::new(http::StatusCode::CONFLICT, message).retry_after(Some(RETRY))
}
