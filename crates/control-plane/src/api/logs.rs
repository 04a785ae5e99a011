//! The log of a sandbox: what became of it, step by step, out of its record, and which processes its
//! clients started and how they ended, as its guest agent has noted. What programs write is theirs:
//! clients stream it.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use e2b_wire::{LogLevel, SandboxLog, SandboxLogEntry, SandboxLogs, SandboxLogsV2, Timestamp};
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::app::{App, now};
use crate::auth::Caller;
use crate::http::{ApiError, Params, SandboxPath};
use crate::journals::ASKED_LIMIT;
use crate::store::{LogLine, LogQuery};

/// Lines in one answer.
const LINES_MAX: u32 = 1000;
/// Of the text that is looked for.
const SEARCH_MAX: usize = 256;
/// What says it in the lines of version 1, unless the line knows.
const LOGGER: &str = "cofferdam";
/// In a millisecond.
const MICROS: i64 = 1000;

#[derive(Debug, Deserialize)]
pub(crate) struct Query {
    /// Milliseconds since 1970.
    start: Option<i64>,
    limit: Option<u32>,
}

#[derive(Debug, Deserialize)]
pub(crate) struct QueryV2 {
    /// Milliseconds since 1970.
    cursor: Option<i64>,
    limit: Option<u32>,
    direction: Option<String>,
    level: Option<String>,
    search: Option<String>,
}

pub(crate) async fn v1(
    State(app): State<Arc<App>>,
    caller: Caller,
    SandboxPath(id): SandboxPath,
    Params(query): Params<Query>,
) -> Result<Json<SandboxLogs>, ApiError> {
    let query = LogQuery {
        from: query.start.map_or_else(|| Ok(oldest(&app)), moment)?,
        to: last_moment(now()),
        newest_first: false,
        level: LogLevel::Debug,
        search: String::new(),
        limit: check_limit(query.limit)?,
    };
    app.hear_agent(&caller.team.id, &id, ASKED_LIMIT).await;
    let lines = app.store.log(&caller.team.id, &id, &query).await?;
    let logs = lines.iter().map(line).collect();
    Ok(Json(SandboxLogs { logs, log_entries: lines.into_iter().map(entry).collect() }))
}

pub(crate) async fn v2(
    State(app): State<Arc<App>>,
    caller: Caller,
    SandboxPath(id): SandboxPath,
    Params(query): Params<QueryV2>,
) -> Result<Json<SandboxLogsV2>, ApiError> {
    let query = query.parse(oldest(&app))?;
    app.hear_agent(&caller.team.id, &id, ASKED_LIMIT).await;
    let lines = app.store.log(&caller.team.id, &id, &query).await?;
    Ok(Json(SandboxLogsV2 { logs: lines.into_iter().map(entry).collect() }))
}

impl QueryV2 {
    fn parse(self, oldest: Timestamp) -> Result<LogQuery, ApiError> {
        let newest_first = match self.direction.as_deref() {
            None | Some("backward") => true,
            Some("forward") => false,
            Some(other) => {
                let problem = format!("direction is {other:?} and must be forward or backward");
                return Err(ApiError::validation(problem));
            }
        };
        let level = self.level.as_deref().map(str::parse).transpose();
        let level = level.map_err(ApiError::validation)?.unwrap_or(LogLevel::Debug);
        let search = self.search.unwrap_or_default();
        if search.chars().count() > SEARCH_MAX {
            let problem = format!("search has more than {SEARCH_MAX} characters");
            return Err(ApiError::validation(problem));
        }
        let cursor = self.cursor.map(moment).transpose()?;
        let (from, to) = match (newest_first, cursor) {
            // The whole of the millisecond that is named.
            (true, cursor) => (oldest, cursor.map_or_else(|| last_moment(now()), last_moment)),
            (false, cursor) => (cursor.unwrap_or(oldest), last_moment(now())),
        };
        let limit = check_limit(self.limit)?;
        Ok(LogQuery { from, to, newest_first, level, search, limit })
    }
}

/// Nothing is kept from before.
fn oldest(app: &App) -> Timestamp {
    now().before(app.config.limits.ended_kept.saturating_mul(2))
}

fn moment(millis: i64) -> Result<Timestamp, ApiError> {
    let micros = millis.checked_mul(MICROS);
    micros.and_then(|micros| Timestamp::from_micros(micros).ok()).ok_or_else(|| {
        ApiError::validation(format!("{millis} is no time in milliseconds since 1970"))
    })
}

fn last_moment(at: Timestamp) -> Timestamp {
    at.after(std::time::Duration::from_micros(999))
}

fn check_limit(limit: Option<u32>) -> Result<u32, ApiError> {
    match limit.unwrap_or(LINES_MAX) {
        limit if limit <= LINES_MAX => Ok(limit),
        limit => {
            let problem = format!("limit is {limit} and must be 0 to {LINES_MAX}");
            Err(ApiError::validation(problem))
        }
    }
}

fn entry(line: LogLine) -> SandboxLogEntry {
    let LogLine { at, level, message, fields } = line;
    SandboxLogEntry { timestamp: at, level, message, fields }
}

fn line(line: &LogLine) -> SandboxLog {
    let text = |text: &str| Value::String(text.to_owned());
    let mut whole: Map<String, Value> =
        line.fields.iter().map(|(name, value)| (name.clone(), text(value))).collect();
    whole.insert("message".to_owned(), text(&line.message));
    whole.entry("logger").or_insert_with(|| text(LOGGER));
    whole.insert("level".to_owned(), serde_json::to_value(line.level).unwrap_or_default());
    SandboxLog { timestamp: line.at, line: Value::Object(whole).to_string() }
}
