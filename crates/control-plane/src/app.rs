use std::collections::HashMap;
use std::future::Future;
use std::hash::{DefaultHasher, Hash, Hasher as _};
use std::sync::Arc;
use std::time::SystemTime;

use e2b_wire::{CLIENT_ID, Sandbox, Timestamp};
use lifecycle::{Gate, TaskGroup};
use model::{SandboxId, TemplateId};
use node_wire::{Routes, TemplateInfo};
use parking_lot::Mutex;
use tokio::sync::{MutexGuard, Semaphore, oneshot, watch};
use tracing::Span;

use crate::auth::KeyCache;
use crate::config::Config;
use crate::http::{ApiError, Rates};
use crate::kill::{Kills, Pursuits};
use crate::nodes::Nodes;
use crate::store::{SandboxRow, Store};
use crate::transitions::Transitions;

/// How many sandboxes can have their ends moved at one time without waiting for each other.
const END_LOCKS: usize = 64;

/// What every handler and task shares.
#[derive(Debug)]
pub(crate) struct App {
    pub(crate) config: Config,
    pub(crate) store: Store,
    pub(crate) nodes: Nodes,
    pub(crate) routes: Arc<dyn Routes>,
    pub(crate) tasks: TaskGroup,
    /// Changes go in until the control plane closes.
    pub(crate) gate: Gate,
    pub(crate) keys: KeyCache,
    pub(crate) rates: Rates,
    pub(crate) requests: Arc<Semaphore>,
    /// Streams that are open. Their requests are answered, so the bound on those does not count them.
    pub(crate) watchers: Arc<Semaphore>,
    /// The sandboxes this process starts, pauses or lets go on right now: their rows are in good
    /// hands.
    pub(crate) starting: Hands<SandboxId>,
    /// The snapshots it makes right now.
    pub(crate) making: Hands<TemplateId>,
    pub(crate) transitions: Transitions,
    /// Changes whenever something of a node was heard and recorded.
    pub(crate) turns: watch::Sender<u64>,
    pub(crate) kills: Kills,
    pub(crate) pursuits: Pursuits,
    /// What the store's templates were made from, and whether that was all there are.
    pub(crate) synced_templates: Mutex<Option<(Vec<TemplateInfo>, bool)>>,
    end_locks: [tokio::sync::Mutex<()>; END_LOCKS],
}

/// What somebody works on right now.
#[derive(Debug)]
pub(crate) struct Hands<T: Eq + Hash>(Mutex<HashMap<T, usize>>);

/// One of those who work on it.
#[derive(Debug)]
pub(crate) struct InHand<'a, T: Eq + Hash> {
    hands: &'a Hands<T>,
    id: T,
}

/// The wall clock, on the grid the API speaks in.
pub(crate) fn now() -> Timestamp {
    SystemTime::now().into()
}

impl App {
    pub(crate) fn new(config: Config, store: Store, nodes: Nodes, routes: Arc<dyn Routes>) -> Self {
        Self {
            requests: Arc::new(Semaphore::new(config.limits.requests)),
            watchers: Arc::new(Semaphore::new(config.limits.watchers)),
            rates: Rates::new(config.rate),
            config,
            store,
            nodes,
            routes,
            tasks: TaskGroup::default(),
            gate: Gate::default(),
            keys: KeyCache::default(),
            starting: Hands::default(),
            making: Hands::default(),
            transitions: Transitions::default(),
            turns: watch::Sender::new(0),
            kills: Kills::default(),
            pursuits: Pursuits::default(),
            synced_templates: Mutex::default(),
            end_locks: std::array::from_fn(|_| tokio::sync::Mutex::new(())),
        }
    }

    /// Runs `work` in a task of its own and waits for its answer: a client that hangs up loses the
    /// answer, not the work (R21).
    ///
    /// Cancel safety: yes; the work goes on.
    pub(crate) async fn owned<T: Send + 'static>(
        &self,
        span: Span,
        work: impl Future<Output = Result<T, ApiError>> + Send + 'static,
    ) -> Result<T, ApiError> {
        let pass = self.gate.enter().map_err(|_closed| ApiError::closing())?;
        let (answer, answered) = oneshot::channel();
        self.tasks.spawn(span, async move {
            if answer.send(work.await).is_err() {
                tracing::info!("the client left before the answer");
            }
            drop(pass);
        });
        answered.await.map_err(|_task_died| ApiError::internal())?
    }

    /// Waits for whoever else moves the end of this sandbox. Reading the end, deciding on a new
    /// one and telling the node are one step under this lock.
    pub(crate) async fn lock_end(&self, id: &SandboxId) -> MutexGuard<'_, ()> {
        let mut hasher = DefaultHasher::new();
        id.hash(&mut hasher);
        let spread = usize::from(u16::try_from(hasher.finish() & 0xffff).unwrap_or(0));
        self.end_locks[spread % END_LOCKS].lock().await
    }

    /// A sandbox as create and connect answer it.
    pub(crate) fn answer(&self, row: &SandboxRow) -> Sandbox {
        Sandbox {
            template_id: row.shown_template().to_string(),
            sandbox_id: row.id.to_string(),
            client_id: CLIENT_ID.to_owned(),
            envd_version: row.envd_version.clone(),
            alias: row.alias.clone(),
            envd_access_token: self.envd_token(row),
            traffic_access_token: self.traffic_token(row),
            domain: self.config.domain.clone(),
        }
    }

    /// The token of the guest agent, for sandboxes that were made secure.
    pub(crate) fn envd_token(&self, row: &SandboxRow) -> Option<String> {
        row.secure.then(|| self.config.token_seed.envd_token(row.id.as_str()))
    }
}

impl<T: Eq + Hash> Default for Hands<T> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<T: Eq + Hash + Clone> Hands<T> {
    pub(crate) fn enter(&self, id: T) -> InHand<'_, T> {
        *self.0.lock().entry(id.clone()).or_default() += 1;
        InHand { hands: self, id }
    }

    pub(crate) fn has(&self, id: &T) -> bool {
        self.0.lock().contains_key(id)
    }
}

impl<T: Eq + Hash> Drop for InHand<'_, T> {
    fn drop(&mut self) {
        let mut hands = self.hands.0.lock();
        if let Some(count) = hands.get_mut(&self.id) {
            *count -= 1;
            if *count == 0 {
                hands.remove(&self.id);
            }
        }
    }
}
