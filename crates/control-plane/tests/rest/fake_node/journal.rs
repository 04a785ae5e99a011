//! Guest agents that have noted what a test says.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use model::{SandboxId, SandboxPhase};
use node_wire::{Journal, JournalLevel, JournalLine, JournalMark, NodeError};

use super::FakeNode;

/// Lines in one answer.
const ANSWER: usize = 100;

impl FakeNode {
    /// The agent of `id` notes something now.
    pub(crate) fn note(&self, id: &SandboxId, message: &str) {
        let mut state = self.state.lock();
        let journal = state.journals.entry(id.clone()).or_insert_with(|| run("run1"));
        let last = journal.lines.last();
        let number = last.map_or(1, |line| line.number + 1);
        // Each at a time of its own.
        let after_last = last.map(|line| line.at + Duration::from_micros(1));
        let at = after_last.map_or_else(SystemTime::now, |after| after.max(SystemTime::now()));
        journal.lines.push(JournalLine {
            number,
            at,
            level: JournalLevel::Info,
            message: message.to_owned(),
            fields: BTreeMap::from([("event_type".to_owned(), "process_start".to_owned())]),
        });
    }

    /// The agent of `id` is another process, which has noted nothing.
    pub(crate) fn run_anew(&self, id: &SandboxId) {
        self.state.lock().journals.insert(id.clone(), run("run2"));
    }

    /// While true, agents are silent.
    pub(crate) fn hold_journals(&self, hold: bool) {
        self.hold_journals.send_replace(hold);
    }

    pub(super) async fn read_it(
        &self,
        id: &SandboxId,
        mark: &JournalMark,
    ) -> Result<Option<Journal>, NodeError> {
        self.journaled.send_modify(|journaled| *journaled += 1);
        self.hold_journals.subscribe().wait_for(|hold| !hold).await.unwrap();
        self.check()?;
        let state = self.state.lock();
        let live = state.sandboxes.get(id).filter(|status| status.phase == SandboxPhase::Live);
        live.ok_or_else(|| NodeError::NotFound(id.to_string()))?;
        let Some(noted) = state.journals.get(id) else { return Ok(None) };
        let after = if noted.run == mark.run { mark.number } else { 0 };
        let new: Vec<_> = noted.lines.iter().filter(|line| line.number > after).collect();
        let lines = new.iter().take(ANSWER).map(|line| (*line).clone()).collect();
        Ok(Some(Journal { run: noted.run.clone(), lines, more: new.len() > ANSWER, lost: 0 }))
    }
}

fn run(name: &str) -> Journal {
    Journal { run: name.to_owned(), ..Journal::default() }
}
