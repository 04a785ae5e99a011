//! What guest agents have noted, and how far that was read; see `0009_agent_log.sql`. An agent is a
//! program in its sandbox: nothing of what it says is taken as it is.

use std::collections::BTreeMap;

use e2b_wire::Timestamp;
use model::SandboxId;
use node_wire::{Journal, JournalLevel, JournalLine, JournalMark};
use serde::Serialize;
use sqlx::Row as _;
use sqlx::sqlite::SqliteRow;

use super::row::number;
use super::{Store, StoreError};

/// Lines of one sandbox; the oldest go.
const LINES_MAX: i64 = 300;
/// What a line of an agent has in it, at most: none that is one of ours has more.
const LINE_BYTES_MAX: usize = 1024;
/// What has noted it, as at E2B. Lines of the service have none.
const LOGGER: (&str, &str) = ("logger", "process");

const MARK: &str = "SELECT run, number FROM agent_marks WHERE sandbox_id = $1";
const KNOWN: &str = "SELECT s.created_at, COALESCE(m.run, '') AS run, \
        COALESCE(m.number, 0) AS number, COALESCE(m.seq, 0) AS seq \
    FROM sandboxes s LEFT JOIN agent_marks m ON m.sandbox_id = s.id WHERE s.id = $1";
const INSERT: &str = "INSERT INTO agent_log (sandbox_id, seq, at, level, message, fields) \
    SELECT $1, $2 + key + 1, value ->> 'at', value ->> 'level', value ->> 'message', \
        value ->> 'fields' FROM json_each($3)";
const MOVE_MARK: &str = "INSERT INTO agent_marks (sandbox_id, run, number, seq) \
    VALUES ($1, $2, $3, $4) ON CONFLICT (sandbox_id) DO UPDATE SET run = $2, number = $3, seq = $4";
const BOUND: &str = "DELETE FROM agent_log WHERE sandbox_id = $1 AND seq <= $2";
const PURGE: &str = "DELETE FROM agent_log WHERE at <= (SELECT at FROM agent_log \
    ORDER BY at DESC LIMIT 1 OFFSET $1)";

/// A line to be kept.
#[derive(Debug, Serialize)]
struct Kept {
    at: i64,
    level: i64,
    message: String,
    fields: BTreeMap<String, String>,
}

/// What was known of a journal before a line of it is kept.
struct Known {
    created_at: i64,
    mark: JournalMark,
    seq: i64,
}

impl Store {
    /// How far the journal of a sandbox is kept.
    pub(crate) async fn journal_mark(&self, id: &SandboxId) -> Result<JournalMark, StoreError> {
        let failed = || StoreError::query("look up how far a journal was read");
        let found = sqlx::query(MARK).bind(id.as_str()).fetch_optional(&self.reader).await;
        let found = found.map_err(failed())?.as_ref().map(mark).transpose().map_err(failed())?;
        Ok(found.unwrap_or_default())
    }

    /// Keeps those lines that an agent gave for `mark` and that are not kept yet, each once, whoever
    /// else has read them meanwhile: all of it or none. Nothing of a sandbox that has no record.
    pub(crate) async fn keep_journal(
        &self,
        id: &SandboxId,
        mark: &JournalMark,
        journal: &Journal,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        if journal.lines.is_empty() {
            return Ok(());
        }
        self.transact("keep the journal of a sandbox", async |transaction| {
            let found = sqlx::query(KNOWN).bind(id.as_str()).fetch_optional(&mut *transaction);
            let Some(known) = found.await?.as_ref().map(known).transpose()? else { return Ok(()) };
            let Some((last, lines)) = known.news(mark, journal, now) else { return Ok(()) };
            let count = i64::try_from(lines.len()).unwrap_or(i64::MAX);
            let seq = known.seq.saturating_add(count);
            let lines = serde_json::to_string(&lines).map_err(|e| sqlx::Error::Encode(e.into()))?;
            let insert = sqlx::query(INSERT).bind(id.as_str()).bind(known.seq).bind(lines);
            insert.execute(&mut *transaction).await?;
            let moved = sqlx::query(MOVE_MARK).bind(id.as_str()).bind(&journal.run);
            moved.bind(last).bind(seq).execute(&mut *transaction).await?;
            let bound = sqlx::query(BOUND).bind(id.as_str()).bind(seq.saturating_sub(LINES_MAX));
            bound.execute(&mut *transaction).await.map(drop)
        })
        .await
    }

    /// Keeps of what all agents have noted at most `rows` lines: the oldest go.
    pub(crate) async fn purge_journals(&self, rows: u32) -> Result<(), StoreError> {
        let purge = sqlx::query(PURGE).bind(i64::from(rows)).execute(&self.writer).await;
        purge.map(drop).map_err(StoreError::query("forget journals"))
    }
}

impl Known {
    /// The last new line's number, and the new lines as they are kept. `None` when there are none.
    fn news(
        &self,
        mark: &JournalMark,
        journal: &Journal,
        now: Timestamp,
    ) -> Option<(i64, Vec<Kept>)> {
        let mut last = if self.mark.run == journal.run {
            self.mark.number
        } else if self.mark.run == mark.run {
            0
        } else {
            // Somebody has read a run since that is not this one: one that has ended, or the next.
            return None;
        };
        let before = last;
        let mut kept = Vec::new();
        for line in &journal.lines {
            if line.number > last && i64::try_from(line.number).is_ok() {
                last = line.number;
                kept.extend(self.kept(line, now));
            }
        }
        let number = i64::try_from(last).ok()?;
        (last > before).then_some((number, kept))
    }

    /// `None` for a line that is larger than any of ours.
    fn kept(&self, line: &JournalLine, now: Timestamp) -> Option<Kept> {
        let fields = line.fields.iter().map(|(name, value)| name.len() + value.len());
        if line.message.len() + fields.sum::<usize>() > LINE_BYTES_MAX {
            return None;
        }
        let at = Timestamp::from(line.at).micros();
        let level = match line.level {
            JournalLevel::Debug => 0,
            JournalLevel::Info => 1,
            JournalLevel::Warn => 2,
            JournalLevel::Error => 3,
        };
        let fields = line.fields.iter();
        let mut fields: BTreeMap<String, String> =
            fields.map(|(name, value)| (harmless(name, ""), harmless(value, "\n\t"))).collect();
        fields.insert(LOGGER.0.to_owned(), LOGGER.1.to_owned());
        Some(Kept {
            // Of the sandbox's time, whatever its clock says.
            at: at.min(now.micros()).max(self.created_at),
            level,
            message: harmless(&line.message, ""),
            fields,
        })
    }
}

/// Whoever shows it on a terminal must not be made to do what it says.
fn harmless(text: &str, but: &str) -> String {
    let replaced = |c: char| c.is_control() && !but.contains(c);
    text.chars().map(|c| if replaced(c) { char::REPLACEMENT_CHARACTER } else { c }).collect()
}

fn mark(row: &SqliteRow) -> Result<JournalMark, sqlx::Error> {
    Ok(JournalMark { run: row.try_get("run")?, number: number(row, "number")? })
}

fn known(row: &SqliteRow) -> Result<Known, sqlx::Error> {
    Ok(Known { created_at: row.try_get("created_at")?, mark: mark(row)?, seq: row.try_get("seq")? })
}

#[cfg(test)]
mod tests;
