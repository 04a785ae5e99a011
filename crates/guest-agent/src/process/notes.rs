//! What is noted of processes that clients start, as E2B's agent does: never what they write.

use guest_wire::proto::process::process_event::EndEvent;
use serde::{Deserialize, Serialize};

use super::hub::{Piece, Source};
use crate::journal::Journal;

/// How many bytes a process has written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Written {
    stdout: usize,
    stderr: usize,
    terminal: usize,
}

impl Written {
    pub(super) fn add(&mut self, piece: &Piece) {
        let count = match piece.source {
            Source::Stdout => &mut self.stdout,
            Source::Stderr => &mut self.stderr,
            Source::Terminal => &mut self.terminal,
        };
        *count = count.saturating_add(piece.data.len());
    }
}

pub(super) fn started(journal: &Journal, pid: u32, command: String) {
    let fields = vec![
        ("event_type", "process_start".to_owned()),
        ("pid", pid.to_string()),
        ("command", command),
    ];
    journal.note(format!("Process with pid {pid} started"), fields);
}

pub(super) fn ended(journal: &Journal, pid: u32, end: &EndEvent, written: Written) {
    let mut fields = vec![
        ("event_type", "process_end".to_owned()),
        ("pid", pid.to_string()),
        ("exit_code", end.exit_code.to_string()),
        ("status", end.status.clone()),
        ("stdout_bytes", written.stdout.to_string()),
        ("stderr_bytes", written.stderr.to_string()),
        ("pty_bytes", written.terminal.to_string()),
    ];
    fields.extend(end.error.clone().map(|error| ("error", error)));
    journal.note(format!("Process with pid {pid} ended"), fields);
}
