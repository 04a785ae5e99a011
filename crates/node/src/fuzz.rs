//! What reads the files of an earlier daemon, for the fuzz targets.
#![expect(clippy::missing_panics_doc, reason = "what a target finds is a panic")]

use crate::ledger::{Fate, Record};

/// A record: what can be read of it can be acted on and told, and is the same when it was written
/// again.
pub fn record(text: &[u8]) {
    let Some(record) = Record::parse(text) else { return };
    let written = serde_json::to_vec(&record).ok();
    assert_eq!(written.as_deref().and_then(Record::parse).as_ref(), Some(&record));
    if matches!(record.fate("this"), Fate::Live | Fate::Paused) {
        assert!(record.life().is_some() && record.to_ending().is_none());
    }
    // Names in it become paths.
    if let Some(identity) = record.identity() {
        for name in [identity.id.as_str(), identity.lifecycle.as_str(), identity.build.as_str()] {
            assert!(!name.is_empty() && !name.contains(['/', '\0']) && !name.starts_with('.'));
        }
    }
    drop((record.life(), record.to_ending(), record.to_paused(true)));
    if let Some(told) = record.explain() {
        assert!(told.output.iter().all(|line| line.chars().count() <= 500));
    }
}
