//! What the node remembers of runs: of those that go on by its registry, of those that have gone by
//! their records.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::SystemTime;

use model::{EndReason, LifecycleId, SandboxId, SandboxPhase};
use node_wire::{Ending, ExplainedStep, Explanation, NodeError};

use crate::entry::Entry;
use crate::ledger::Record;
use crate::start::Inner;

impl Inner {
    /// How runs of these sandboxes have ended, those included whose release goes on.
    pub(crate) async fn endings(
        self: &Arc<Self>,
        ids: &[SandboxId],
    ) -> Result<Vec<Ending>, NodeError> {
        let wanted: BTreeSet<&SandboxId> = ids.iter().collect();
        if wanted.is_empty() {
            return Ok(Vec::new());
        }
        // The registry first: what leaves it meanwhile has its record by then.
        let ending = |entry: &Arc<Entry>| wanted.contains(&entry.id).then(|| ending_of(entry))?;
        let mut endings: Vec<Ending> = self.registry.all().iter().filter_map(ending).collect();
        let told: BTreeSet<LifecycleId> = endings.iter().map(|e| e.lifecycle.clone()).collect();
        let past = self.past().await?;
        let ended = past.iter().filter_map(Record::to_ending);
        endings.extend(ended.filter(|e| wanted.contains(&e.id) && !told.contains(&e.lifecycle)));
        endings.sort_by(|a, b| (&a.id, a.at, &a.lifecycle).cmp(&(&b.id, b.at, &b.lifecycle)));
        Ok(endings)
    }

    /// What is remembered of this run, or of the sandbox's last.
    pub(crate) async fn explanation(
        self: &Arc<Self>,
        id: &SandboxId,
        lifecycle: Option<&LifecycleId>,
    ) -> Result<Option<Explanation>, NodeError> {
        let is_meant = |run: &LifecycleId| lifecycle.is_none_or(|wanted| wanted == run);
        if let Some(entry) = self.registry.get(id).filter(|entry| is_meant(&entry.lifecycle)) {
            return Ok(Some(self.explain_entry(&entry)));
        }
        let past = self.past().await?;
        let runs = past.iter().filter(|record| {
            record.sandbox == id.as_str()
                && lifecycle.is_none_or(|wanted| wanted.as_str() == record.lifecycle)
        });
        let last = runs.max_by_key(|record| record.ending.as_ref().map(|end| end.at_us));
        Ok(last.and_then(Record::explain))
    }

    fn explain_entry(&self, entry: &Entry) -> Explanation {
        let (state, usage) = (entry.state(), self.backend.usage(&entry.lifecycle));
        let moment = |at, name: String| ExplainedStep { at, name, took: None, error: None };
        let mut steps = Vec::new();
        if state.lived {
            steps.push(moment(state.started_at, "started".into()));
        }
        let ending = ending_of(entry);
        steps.extend(ending.map(|e| moment(e.at, format!("ended: {}", e.reason.as_str()))));
        Explanation {
            lifecycle: entry.lifecycle.clone(),
            steps,
            // Of one that is stuck.
            failed_step: state.pending.first().map(|step| step.name().to_owned()),
            output: Vec::new(),
            memory_peak_bytes: self.backend.peak(&entry.lifecycle).memory_bytes,
            cpu_time: Some(usage.cpu),
            reclaimed: Vec::new(),
        }
    }

    async fn past(self: &Arc<Self>) -> Result<Vec<Record>, NodeError> {
        let inner = Arc::clone(self);
        let read = tokio::task::spawn_blocking(move || inner.backend.past()).await;
        read.map_err(|error| NodeError::Internal(error.to_string()))
    }
}

/// How it has ended; `None` as long as it starts or lives.
fn ending_of(entry: &Entry) -> Option<Ending> {
    let state = entry.state();
    let goes_on = match state.phase {
        SandboxPhase::Reserved
        | SandboxPhase::Booting
        | SandboxPhase::Live
        | SandboxPhase::Checkpointing
        | SandboxPhase::Pausing
        | SandboxPhase::Paused => true,
        SandboxPhase::Stopping
        | SandboxPhase::TearingDown
        | SandboxPhase::Stuck
        | SandboxPhase::Stopped => false,
    };
    (!goes_on).then(|| Ending {
        id: entry.id.clone(),
        lifecycle: entry.lifecycle.clone(),
        // Its time is over from one instant to the next, and the reason comes after.
        reason: entry.end_reason().unwrap_or(EndReason::Timeout),
        at: state.ended_at.unwrap_or_else(SystemTime::now),
        detail: String::new(),
    })
}
