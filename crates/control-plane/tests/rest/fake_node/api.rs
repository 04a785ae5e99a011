//! What it answers.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use futures::stream::{BoxStream, unfold};
use model::{
    BuildId, Change, Egress, EndReason, Keep, LifecycleId, NodeId, NodeRequest, SandboxId,
    SandboxPhase, SandboxSpec, TemplateId,
};
use node_wire::{
    BuildError, BuildRequest, BuildStatus, CreateError, DrainStatus, Ending, Enforcement, Expected,
    Explanation, Journal, JournalMark, LeakItem, Leaks, NewSnapshot, NodeApi, NodeError, NodeEvent,
    NodeInfo, NodeMetrics, PauseError, PauseOrder, PausedStatus, Processor, RemoveError, Resumed,
    Sample, SandboxStatus, SnapshotStatus, Started, StatusError,
};
use tokio::sync::broadcast;

use super::{FakeNode, Fault, away};

#[async_trait]
impl NodeApi for FakeNode {
    async fn info(&self) -> Result<NodeInfo, NodeError> {
        self.asked.send_modify(|asked| *asked += 1);
        self.hold_info.subscribe().wait_for(|hold| !hold).await.unwrap();
        self.check()?;
        let state = self.state.lock();
        Ok(NodeInfo {
            id: NodeId::parse(self.name).unwrap(),
            phase: state.phase,
            version: "1.2.3".to_owned(),
            driver: "fake".to_owned(),
            sandboxes: u32::try_from(state.sandboxes.len()).unwrap(),
            starting: 0,
            stuck: 0,
            slots: 100,
            processor: Processor { model_name: "Fake".to_owned(), ..Processor::default() },
            metrics: NodeMetrics { cpu_count: 4, cpu_percent: 12.5, ..NodeMetrics::default() },
            enforcement: vec![Enforcement {
                what: "swap",
                enforced: false,
                detail: "the kernel has no swap accounting".to_owned(),
            }],
            templates: state.templates.clone(),
        })
    }

    async fn create(&self, spec: SandboxSpec, _limit: Duration) -> Result<Started, CreateError> {
        self.begun.send_modify(|begun| *begun += 1);
        self.hold.subscribe().wait_for(|hold| !hold).await.unwrap();
        if self.state.lock().fault == Some(Fault::Unreachable) {
            return Err(CreateError::Unreachable("a fault of this test".to_owned()));
        }
        let started = self.start(spec);
        if self.state.lock().fault == Some(Fault::AnswersLost) {
            return Err(CreateError::Unreachable("the answer was lost".to_owned()));
        }
        self.hold_answers.subscribe().wait_for(|hold| !hold).await.unwrap();
        started
    }

    async fn kill(&self, id: &SandboxId, reason: EndReason) -> Result<(), NodeError> {
        self.kills.send_modify(|kills| *kills += 1);
        {
            let mut state = self.state.lock();
            let alone = state.killing.insert(id.clone());
            state.killed_twice_at_a_time |= !alone;
            *state.kills.entry(id.clone()).or_default() += 1;
        }
        self.hold_kills.subscribe().wait_for(|hold| !hold).await.unwrap();
        self.state.lock().killing.remove(id);
        self.check()?;
        let stuck = {
            let mut state = self.state.lock();
            let stuck = state.stuck.contains(id);
            if let Some(paused) = state.paused.remove(id)
                && !paused.memory
            {
                return Ok(());
            }
            let Some(status) = state.sandboxes.get_mut(id) else {
                return Err(NodeError::NotFound(id.to_string()));
            };
            if stuck {
                status.phase = SandboxPhase::Stuck;
            }
            stuck
        };
        if stuck {
            let left = "/var/lib/secret: busy".to_owned();
            return Err(NodeError::Stuck { id: id.to_string(), left });
        }
        self.end(id, reason);
        Ok(())
    }

    async fn pause_by(
        &self,
        id: &SandboxId,
        order: PauseOrder,
    ) -> Result<PausedStatus, PauseError> {
        self.pause_it(id, order).await
    }

    async fn resume(
        &self,
        spec: SandboxSpec,
        keep: Keep,
        _limit: Duration,
    ) -> Result<Resumed, CreateError> {
        self.resume_it(spec, keep).await
    }

    async fn paused(&self) -> Result<Vec<PausedStatus>, NodeError> {
        self.check()?;
        let mut state = self.state.lock();
        let paused = state.paused.values().cloned().collect();
        let behind = state.paused_behind.take();
        drop(state);
        if let Some(id) = behind {
            self.pause_unheard(&id, true);
        }
        Ok(paused)
    }

    async fn snapshot(
        &self,
        id: &SandboxId,
        new: NewSnapshot,
    ) -> Result<SnapshotStatus, PauseError> {
        self.snapshot_it(id, new).await
    }

    async fn remove_template(&self, id: &TemplateId) -> Result<(), RemoveError> {
        self.remove_it(id)
    }

    async fn set_egress(&self, id: &SandboxId, egress: Egress) -> Result<(), NodeError> {
        self.check()?;
        let mut state = self.state.lock();
        if state.sandboxes.get(id).is_none_or(|status| status.phase != SandboxPhase::Live) {
            return Err(NodeError::NotFound(id.to_string()));
        }
        state.rules.push((id.clone(), egress));
        Ok(())
    }

    async fn set_end(&self, id: &SandboxId, ends_at: SystemTime) -> Result<(), NodeError> {
        self.check()?;
        let is_live = {
            let mut state = self.state.lock();
            let status = state.sandboxes.get_mut(id);
            let live = status.filter(|status| status.phase == SandboxPhase::Live);
            live.map(|status| status.ends_at = ends_at).is_some()
        };
        if is_live && ends_at <= SystemTime::now() {
            self.end(id, EndReason::Timeout);
        }
        self.held_ends.send_modify(|held| *held += 1);
        self.hold_ends.subscribe().wait_for(|hold| !hold).await.unwrap();
        is_live.then_some(()).ok_or_else(|| NodeError::NotFound(id.to_string()))
    }

    async fn list(&self) -> Result<Vec<SandboxStatus>, NodeError> {
        self.check()?;
        let sandboxes = self.state.lock().sandboxes.values().cloned().collect();
        self.listed.send_modify(|listed| *listed += 1);
        self.hold_lists.subscribe().wait_for(|hold| !hold).await.unwrap();
        Ok(sandboxes)
    }

    async fn ended(&self, ids: &[SandboxId]) -> Result<Vec<Ending>, NodeError> {
        self.check()?;
        let state = self.state.lock();
        Ok(state.endings.iter().filter(|ending| ids.contains(&ending.id)).cloned().collect())
    }

    async fn explain(
        &self,
        _id: &SandboxId,
        lifecycle: Option<&LifecycleId>,
    ) -> Result<Option<Explanation>, NodeError> {
        self.check()?;
        let known = self.state.lock().explanation.clone();
        Ok(known.filter(|known| lifecycle.is_none_or(|asked| *asked == known.lifecycle)))
    }

    async fn samples(&self, id: &SandboxId) -> Result<Vec<Sample>, NodeError> {
        self.check()?;
        if !self.has(id) {
            return Err(NodeError::NotFound(id.to_string()));
        }
        let sample = |second| Sample {
            at: SystemTime::UNIX_EPOCH + Duration::from_secs(second),
            cpu_count: 2,
            cpu_used_pct: 12.5,
            mem_total_bytes: 512 << 20,
            mem_used_bytes: 64 << 20,
            mem_cache_bytes: 8 << 20,
            disk_total_bytes: 1 << 30,
            disk_used_bytes: 1 << 20,
        };
        self.sampled.send_modify(|sampled| *sampled += 1);
        Ok(vec![sample(1_700_000_000), sample(1_700_000_010)])
    }

    async fn journal(
        &self,
        id: &SandboxId,
        mark: &JournalMark,
    ) -> Result<Option<Journal>, NodeError> {
        self.read_it(id, mark).await
    }

    fn events(&self) -> broadcast::Receiver<NodeEvent> {
        self.events.lock().subscribe()
    }

    async fn request_if(
        &self,
        request: NodeRequest,
        expected: Expected,
    ) -> Result<(), StatusError> {
        match self.check() {
            Ok(()) => {}
            Err(NodeError::Unreachable(reason)) => return Err(StatusError::Unreachable(reason)),
            Err(error) => return Err(StatusError::Internal(error.to_string())),
        }
        {
            let mut state = self.state.lock();
            expected.check(&state.instance, state.phase, state.epoch)?;
            if let Change::To(next) = state.phase.on(request)? {
                state.phase = next;
                state.epoch += 1;
            }
            state.requests.push(request);
        }
        self.changed();
        Ok(())
    }

    async fn drain_status(&self) -> Result<DrainStatus, NodeError> {
        self.check().map(|()| self.drain())
    }

    async fn drain_updates(&self) -> Result<BoxStream<'static, DrainStatus>, NodeError> {
        self.check()?;
        let Some(node) = self.me.upgrade() else { return Err(away()) };
        let changes = self.changes.subscribe();
        Ok(Box::pin(unfold((node, changes, true), |(node, mut changes, first)| async move {
            if !first {
                changes.changed().await.ok()?;
            }
            changes.borrow_and_update();
            let gone = node.check().is_err();
            (!gone).then(|| (node.drain(), (Arc::clone(&node), changes, false)))
        })))
    }

    async fn leaks(&self) -> Result<Leaks, NodeError> {
        self.check()?;
        let item = |kind: &str, name: &str, owner: &str| LeakItem {
            kind: kind.to_owned(),
            name: name.to_owned(),
            owner: owner.to_owned(),
        };
        Ok(Leaks {
            owned: vec![item("cgroup", "cofferdam-0", "node")],
            leaked: vec![item("link", "cd0-7", "slot 7")],
        })
    }

    async fn build(&self, request: BuildRequest) -> Result<(), BuildError> {
        Err(BuildError::Unsupported(request.alias))
    }

    async fn build_status(&self, id: &BuildId) -> Result<BuildStatus, BuildError> {
        Err(BuildError::NotFound(id.clone()))
    }

    async fn build_delete(&self, id: &BuildId) -> Result<(), BuildError> {
        Err(BuildError::NotFound(id.clone()))
    }

    async fn builds(&self) -> Result<Vec<BuildStatus>, NodeError> {
        Ok(Vec::new())
    }
}
