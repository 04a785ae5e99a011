//! Guest agents that note nothing but that they were asked.

use std::future::pending;

use node_wire::{Journal, JournalMark};

use crate::fake::Fake;
use crate::journal::JournalError;

impl Fake {
    /// How often a guest agent was asked what it has noted.
    pub(crate) fn journals(&self) -> u64 {
        self.table.lock().journals
    }

    pub(super) async fn ask_journal(
        &self,
        lifecycle: &str,
        mark: &JournalMark,
    ) -> Result<Option<Journal>, JournalError> {
        let is_mute = {
            let mut table = self.table.lock();
            table.journals += 1;
            let record = table.records.get(lifecycle).ok_or(JournalError::NoRecord)?;
            let manner = record.sandbox.parse().ok().and_then(|id| table.manners.get(&id));
            manner.is_some_and(|manner| manner.mute)
        };
        if is_mute {
            return pending().await;
        }
        let (run, lost) = (lifecycle.to_owned(), mark.number);
        Ok(Some(Journal { run, lost, ..Journal::default() }))
    }
}
