//! `cofferdam sandbox logs`: what the service has to say of a sandbox, line by line.

use std::collections::HashSet;
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use e2b_wire::{LogLevel, SandboxLogEntry, SandboxLogsV2, Timestamp};
use http::StatusCode;
use serde_json::Value;

use super::UNKNOWN;
use super::explain::harmless;
use super::pause::as_owner;
use crate::args::Logs;
use crate::client::{Api, CallError};
use crate::credentials::API_KEY;
use crate::say;

/// Between two looks at what is new.
const PAUSE: Duration = Duration::from_secs(1);
/// Lines in one answer.
const LINES: usize = 1000;
const MICROS_IN_MILLI: i64 = 1000;

pub(super) async fn run(api: &Api, options: &Logs) -> anyhow::Result<ExitCode> {
    let id = &options.id;
    // One that has ended is on no node; its record is asked for by the key.
    let owner = as_owner(api, id).await?;
    let mut log = Log::new(owner.as_ref().unwrap_or(api), options);
    if owner.is_none() && log.is_empty().await? {
        say::remark(&format!(
            "cofferdam: no node has a sandbox {id}, and no log of one is kept for this team; for \
             another team's, set {API_KEY}"
        ));
        return Ok(ExitCode::from(UNKNOWN));
    }
    loop {
        // Looked at before what is new: whatever is said of an end is there after it.
        let has_ended = options.follow && log.has_ended().await?;
        log.show_new().await?;
        if has_ended || !options.follow {
            return Ok(ExitCode::SUCCESS);
        }
        tokio::time::sleep(PAUSE).await;
    }
}

#[derive(Debug, thiserror::Error)]
enum LogError {
    #[error(transparent)]
    Call(#[from] CallError),
    #[error("write a line of the log")]
    Output(#[from] std::io::Error),
    #[error("print a line as JSON")]
    Json(#[from] serde_json::Error),
    #[error("more than {LINES} lines of the log have the same time {at:?}; the rest is not shown")]
    TooMany { at: Timestamp },
}

/// A log, and how far it was shown.
struct Log<'a> {
    api: &'a Api,
    options: &'a Logs,
    /// In milliseconds since 1970; lines of this one may have been shown already.
    cursor: i64,
    /// Those, as JSON.
    shown: HashSet<String>,
}

impl<'a> Log<'a> {
    fn new(api: &'a Api, options: &'a Logs) -> Self {
        let now = Timestamp::from(SystemTime::now());
        let from = options.since.map_or(0, |since| now.before(since).micros() / MICROS_IN_MILLI);
        Self { api, options, cursor: from, shown: HashSet::new() }
    }

    /// Whether nothing at all is kept of it.
    async fn is_empty(&self) -> Result<bool, CallError> {
        let path = format!("/v2/sandboxes/{}/logs?limit=1", self.options.id);
        match self.api.get::<SandboxLogsV2>(&path).await {
            Ok(found) => Ok(found.logs.is_empty()),
            Err(error) if error.status() == Some(StatusCode::NOT_FOUND) => Ok(true),
            Err(error) => Err(error),
        }
    }

    async fn has_ended(&self) -> Result<bool, CallError> {
        let found: Result<Value, _> =
            self.api.get(&format!("/sandboxes/{}", self.options.id)).await;
        match found {
            Ok(_there) => Ok(false),
            Err(error) if error.status() == Some(StatusCode::NOT_FOUND) => Ok(true),
            Err(error) => Err(error),
        }
    }

    /// Shows what was not shown yet.
    async fn show_new(&mut self) -> Result<(), LogError> {
        loop {
            let id = &self.options.id;
            let level = serde_json::to_value(self.options.level)?;
            let path = format!(
                "/v2/sandboxes/{id}/logs?direction=forward&cursor={}&limit={LINES}&level={}",
                self.cursor,
                level.as_str().unwrap_or_default(),
            );
            let SandboxLogsV2 { logs } = self.api.get(&path).await?;
            let Some(last) = logs.last().map(|entry| entry.timestamp) else { return Ok(()) };
            let is_all = logs.len() < LINES;
            let end = last.micros().div_euclid(MICROS_IN_MILLI);
            if !is_all && end == self.cursor {
                return Err(LogError::TooMany { at: last });
            }
            let mut of_the_last = HashSet::new();
            for entry in logs {
                let json = serde_json::to_string(&entry)?;
                if !self.shown.contains(&json) {
                    let text = if self.options.output.json { json.clone() } else { line(&entry) };
                    say::answer(&text)?;
                }
                if entry.timestamp.micros().div_euclid(MICROS_IN_MILLI) == end {
                    of_the_last.insert(json);
                }
            }
            (self.cursor, self.shown) = (end, of_the_last);
            if is_all {
                return Ok(());
            }
        }
    }
}

/// One line for people.
fn line(entry: &SandboxLogEntry) -> String {
    let level = match entry.level {
        LogLevel::Debug => "debug",
        LogLevel::Info => "info ",
        LogLevel::Warn => "warn ",
        LogLevel::Error => "error",
    };
    let at = serde_json::to_value(entry.timestamp).unwrap_or_default();
    let fields: String = entry
        .fields
        .iter()
        .map(|(name, value)| format!("  {}={}", harmless(name), harmless(value)))
        .collect();
    format!("{}  {level}  {}{fields}", at.as_str().unwrap_or_default(), harmless(&entry.message))
}

#[cfg(test)]
mod tests {
    use e2b_wire::SandboxLogEntry;
    use serde_json::json;

    use super::line;

    #[test]
    fn a_line_has_its_time_its_level_and_what_is_beside_it_and_does_nothing_to_a_terminal() {
        let entry: SandboxLogEntry = serde_json::from_value(json!({
            "timestamp": "2027-01-15T08:00:02Z", "level": "warn", "message": "a \u{1b}[31mred one",
            "fields": {"step": "init"},
        }))
        .unwrap();
        assert_eq!(line(&entry), "2027-01-15T08:00:02Z  warn   a \\u{1b}[31mred one  step=init");
    }
}
