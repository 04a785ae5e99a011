//! Sandboxes that stand still, and templates made of sandboxes.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use model::{Keep, LifecycleId, SandboxId, SandboxPhase, SandboxSpec, TemplateId};
use node_wire::{
    CreateError, NewSnapshot, NodeEvent, PauseError, PauseOrder, PausedStatus, RemoveError,
    Resumed, Route, SandboxStatus, SnapshotStatus, Started, TemplateInfo,
};
use parking_lot::Mutex;

use super::{FakeNode, moment};

/// How long a sandbox stands still for a snapshot.
pub(crate) const HALTED: Duration = Duration::from_micros(12_345);

#[derive(Debug, Default)]
pub(crate) struct Pauses {
    pub(crate) paused: Mutex<BTreeMap<SandboxId, PausedStatus>>,
    /// The pauses and the resumes, as they were asked for.
    pub(crate) asked: Mutex<Vec<(SandboxId, Keep)>>,
    /// The specs that sandboxes went on with.
    pub(crate) resumes: Mutex<Vec<(SandboxSpec, Duration)>>,
    pub(crate) snapshots: Mutex<Vec<(SandboxId, NewSnapshot)>>,
    /// Whether the host has no memory to spare: files are all that a pause keeps.
    pub(crate) files_only: Mutex<bool>,
    /// Whether guest agents give no sign of life.
    pub(crate) silent: Mutex<bool>,
    /// What the next pause or snapshot fails with.
    pub(crate) fail: Mutex<Option<PauseError>>,
    pub(crate) fail_remove: Mutex<Option<RemoveError>>,
}

impl FakeNode {
    /// Those it came with, and those that were made of sandboxes.
    pub(super) fn templates(&self) -> Vec<TemplateInfo> {
        let snapshots = self.pauses.snapshots.lock();
        let of_sandbox = |(_, new): &(SandboxId, NewSnapshot)| TemplateInfo {
            id: new.template.clone(),
            build: new.build.clone(),
            aliases: Vec::new(),
            snapshot: true,
            ..Self::template()
        };
        [Self::template()].into_iter().chain(snapshots.iter().map(of_sandbox)).collect()
    }

    fn live(&self, id: &SandboxId) -> Result<SandboxStatus, PauseError> {
        if let Some(error) = self.pauses.fail.lock().take() {
            return Err(error);
        }
        if self.pauses.paused.lock().contains_key(id) {
            return Err(PauseError::Paused(id.to_string()));
        }
        let found = self.sandboxes.lock().get(id).cloned();
        found.ok_or_else(|| PauseError::NotFound(id.to_string()))
    }

    pub(super) fn do_pause(
        &self,
        id: &SandboxId,
        order: PauseOrder,
    ) -> Result<PausedStatus, PauseError> {
        let keep = order.keep;
        self.pauses.asked.lock().push((id.clone(), keep));
        let silent = *self.pauses.silent.lock();
        if silent && order.needs_agent() {
            return Err(PauseError::AgentSilent(id.to_string()));
        }
        let live = self.live(id)?;
        let memory = keep == Keep::Memory && !*self.pauses.files_only.lock();
        if memory {
            let mut sandboxes = self.sandboxes.lock();
            sandboxes.get_mut(id).expect("it is live").phase = SandboxPhase::Paused;
        } else {
            self.sandboxes.lock().remove(id);
        }
        let paused = PausedStatus {
            id: id.clone(),
            lifecycle: live.lifecycle.clone(),
            team: live.team,
            template: live.template,
            build: Self::template().build,
            resources: live.resources,
            metadata: live.metadata,
            started_at: live.started_at,
            paused_at: moment(90),
            memory,
            agent_silent: silent && memory,
        };
        let agent_silent = paused.agent_silent;
        self.pauses.paused.lock().insert(id.clone(), paused.clone());
        let (id, lifecycle, at) = (id.clone(), live.lifecycle, moment(90));
        // Perhaps nobody listens.
        drop(self.events.send(NodeEvent::Paused { id, lifecycle, memory, agent_silent, at }));
        Ok(paused)
    }

    pub(super) fn do_resume(
        &self,
        spec: SandboxSpec,
        keep: Keep,
        limit: Duration,
    ) -> Result<Resumed, CreateError> {
        self.pauses.asked.lock().push((spec.id.clone(), keep));
        self.pauses.resumes.lock().push((spec.clone(), limit));
        if let Some(error) = self.fail_create.lock().take() {
            return Err(error);
        }
        self.admit()?;
        let Some(paused) = self.pauses.paused.lock().remove(&spec.id) else {
            return Err(match self.sandboxes.lock().contains_key(&spec.id) {
                true => CreateError::AlreadyExists(spec.id.to_string()),
                false => CreateError::NotPaused(spec.id.to_string()),
            });
        };
        let memory = paused.memory && keep == Keep::Memory;
        let anew: LifecycleId = format!("{}again", paused.lifecycle).parse().unwrap();
        let lifecycle = if memory { paused.lifecycle } else { anew };
        let addr = IpAddr::V4(Ipv4Addr::new(10, 213, 0, 8));
        let status = SandboxStatus {
            id: spec.id.clone(),
            lifecycle: lifecycle.clone(),
            team: paused.team,
            template: paused.template,
            phase: SandboxPhase::Live,
            resources: paused.resources,
            metadata: paused.metadata,
            started_at: paused.started_at,
            ends_at: moment(95) + spec.ttl,
            addr: Some(addr),
            left: Vec::new(),
        };
        self.sandboxes.lock().insert(spec.id.clone(), status.clone());
        let route = Route { sandbox: spec.id, lifecycle, addr };
        Ok(Resumed { started: Started { status, route }, memory })
    }

    pub(super) fn do_snapshot(
        &self,
        id: &SandboxId,
        new: NewSnapshot,
    ) -> Result<SnapshotStatus, PauseError> {
        self.live(id)?;
        self.pauses.snapshots.lock().push((id.clone(), new.clone()));
        Ok(SnapshotStatus { template: new.template, build: new.build, halted: HALTED })
    }

    pub(super) fn do_remove_template(&self, id: &TemplateId) -> Result<(), RemoveError> {
        if let Some(error) = self.pauses.fail_remove.lock().take() {
            return Err(error);
        }
        let mut snapshots = self.pauses.snapshots.lock();
        let before = snapshots.len();
        snapshots.retain(|(_, new)| new.template != *id);
        let removed = snapshots.len() < before;
        removed.then_some(()).ok_or_else(|| RemoveError::NotFound(id.to_string()))
    }
}
