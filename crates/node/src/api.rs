use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use futures::stream::BoxStream;
use lifecycle::Budget;
use machine::Stop;
use model::admission::{self, Work};
use model::{
    BuildId, Egress, EndReason, Keep, LifecycleId, NodePhase, NodeRequest, SandboxId, SandboxPhase,
    SandboxSpec, TemplateId,
};
use node_wire::{
    AdoptReport, BuildError, BuildRequest, BuildStatus, CreateError, DrainStatus, Ending,
    Enforcement, Expected, Explanation, Journal, JournalMark, Leaks, NewSnapshot, NodeApi,
    NodeError, NodeEvent, NodeInfo, PauseError, PauseOrder, PausedStatus, RemoveError, Resumed,
    Sample, SandboxStatus, SnapshotStatus, Started, StatusError, TemplateInfo,
};
use rand::Rng;
use tokio::sync::{broadcast, oneshot};

use crate::admission::Admitted;
use crate::entry::Identity;
use crate::leave::handed_over;
use crate::ledger::Record;
use crate::processor::processor;
use crate::provision::Order;
use crate::start::{Inner, Node};
use crate::supervise::{Admission, supervise};

impl Inner {
    /// Refuses work that the disk could not take.
    pub(crate) fn check_disk(&self) -> Result<(), CreateError> {
        let full = self.backend.disk().is_some_and(|disk| {
            disk.free_bytes / MIB < self.config.disk_reserve_mib || !disk.has_inodes
        });
        if !full {
            return Ok(());
        }
        self.room_wanted.notify_one();
        Err(self.disk_full())
    }

    pub(crate) fn disk_full(&self) -> CreateError {
        let free_mib = self.backend.disk().map_or(0, |disk| disk.free_bytes / MIB);
        CreateError::DiskFull { free_mib, reserve_mib: self.config.disk_reserve_mib }
    }

    pub(crate) fn announce(&self, event: NodeEvent) {
        // Nobody listening is a node without a control plane: it enforces ends all the same.
        if self.events.send(event).is_err() {
            tracing::debug!("no one listens to this node's events");
        }
    }

    /// Lets new work in, or not. The gate decides; a node that starts has not opened its own yet.
    pub(crate) fn enter(&self, work: Work) -> Result<Admitted, Refused> {
        let refused = || match self.phase() {
            NodePhase::Starting => Refused::Starting,
            // The next daemon takes it.
            phase if !phase.is_draining() && self.handing.begun.is_cancelled() => Refused::Starting,
            _ => Refused::Draining,
        };
        let pass = self.gate.enter().map_err(|_closed| refused())?;
        match admission::may(work, self.phase()) {
            admission::Admission::Admit => Ok(Admitted::new(pass, self.pulse.clone())),
            admission::Admission::Join | admission::Admission::Refuse => Err(refused()),
        }
    }

    /// Everything from the gate up to the first acquisition: what can be refused is refused here.
    fn admit(
        &self,
        pass: Admitted,
        spec: SandboxSpec,
        from: Option<Record>,
        limit: Duration,
        answer: oneshot::Sender<Result<Started, CreateError>>,
    ) -> Result<(Order, Admission), CreateError> {
        self.check_disk()?;
        let unknown = || CreateError::UnknownTemplate(spec.template.to_string());
        let template = match from.as_ref().map(|from| BuildId::parse(&from.build)) {
            Some(build) => build.ok().and_then(|build| self.images.build(&build)),
            None if self.backend.sealed_of(&spec.id).is_some() => {
                return Err(CreateError::AlreadyExists(spec.id.to_string()));
            }
            None => self.images.get(&spec.template),
        };
        let template = template.ok_or_else(unknown)?;
        // One that was paused has what it had.
        let kept = from.as_ref().and_then(Record::identity).map(|had| had.resources);
        let too_many = |_busy| CreateError::TooManyStarting { limit: self.config.max_starting };
        let starting = Arc::clone(&self.starting).try_acquire_owned().map_err(too_many)?;
        let identity = Identity {
            id: spec.id.clone(),
            lifecycle: new_lifecycle_id()?,
            team: spec.team.clone(),
            template: spec.template.clone(),
            build: template.build.clone(),
            resources: spec.resources.or(kept).unwrap_or(template.content.resources),
            metadata: spec.metadata.clone(),
        };
        let entry = self.registry.reserve(identity, spec.ttl)?;
        // Between the look and the entry it may have run, and ended.
        if from.is_some() && self.backend.sealed_of(&spec.id) != from {
            self.registry.remove(&entry, |_| {});
            return Err(CreateError::NotPaused(spec.id.to_string()));
        }
        entry.set_kept(from.is_some());
        let stop = Stop { budget: Budget::within(limit), cancelled: entry.ended().clone() };
        Ok((
            Order { entry, spec, template, from, stop },
            Admission { pass, starting, limit, answer },
        ))
    }

    /// Makes the sandbox of whoever was let in, as a task of its own.
    ///
    /// Cancel safety: a dropped call loses the answer.
    pub(crate) async fn create_within(
        self: &Arc<Self>,
        pass: Admitted,
        spec: SandboxSpec,
        limit: Duration,
    ) -> Result<Started, CreateError> {
        self.create_from(pass, spec, None, limit).await
    }

    /// As [`Inner::create_within`], with the files of a paused sandbox if there is one.
    pub(crate) async fn create_from(
        self: &Arc<Self>,
        pass: Admitted,
        spec: SandboxSpec,
        from: Option<Record>,
        limit: Duration,
    ) -> Result<Started, CreateError> {
        let (answer, answered) = oneshot::channel();
        let (order, admission) = self.admit(pass, spec, from, limit, answer)?;
        let span = order.entry.span();
        self.tasks.spawn(span, supervise(Arc::clone(self), order, admission));
        answered.await.unwrap_or(Err(CreateError::Cancelled))
    }
}

/// Why new work was not let in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refused {
    Starting,
    Draining,
}

fn not_let_in(refused: Refused) -> CreateError {
    match refused {
        Refused::Starting => CreateError::Starting,
        Refused::Draining => CreateError::Draining,
    }
}

const MIB: u64 = 1024 * 1024;
const CENSUS_LIMIT: Duration = Duration::from_secs(30);

/// `l` and 20 characters of `[a-z0-9]`: never used twice.
pub(crate) fn new_lifecycle_id() -> Result<LifecycleId, CreateError> {
    const ALPHABET: &[u8; 36] = b"abcdefghijklmnopqrstuvwxyz0123456789";
    let mut rng = rand::rng();
    let mut text = String::from("l");
    for _ in 0..20 {
        let at = rng.random_range(0..ALPHABET.len());
        text.extend(ALPHABET.get(at).map(|byte| char::from(*byte)));
    }
    LifecycleId::parse(&text).map_err(|error| CreateError::Invalid(error.to_string()))
}

#[async_trait]
impl NodeApi for Node {
    async fn info(&self) -> Result<NodeInfo, NodeError> {
        let inner = &self.inner;
        let entries = inner.registry.all();
        let count = |wanted: &[SandboxPhase]| {
            let found = entries.iter().filter(|e| wanted.contains(&e.phase())).count();
            u32::try_from(found).unwrap_or(u32::MAX)
        };
        let enforcement = inner.backend.support().into_iter();
        let templates = inner.images.templates();
        Ok(NodeInfo {
            id: inner.id.clone(),
            phase: inner.phase(),
            version: inner.config.version.clone(),
            driver: inner.backend.driver().into(),
            sandboxes: count(&[SandboxPhase::Live]),
            starting: count(&[SandboxPhase::Reserved, SandboxPhase::Booting]),
            stuck: count(&[SandboxPhase::Stuck]),
            slots: u32::try_from(inner.backend.ready_slots()).unwrap_or(u32::MAX),
            processor: processor(),
            metrics: inner.node_metrics(),
            enforcement: enforcement
                .map(|s| Enforcement { what: s.what, enforced: s.enforced, detail: s.detail })
                .collect(),
            templates: templates
                .into_iter()
                .map(|t| TemplateInfo {
                    id: t.id.clone(),
                    build: t.build.clone(),
                    aliases: t.content.aliases.clone(),
                    resources: t.content.resources,
                    envd_version: guest_wire::ENVD_VERSION.into(),
                    created_at: t.created_at,
                    snapshot: t.origin != images::Origin::Built,
                })
                .collect(),
        })
    }

    async fn create(&self, spec: SandboxSpec, limit: Duration) -> Result<Started, CreateError> {
        let pass = self.inner.enter(Work::Start).map_err(not_let_in)?;
        self.inner.create_within(pass, spec, limit).await
    }

    async fn kill(&self, id: &SandboxId, reason: EndReason) -> Result<(), NodeError> {
        let not_found = || NodeError::NotFound(id.to_string());
        let stuck = |left| NodeError::Stuck { id: id.to_string(), left };
        let Some(entry) = self.inner.registry.get(id) else {
            let was = self.inner.discard_sealed(id).await.map_err(stuck)?;
            return was.then_some(()).ok_or_else(not_found);
        };
        let mut state = entry.watch();
        let rounds = state.borrow_and_update().rounds;
        entry.discard(reason);
        loop {
            let now = state.borrow_and_update().clone();
            match now.phase {
                // Its files may have been kept before anybody wanted it gone.
                SandboxPhase::Stopped => {
                    return self.inner.discard_sealed(id).await.map(drop).map_err(stuck);
                }
                // Only what a round after this call has found counts.
                SandboxPhase::Stuck if now.rounds > rounds => {
                    return Err(stuck(now.left.join("; ")));
                }
                _ => {}
            }
            tokio::select! {
                biased;
                changed = state.changed() => if changed.is_err() { return Ok(()) },
                () = self.inner.handing.done.cancelled() => return Err(handed_over()),
            }
        }
    }

    async fn pause_by(
        &self,
        id: &SandboxId,
        order: PauseOrder,
    ) -> Result<PausedStatus, PauseError> {
        self.inner.pause(id, order).await
    }

    async fn resume(
        &self,
        spec: SandboxSpec,
        keep: Keep,
        limit: Duration,
    ) -> Result<Resumed, CreateError> {
        let pass = self.inner.enter(Work::Start).map_err(not_let_in)?;
        self.inner.resume_within(pass, spec, keep, limit).await
    }

    async fn paused(&self) -> Result<Vec<PausedStatus>, NodeError> {
        Ok(self.inner.paused())
    }

    async fn snapshot(
        &self,
        id: &SandboxId,
        new: NewSnapshot,
    ) -> Result<SnapshotStatus, PauseError> {
        self.inner.snapshot(id, new).await
    }

    async fn remove_template(&self, id: &TemplateId) -> Result<(), RemoveError> {
        self.inner.remove_template(id).await
    }

    async fn set_end(&self, id: &SandboxId, ends_at: SystemTime) -> Result<(), NodeError> {
        let not_found = || NodeError::NotFound(id.to_string());
        let entry = self.inner.registry.get(id).ok_or_else(not_found)?;
        let gone = || match self.inner.handing.over.is_cancelled() {
            true => handed_over(),
            false => not_found(),
        };
        let moved = entry.ask_end(ends_at).ok_or_else(gone)?.await;
        // Its supervisor has gone without an answer.
        moved.map_err(|_gone| gone())?.map_err(NodeError::Internal)?;
        self.inner.announce(NodeEvent::EndMoved {
            id: id.clone(),
            lifecycle: entry.lifecycle.clone(),
            ends_at,
        });
        Ok(())
    }

    async fn set_egress(&self, id: &SandboxId, egress: Egress) -> Result<(), NodeError> {
        let not_found = || NodeError::NotFound(id.to_string());
        let entry = self.inner.registry.get(id).filter(|e| e.phase() == SandboxPhase::Live);
        let entry = entry.ok_or_else(not_found)?;
        let failed = |error: String| {
            tracing::warn!(sandbox.id = %id, error, "rules for connections could not be set");
            NodeError::Internal(error)
        };
        let backend = Arc::clone(&self.inner.backend);
        let runtime = tokio::runtime::Handle::current();
        // Whoever hangs up does not leave half of them.
        let set = move || runtime.block_on(backend.restrict(&entry.lifecycle, &egress));
        let set = tokio::task::spawn_blocking(set).await;
        let set = set.map_err(|died| failed(died.to_string()))?;
        let runs = set.map_err(|error| failed(observe::chain(&error).to_string()))?;
        runs.then_some(()).ok_or_else(not_found)
    }

    async fn list(&self) -> Result<Vec<SandboxStatus>, NodeError> {
        Ok(self.inner.registry.all().iter().map(|entry| entry.status()).collect())
    }

    async fn ended(&self, ids: &[SandboxId]) -> Result<Vec<Ending>, NodeError> {
        self.inner.endings(ids).await
    }

    async fn explain(
        &self,
        id: &SandboxId,
        lifecycle: Option<&LifecycleId>,
    ) -> Result<Option<Explanation>, NodeError> {
        self.inner.explanation(id, lifecycle).await
    }

    async fn adopt_report(&self) -> Result<Option<AdoptReport>, NodeError> {
        Ok(self.inner.adopted.lock().clone())
    }

    async fn samples(&self, id: &SandboxId) -> Result<Vec<Sample>, NodeError> {
        Arc::clone(&self.inner).samples(id).await
    }

    async fn journal(
        &self,
        id: &SandboxId,
        mark: &JournalMark,
    ) -> Result<Option<Journal>, NodeError> {
        self.inner.journal(id, mark).await
    }

    fn events(&self) -> broadcast::Receiver<NodeEvent> {
        self.inner.events.subscribe()
    }

    async fn request_if(
        &self,
        request: NodeRequest,
        expected: Expected,
    ) -> Result<(), StatusError> {
        // The attempt goes on without its asker, who can watch the drain.
        self.inner.apply(request, &expected).map(drop)
    }

    async fn drain_status(&self) -> Result<DrainStatus, NodeError> {
        Ok(self.inner.drain_document())
    }

    async fn drain_updates(&self) -> Result<BoxStream<'static, DrainStatus>, NodeError> {
        Ok(self.inner.drain_stream())
    }

    async fn leaks(&self) -> Result<Leaks, NodeError> {
        let failed = |error| NodeError::Internal(observe::chain(&error).to_string());
        let before = self.inner.lifecycles();
        let items = self.census(Budget::within(CENSUS_LIMIT)).await.map_err(failed)?;
        Ok(self.inner.sort_out(items, &before))
    }

    async fn build(&self, request: BuildRequest) -> Result<(), BuildError> {
        self.inner.start_build(request)
    }

    async fn build_status(&self, id: &BuildId) -> Result<BuildStatus, BuildError> {
        self.inner.build_status(id)
    }

    async fn build_delete(&self, id: &BuildId) -> Result<(), BuildError> {
        self.inner.delete_build(id).await
    }

    async fn builds(&self) -> Result<Vec<BuildStatus>, NodeError> {
        Ok(self.inner.builds.all())
    }
}
