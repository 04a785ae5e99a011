//! Pauses, starts from pauses, and snapshots of a node that keeps everything in maps.

use std::time::{Duration, SystemTime};

use model::{
    BuildId, EndReason, Keep, LifecycleId, SandboxId, SandboxPhase, SandboxSpec, TemplateId,
};
use node_wire::{
    CreateError, Ending, NewSnapshot, NodeEvent, PauseError, PauseOrder, PausedStatus, RemoveError,
    Resumed, Route, SandboxStatus, SnapshotStatus, Started, TemplateInfo,
};

use super::{ADDR, FakeNode, Fault, RESOURCES};

/// The build of what was not made of a snapshot.
const BUILD: &str = "11111111-2222-4333-8444-555555555555";

impl FakeNode {
    pub(crate) fn fail_next_pause(&self, error: PauseError) {
        self.state.lock().fail_pause = Some(error);
    }

    pub(crate) fn fail_next_resume(&self, error: CreateError) {
        self.state.lock().fail_resume = Some(error);
    }

    /// Whether guest agents give no sign of life.
    pub(crate) fn silence_agents(&self, silent: bool) {
        self.state.lock().silent = silent;
    }

    pub(crate) fn hold_pauses(&self, hold: bool) {
        self.hold_pauses.send_replace(hold);
    }

    pub(crate) fn hold_snapshots(&self, hold: bool) {
        self.hold_snapshots.send_replace(hold);
    }

    pub(crate) fn hold_resumes(&self, hold: bool) {
        self.hold_resumes.send_replace(hold);
    }

    /// Lets it go on without a word.
    pub(crate) fn resume_unheard(&self, id: &SandboxId) {
        let mut state = self.state.lock();
        state.paused.remove(id).unwrap();
        let status = state.sandboxes.get_mut(id).unwrap();
        status.phase = SandboxPhase::Live;
        status.ends_at = SystemTime::now() + Duration::from_secs(60);
    }

    /// Its files will be kept, and what ran of it is being released still, as `phase` says.
    pub(crate) fn seal_slowly(&self, id: &SandboxId, phase: SandboxPhase) {
        let mut state = self.state.lock();
        state.paused.remove(id);
        let status = state.sandboxes.get_mut(id).unwrap();
        status.phase = phase;
        let ending = Ending {
            id: id.clone(),
            lifecycle: status.lifecycle.clone(),
            reason: EndReason::Paused,
            at: SystemTime::now(),
            detail: String::new(),
        };
        state.endings.push(ending);
    }

    /// What ran of it is released: it has nothing but its files.
    pub(crate) fn seal(&self, id: &SandboxId) {
        let mut state = self.state.lock();
        let status = state.sandboxes.remove(id).unwrap();
        state.paused.insert(id.clone(), paused_of(&status, false));
    }

    /// Starts one of which only the files were kept, without a word.
    pub(crate) fn start_unheard(&self, id: &SandboxId) {
        let paused = self.state.lock().paused.remove(id).unwrap();
        self.plant(|status| {
            status.id = paused.id;
            status.team = paused.team;
            status.template = paused.template;
        });
    }

    /// Does not know of it, as before it has looked.
    pub(crate) fn hide_paused(&self, id: &SandboxId) -> (SandboxStatus, PausedStatus) {
        let mut state = self.state.lock();
        (state.sandboxes.remove(id).unwrap(), state.paused.remove(id).unwrap())
    }

    /// Has it paused.
    pub(crate) fn keep(&self, paused: PausedStatus) {
        self.state.lock().paused.insert(paused.id.clone(), paused);
    }

    pub(crate) fn show_paused(&self, (status, paused): (SandboxStatus, PausedStatus)) {
        let mut state = self.state.lock();
        state.sandboxes.insert(status.id.clone(), status);
        state.paused.insert(paused.id.clone(), paused);
    }

    /// How often each was asked for.
    pub(crate) fn asked_for(&self) -> (u32, u32, u32) {
        let state = self.state.lock();
        (state.pauses, state.resumes, state.snapshots)
    }

    pub(crate) fn last_keep(&self) -> Option<Keep> {
        self.state.lock().last_keep
    }

    /// Templates that were made of sandboxes.
    pub(crate) fn snapshots(&self) -> usize {
        let state = self.state.lock();
        state.templates.iter().filter(|template| template.snapshot).count()
    }

    /// Somebody has removed them on its host.
    pub(crate) fn forget_snapshots(&self) {
        self.state.lock().templates.retain(|template| !template.snapshot);
    }

    /// Its time is over: as one that is asked to, and nobody asked.
    pub(crate) async fn pause_by_itself(&self, id: &SandboxId, keep: Keep) {
        self.pause_it(id, keep.into()).await.unwrap();
    }

    /// The same without a word, as while nobody listens.
    pub(crate) fn pause_unheard(&self, id: &SandboxId, memory: bool) -> PausedStatus {
        let mut state = self.state.lock();
        let status = state.sandboxes.get_mut(id).unwrap();
        status.phase = SandboxPhase::Paused;
        let paused = paused_of(status, memory);
        if !memory {
            state.sandboxes.remove(id);
        }
        state.paused.insert(id.clone(), paused.clone());
        paused
    }

    /// The same in the midst of the next question after what it has.
    pub(crate) fn pause_behind_the_list(&self, id: &SandboxId) {
        self.state.lock().paused_behind = Some(id.clone());
    }

    /// What ran of a paused one is lost, as with a restart of its host.
    pub(crate) fn lose_memory(&self, id: &SandboxId, tell: bool) {
        let (lifecycle, at) = {
            let mut state = self.state.lock();
            state.sandboxes.remove(id);
            let paused = state.paused.get_mut(id).unwrap();
            (paused.memory, paused.agent_silent) = (false, false);
            (paused.lifecycle.clone(), SystemTime::now())
        };
        if tell {
            let (id, memory, agent_silent) = (id.clone(), false, false);
            self.tell(NodeEvent::Paused { id, lifecycle, memory, agent_silent, at });
        }
    }

    pub(super) async fn pause_it(
        &self,
        id: &SandboxId,
        order: PauseOrder,
    ) -> Result<PausedStatus, PauseError> {
        self.reach().map_err(PauseError::Unreachable)?;
        // Asked while it still runs; one that is silent is waited for.
        let waits = order.needs_agent() && self.state.lock().silent;
        if waits {
            self.until_pauses_go_on().await;
        }
        let (lifecycle, ends_at) = {
            let mut state = self.state.lock();
            state.pauses += 1;
            state.last_keep = Some(order.keep);
            if state.paused.contains_key(id) {
                return Err(PauseError::Paused(id.to_string()));
            }
            if let Some(error) = state.fail_pause.take() {
                if matches!(error, PauseError::Lost(_)) {
                    state.sandboxes.remove(id);
                }
                return Err(error);
            }
            let silent = state.silent;
            let Some(status) = state.sandboxes.get_mut(id) else {
                return Err(PauseError::NotFound(id.to_string()));
            };
            match status.phase {
                SandboxPhase::Live if silent && order.needs_agent() => {
                    return Err(PauseError::AgentSilent(id.to_string()));
                }
                SandboxPhase::Live => status.phase = SandboxPhase::Pausing,
                SandboxPhase::Pausing | SandboxPhase::Checkpointing => {
                    return Err(PauseError::Busy(id.to_string()));
                }
                _ => return Err(PauseError::NotFound(id.to_string())),
            }
            (status.lifecycle.clone(), status.ends_at)
        };
        let at = SystemTime::now();
        self.tell(NodeEvent::Pausing { id: id.clone(), lifecycle: lifecycle.clone(), at });
        self.until_pauses_go_on().await;
        let paused = {
            let mut state = self.state.lock();
            let draining = state.phase.is_draining();
            let status = state.sandboxes.get_mut(id);
            let Some(status) = status.filter(|status| status.lifecycle == lifecycle) else {
                return Err(PauseError::Lost("it was killed".to_owned()));
            };
            assert_eq!(status.ends_at, ends_at, "nobody moves the end of what stands still");
            let memory = order.keep == Keep::Memory && !draining;
            status.phase = SandboxPhase::Paused;
            let mut paused = paused_of(status, memory);
            paused.agent_silent = memory && state.silent;
            if !memory {
                state.sandboxes.remove(id);
            }
            state.paused.insert(id.clone(), paused.clone());
            paused
        };
        let (memory, agent_silent, at) = (paused.memory, paused.agent_silent, paused.paused_at);
        if !memory {
            let reason = EndReason::Paused;
            let (id, lifecycle) = (id.clone(), lifecycle.clone());
            self.tell(NodeEvent::Ended { id, lifecycle, reason, at });
        }
        self.tell(NodeEvent::Paused { id: id.clone(), lifecycle, memory, agent_silent, at });
        self.answered().map_err(PauseError::Unreachable)?;
        Ok(paused)
    }

    async fn until_pauses_go_on(&self) {
        self.held_pauses.send_modify(|held| *held += 1);
        self.hold_pauses.subscribe().wait_for(|hold| !hold).await.unwrap();
    }

    pub(super) async fn resume_it(
        &self,
        spec: SandboxSpec,
        keep: Keep,
    ) -> Result<Resumed, CreateError> {
        self.reach().map_err(CreateError::Unreachable)?;
        {
            let mut state = self.state.lock();
            state.resumes += 1;
            state.last_keep = Some(keep);
            if !state.paused.contains_key(&spec.id) {
                return Err(if state.sandboxes.contains_key(&spec.id) {
                    CreateError::AlreadyExists(spec.id.to_string())
                } else {
                    CreateError::NotPaused(spec.id.to_string())
                });
            }
            if state.phase.is_draining() {
                return Err(CreateError::Draining);
            }
            if let Some(error) = state.fail_resume.take() {
                return Err(error);
            }
        }
        self.held_resumes.send_modify(|held| *held += 1);
        self.hold_resumes.subscribe().wait_for(|hold| !hold).await.unwrap();
        let resumed = {
            let mut state = self.state.lock();
            let Some(paused) = state.paused.remove(&spec.id) else {
                return Err(CreateError::Cancelled);
            };
            let memory = paused.memory && keep == Keep::Memory;
            let lifecycle = if memory {
                paused.lifecycle
            } else {
                state.runs += 1;
                LifecycleId::parse(&format!("run{}", state.runs)).unwrap()
            };
            let status = SandboxStatus {
                id: spec.id.clone(),
                lifecycle: lifecycle.clone(),
                team: paused.team,
                template: paused.template,
                phase: SandboxPhase::Live,
                resources: paused.resources,
                metadata: paused.metadata,
                started_at: if memory { paused.started_at } else { SystemTime::now() },
                ends_at: SystemTime::now() + spec.ttl,
                addr: Some(ADDR),
                left: Vec::new(),
            };
            state.sandboxes.insert(spec.id.clone(), status.clone());
            let route = Route { sandbox: spec.id.clone(), lifecycle, addr: ADDR };
            state.specs.push(spec);
            Resumed { started: Started { status, route }, memory }
        };
        self.changed();
        self.resumed.send_modify(|resumed| *resumed += 1);
        self.hold_answers.subscribe().wait_for(|hold| !hold).await.unwrap();
        self.answered().map_err(CreateError::Unreachable)?;
        Ok(resumed)
    }

    pub(super) async fn snapshot_it(
        &self,
        id: &SandboxId,
        new: NewSnapshot,
    ) -> Result<SnapshotStatus, PauseError> {
        self.reach().map_err(PauseError::Unreachable)?;
        {
            let mut state = self.state.lock();
            state.snapshots += 1;
            if let Some(error) = state.fail_pause.take() {
                return Err(error);
            }
            match state.sandboxes.get_mut(id) {
                Some(status) if status.phase == SandboxPhase::Live => {
                    status.phase = SandboxPhase::Checkpointing;
                }
                Some(status) if status.phase == SandboxPhase::Paused => {
                    return Err(PauseError::Paused(id.to_string()));
                }
                Some(_) | None => return Err(PauseError::NotFound(id.to_string())),
            }
        }
        self.hold_snapshots.subscribe().wait_for(|hold| !hold).await.unwrap();
        {
            let mut state = self.state.lock();
            let Some(status) = state.sandboxes.get_mut(id) else {
                return Err(PauseError::Lost("it was killed".to_owned()));
            };
            status.phase = SandboxPhase::Live;
            let known = state.templates.iter().position(|template| template.id == new.template);
            match known.and_then(|at| state.templates.get_mut(at)) {
                Some(known) => known.build = new.build.clone(),
                None => state.templates.push(TemplateInfo {
                    id: new.template.clone(),
                    build: new.build.clone(),
                    aliases: Vec::new(),
                    resources: RESOURCES,
                    envd_version: "0.6.4".to_owned(),
                    created_at: SystemTime::now(),
                    snapshot: true,
                }),
            }
        }
        self.answered().map_err(PauseError::Unreachable)?;
        let halted = Duration::from_millis(1);
        Ok(SnapshotStatus { template: new.template, build: new.build, halted })
    }

    pub(super) fn remove_it(&self, id: &TemplateId) -> Result<(), RemoveError> {
        self.reach().map_err(RemoveError::Unreachable)?;
        let mut state = self.state.lock();
        if !state.templates.iter().any(|template| template.id == *id) {
            return Err(RemoveError::NotFound(id.to_string()));
        }
        if state.uses(id) {
            return Err(RemoveError::InUse(id.to_string()));
        }
        state.templates.retain(|template| template.id != *id);
        Ok(())
    }

    fn reach(&self) -> Result<(), String> {
        match self.state.lock().fault {
            Some(Fault::Unreachable | Fault::Internal) => Err("a fault of this test".to_owned()),
            Some(Fault::AnswersLost) | None => Ok(()),
        }
    }

    fn answered(&self) -> Result<(), String> {
        match self.state.lock().fault {
            Some(_) => Err("the answer was lost".to_owned()),
            None => Ok(()),
        }
    }
}

impl super::State {
    fn uses(&self, template: &TemplateId) -> bool {
        self.sandboxes.values().any(|status| status.template == *template)
            || self.paused.values().any(|paused| paused.template == *template)
    }
}

pub(super) fn paused_of(status: &SandboxStatus, memory: bool) -> PausedStatus {
    PausedStatus {
        id: status.id.clone(),
        lifecycle: status.lifecycle.clone(),
        team: status.team.clone(),
        template: status.template.clone(),
        build: BuildId::parse(BUILD).unwrap(),
        resources: status.resources,
        metadata: status.metadata.clone(),
        started_at: status.started_at,
        paused_at: SystemTime::now(),
        memory,
        agent_silent: false,
    }
}
