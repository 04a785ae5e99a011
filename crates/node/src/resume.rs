//! The node's answers about pauses: who asks, who joins, and what is there.

use std::sync::Arc;
use std::time::Duration;

use model::admission::Work;
use model::{Keep, Operation, SandboxId, SandboxPhase, SandboxSpec, TemplateId, Verdict};
use node_wire::{
    CreateError, NewSnapshot, NodeEvent, PauseError, PauseOrder, PausedStatus, RemoveError,
    Resumed, Route, SnapshotStatus, Started,
};
use tokio::sync::oneshot;

use crate::admission::Admitted;
use crate::entry::Entry;
use crate::entry::wish::{Began, Wish};
use crate::start::Inner;

impl Inner {
    pub(crate) async fn pause(
        &self,
        id: &SandboxId,
        order: PauseOrder,
    ) -> Result<PausedStatus, PauseError> {
        let Some(entry) = self.registry.get(id) else {
            return Err(match self.backend.sealed_of(id) {
                Some(_) => PauseError::Paused(id.to_string()),
                None => PauseError::NotFound(id.to_string()),
            });
        };
        match entry.phase().may(Operation::Pause) {
            Verdict::Admit => {}
            Verdict::Join => return self.paused_in_the_end(&entry).await,
            Verdict::Done => return Err(PauseError::Paused(id.to_string())),
            Verdict::Busy => return Err(PauseError::Busy(id.to_string())),
            Verdict::NotFound | Verdict::AlreadyExists => {
                return Err(PauseError::NotFound(id.to_string()));
            }
        }
        let (answer, answered) = oneshot::channel();
        if !entry.wish(Wish::Pause { order, answer }) {
            return self.paused_in_the_end(&entry).await;
        }
        match answered.await {
            Ok(Ok(Began::Done(status))) => Ok(*status),
            // Its supervisor has gone, with it or without.
            Ok(Ok(Began::Ending)) | Err(_) => self.paused_in_the_end(&entry).await,
            Ok(Err(error)) => Err(error),
        }
    }

    /// Waits for the end of a pause that somebody has begun.
    ///
    /// Cancel safety: yes.
    async fn paused_in_the_end(&self, entry: &Arc<Entry>) -> Result<PausedStatus, PauseError> {
        let mut state = entry.watch();
        loop {
            let phase = state.borrow_and_update().phase;
            match phase {
                SandboxPhase::Paused => {
                    if let Some(status) = entry.to_paused() {
                        return Ok(status);
                    }
                }
                SandboxPhase::Pausing | SandboxPhase::Stopping | SandboxPhase::TearingDown => {}
                SandboxPhase::Stopped => return self.sealed_run(entry),
                SandboxPhase::Stuck => {
                    return self
                        .sealed_run(entry)
                        .map_err(|_not_yet| PauseError::Busy(entry.id.to_string()));
                }
                _ => return Err(PauseError::Failed("the pause has failed".into())),
            }
            tokio::select! {
                biased;
                changed = state.changed() => if changed.is_err() { return self.sealed_run(entry) },
                () = self.handing.done.cancelled() => {
                    return Err(PauseError::Unreachable("it is being restarted".into()));
                }
            }
        }
    }

    /// What is kept of a run that has gone.
    fn sealed_run(&self, entry: &Entry) -> Result<PausedStatus, PauseError> {
        let sealed = self.backend.sealed_of(&entry.id);
        let sealed = sealed.filter(|record| record.lifecycle == entry.lifecycle.as_str());
        let lost = || {
            let reason = entry.end_reason().map_or("crashed", model::EndReason::as_str);
            PauseError::Lost(reason.to_owned())
        };
        sealed.and_then(|record| record.to_paused(false)).ok_or_else(lost)
    }

    pub(crate) fn paused(&self) -> Vec<PausedStatus> {
        let frozen = self.registry.all();
        let frozen: Vec<PausedStatus> =
            frozen.iter().filter_map(|entry| entry.to_paused()).collect();
        let sealed = self.backend.sealed();
        let mut all: Vec<PausedStatus> =
            sealed.iter().filter_map(|record| record.to_paused(false)).collect();
        all.retain(|status| frozen.iter().all(|frozen| frozen.id != status.id));
        all.extend(frozen);
        all
    }

    /// Lets a paused sandbox go on, by whatever there is of it.
    pub(crate) async fn resume_within(
        self: &Arc<Self>,
        pass: Admitted,
        spec: SandboxSpec,
        keep: Keep,
        limit: Duration,
    ) -> Result<Resumed, CreateError> {
        if let Some(entry) = self.registry.get(&spec.id) {
            match entry.phase().may(Operation::Resume) {
                Verdict::Admit if keep == Keep::Memory => {
                    return self.go_on(&entry, &spec, pass).await;
                }
                Verdict::Admit => self.give_up(&entry).await?,
                Verdict::NotFound => return Err(CreateError::NotPaused(spec.id.to_string())),
                _ => return Err(CreateError::AlreadyExists(spec.id.to_string())),
            }
        }
        let not_paused = || CreateError::NotPaused(spec.id.to_string());
        let from = self.backend.sealed_of(&spec.id).ok_or_else(not_paused)?;
        let started = self.create_from(pass, spec, Some(from), limit).await?;
        Ok(Resumed { started, memory: false })
    }

    /// The machine stands still and goes on.
    async fn go_on(
        &self,
        entry: &Arc<Entry>,
        spec: &SandboxSpec,
        pass: Admitted,
    ) -> Result<Resumed, CreateError> {
        let gone = || CreateError::NotPaused(entry.id.to_string());
        let (answer, answered) = oneshot::channel();
        let (ttl, on_timeout) = (spec.ttl, spec.on_timeout);
        if !entry.wish(Wish::Resume { ttl, on_timeout, answer }) {
            return Err(gone());
        }
        answered.await.map_err(|_gone| gone())??;
        drop(pass);
        let status = entry.status();
        let route = Route {
            sandbox: entry.id.clone(),
            lifecycle: entry.lifecycle.clone(),
            addr: status.addr.ok_or_else(gone)?,
        };
        Ok(Resumed { started: Started { status, route }, memory: true })
    }

    /// Ends the machine of a paused sandbox, and waits until its files are all that is there.
    async fn give_up(&self, entry: &Arc<Entry>) -> Result<(), CreateError> {
        if !entry.wish(Wish::GiveUp) {
            tracing::debug!("its memory is being given up already");
        }
        let mut state = entry.watch();
        loop {
            let phase = state.borrow_and_update().phase;
            match phase {
                SandboxPhase::Stopped => return Ok(()),
                SandboxPhase::Paused | SandboxPhase::Stopping | SandboxPhase::TearingDown => {}
                _ => return Err(CreateError::AlreadyExists(entry.id.to_string())),
            }
            if state.changed().await.is_err() {
                return Ok(());
            }
        }
    }

    pub(crate) async fn snapshot(
        &self,
        id: &SandboxId,
        new: NewSnapshot,
    ) -> Result<SnapshotStatus, PauseError> {
        let not_found = || PauseError::NotFound(id.to_string());
        if let Err(CreateError::DiskFull { free_mib, reserve_mib }) = self.check_disk() {
            return Err(PauseError::DiskFull { free_mib, reserve_mib });
        }
        let entry = self.registry.get(id).ok_or_else(|| match self.backend.sealed_of(id) {
            Some(_) => PauseError::Paused(id.to_string()),
            None => not_found(),
        })?;
        if !matches!(
            model::admission::may(Work::Checkpoint, self.phase()),
            model::admission::Admission::Admit
        ) {
            return Err(PauseError::Unreachable("it takes no new work".into()));
        }
        match entry.phase() {
            SandboxPhase::Paused => return Err(PauseError::Paused(id.to_string())),
            phase => match phase.may(Operation::Checkpoint) {
                Verdict::Admit => {}
                Verdict::Busy => return Err(PauseError::Busy(id.to_string())),
                _ => return Err(not_found()),
            },
        }
        let (template, build) = (new.template.clone(), new.build.clone());
        let (answer, answered) = oneshot::channel();
        if !entry.wish(Wish::Snapshot { new, answer }) {
            return Err(not_found());
        }
        let halted = answered.await.map_err(|_gone| PauseError::Lost("it has ended".into()))??;
        Ok(SnapshotStatus { template, build, halted })
    }

    pub(crate) async fn remove_template(&self, id: &TemplateId) -> Result<(), RemoveError> {
        let (images, template) = (Arc::clone(&self.images), id.clone());
        let removed = tokio::task::spawn_blocking(move || images.remove(&template)).await;
        let removed = removed.map_err(|died| RemoveError::Internal(died.to_string()))?;
        removed.map_err(|error| match error {
            images::RemoveError::Unknown(id) => RemoveError::NotFound(id.to_string()),
            images::RemoveError::Leased(_) | images::RemoveError::Below(_) => {
                RemoveError::InUse(id.to_string())
            }
            images::RemoveError::Io { .. } => {
                RemoveError::Internal(observe::chain(&error).to_string())
            }
        })
    }

    /// Removes what is kept of a paused sandbox that has nothing else. Whether there was something.
    pub(crate) async fn discard_sealed(&self, id: &SandboxId) -> Result<bool, String> {
        let Some(record) = self.backend.sealed_of(id) else { return Ok(false) };
        let budget = lifecycle::Budget::within(self.config.teardown_limit);
        self.backend
            .discard(id, budget)
            .await
            .map_err(|error| format!("files: {}", observe::chain(&error)))?;
        if let Ok(lifecycle) = record.lifecycle.parse() {
            self.announce(NodeEvent::Ended {
                id: id.clone(),
                lifecycle,
                reason: model::EndReason::Request,
                at: std::time::SystemTime::now(),
            });
        }
        Ok(true)
    }
}
