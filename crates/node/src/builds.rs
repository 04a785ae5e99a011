//! Template builds: work of their own, that a drain sees, waits for and cancels.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use images::base;
use lifecycle::Budget;
use model::BuildId;
use model::admission::Work;
use node_wire::{Blocker, BuildError, BuildRequest, BuildState, BuildStatus, Class};
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::admission::Admitted;
use crate::api::Refused;
use crate::pulse::Pulse;
use crate::start::Inner;

/// Builds at a time: one uses the whole machine.
const MAX_RUNNING: u32 = 2;
/// Builds that have ended and are still told of.
const MAX_ENDED: usize = 100;
/// The longest a build may take.
const BUILD_LIMIT: Duration = Duration::from_secs(30 * 60);
/// The first step of every build.
const WAITING: &str = "waiting to begin";
/// The reason a user sees for a build that was cancelled.
const CANCELLED: &str = "build was cancelled";

/// Every build the node knows.
#[derive(Debug)]
pub(crate) struct Builds {
    pulse: Pulse,
    builds: Mutex<BTreeMap<BuildId, Arc<Build>>>,
}

#[derive(Debug)]
struct Build {
    request: BuildRequest,
    began: Instant,
    started_at: SystemTime,
    cancel: CancellationToken,
    state: watch::Sender<Progress>,
}

#[derive(Debug, Clone)]
struct Progress {
    state: BuildState,
    ended_at: Option<SystemTime>,
    step: &'static str,
    /// Whether somebody has been told how it ended.
    told: bool,
}

impl Build {
    fn is_running(&self) -> bool {
        self.state.borrow().state == BuildState::Building
    }

    fn status(&self) -> BuildStatus {
        let progress = self.state.borrow().clone();
        BuildStatus {
            request: self.request.clone(),
            state: progress.state,
            started_at: self.started_at,
            ended_at: progress.ended_at,
            step: progress.step.to_owned(),
        }
    }
}

impl Builds {
    pub(crate) fn new(pulse: Pulse) -> Self {
        Self { pulse, builds: Mutex::default() }
    }

    fn reserve(&self, request: BuildRequest) -> Result<Arc<Build>, BuildError> {
        let mut builds = self.builds.lock();
        if builds.contains_key(&request.build) {
            return Err(BuildError::AlreadyExists(request.build));
        }
        let running = builds.values().filter(|build| build.is_running()).count();
        if running >= usize::try_from(MAX_RUNNING).unwrap_or(1) {
            return Err(BuildError::TooMany { limit: MAX_RUNNING });
        }
        let progress =
            Progress { state: BuildState::Building, ended_at: None, step: WAITING, told: false };
        let build = Arc::new(Build {
            request,
            began: Instant::now(),
            started_at: SystemTime::now(),
            cancel: CancellationToken::new(),
            state: watch::Sender::new(progress),
        });
        builds.insert(build.request.build.clone(), Arc::clone(&build));
        drop(builds);
        self.pulse.beat();
        Ok(build)
    }

    fn get(&self, id: &BuildId) -> Result<Arc<Build>, BuildError> {
        self.builds.lock().get(id).cloned().ok_or_else(|| BuildError::NotFound(id.clone()))
    }

    /// Sets how a build ended, and lets go of the oldest that ended before.
    fn end(&self, build: &Build, state: BuildState) {
        build.state.send_modify(|progress| {
            progress.state = state;
            progress.ended_at = Some(SystemTime::now());
        });
        let mut builds = self.builds.lock();
        let ended = builds.values().filter(|build| !build.is_running());
        let mut ended: Vec<_> =
            ended.map(|build| (build.started_at, build.request.build.clone())).collect();
        ended.sort();
        let surplus = ended.len().saturating_sub(MAX_ENDED);
        for (_, id) in ended.into_iter().take(surplus) {
            builds.remove(&id);
        }
        drop(builds);
        self.pulse.beat();
    }

    pub(crate) fn running(&self) -> usize {
        self.builds.lock().values().filter(|build| build.is_running()).count()
    }

    /// Whether nobody has been told yet how a build ended that ended after `since`.
    pub(crate) fn is_untold(&self, since: SystemTime) -> bool {
        self.builds.lock().values().any(|build| {
            let progress = build.state.borrow();
            !progress.told && progress.ended_at.is_some_and(|at| at >= since)
        })
    }

    pub(crate) fn running_ids(&self) -> Vec<BuildId> {
        let builds = self.builds.lock();
        builds.values().filter(|b| b.is_running()).map(|b| b.request.build.clone()).collect()
    }

    /// Asks every build that runs to end, and says which.
    pub(crate) fn cancel_all(&self) -> Vec<BuildId> {
        let builds = self.builds.lock();
        let running = builds.values().filter(|build| build.is_running());
        running
            .map(|build| {
                build.cancel.cancel();
                build.request.build.clone()
            })
            .collect()
    }

    pub(crate) fn all(&self) -> Vec<BuildStatus> {
        self.builds.lock().values().map(|build| build.status()).collect()
    }

    pub(crate) fn blockers(&self) -> Vec<Blocker> {
        let builds = self.builds.lock();
        let running = builds.values().filter(|build| build.is_running());
        running
            .map(|build| Blocker {
                class: Class::Build,
                id: build.request.build.to_string(),
                state: build.state.borrow().step.to_owned(),
                age: build.began.elapsed(),
                ends_at: None,
                last_error: None,
            })
            .collect()
    }
}

impl Inner {
    /// Starts a build as a task of the node.
    pub(crate) fn start_build(self: &Arc<Self>, request: BuildRequest) -> Result<(), BuildError> {
        let pass = self.enter(Work::Build).map_err(|refused| match refused {
            Refused::Starting => BuildError::Starting,
            Refused::Draining => BuildError::Draining,
        })?;
        self.build_within(pass, request)
    }

    /// Starts the build of whoever was let in.
    pub(crate) fn build_within(
        self: &Arc<Self>,
        pass: Admitted,
        request: BuildRequest,
    ) -> Result<(), BuildError> {
        if request.alias != base::ALIAS {
            return Err(BuildError::Unsupported(request.alias));
        }
        let build = self.builds.reserve(request)?;
        let span = tracing::info_span!("build", build.id = %build.request.build);
        self.tasks.spawn(span, run(Arc::clone(self), build, pass));
        Ok(())
    }

    pub(crate) fn build_status(&self, id: &BuildId) -> Result<BuildStatus, BuildError> {
        let build = self.builds.get(id)?;
        let status = build.status();
        if status.state != BuildState::Building {
            build.state.send_modify(|progress| progress.told = true);
            self.pulse.beat();
        }
        Ok(status)
    }

    /// Cancels a build, waits until its task is over, and forgets it with what it made.
    pub(crate) async fn delete_build(&self, id: &BuildId) -> Result<(), BuildError> {
        let build = self.builds.get(id)?;
        build.cancel.cancel();
        let mut state = build.state.subscribe();
        // The sender is in `build`: it cannot be gone.
        let ended = state.wait_for(|progress| progress.state != BuildState::Building).await;
        drop(ended);
        self.builds.builds.lock().remove(id);
        self.pulse.beat();
        Ok(())
    }
}

async fn run(inner: Arc<Inner>, build: Arc<Build>, pass: Admitted) {
    // In the list of builds: counted from here on as what it is.
    drop(pass);
    tracing::info!(alias = build.request.alias, "build started");
    let told = Arc::clone(&build);
    let progress = move |what| told.state.send_modify(|progress| progress.step = what);
    let budget = Budget::within(BUILD_LIMIT);
    let state = match inner.backend.build(&progress, &build.cancel, budget).await {
        Ok(()) => BuildState::Completed,
        Err(base::BuildError::Cancelled) => BuildState::Failed(CANCELLED.into()),
        Err(error) => {
            tracing::warn!(error = %observe::chain(&error), "build failed");
            BuildState::Failed(error.to_string())
        }
    };
    tracing::info!(?state, "build ended");
    inner.builds.end(&build, state);
}
