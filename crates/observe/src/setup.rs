use std::io::{self, IsTerminal, Write};

use tracing_subscriber::EnvFilter;

use crate::metrics::{LOST, LOST_LOG_LINES};

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    Text,
    Json,
}

/// The log could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    #[error("log filter {filter:?} is not valid (try `info` or `info,node=debug`)")]
    Filter { filter: String, source: tracing_subscriber::filter::ParseError },
    #[error("a log subscriber is set already")]
    Twice,
}

/// Sends logs to standard error from now on.
///
/// # Errors
/// A filter that does not parse, or a second call.
pub fn init(filter: &str, format: LogFormat) -> Result<(), SetupError> {
    let parsed = EnvFilter::try_new(filter)
        .map_err(|source| SetupError::Filter { filter: filter.to_owned(), source })?;
    let lines = tracing_subscriber::fmt()
        .with_env_filter(parsed)
        .with_writer(|| Counted(io::stderr()))
        // Telling on standard error that standard error is closed panics, and the service ends.
        .log_internal_errors(false)
        .with_ansi(std::io::stderr().is_terminal());
    let set = match format {
        LogFormat::Text => lines.try_init(),
        LogFormat::Json => lines.json().try_init(),
    };
    set.map_err(|_already| SetupError::Twice)
}

/// Where the log goes. A line that it does not take is lost, and counted: nobody else can be told.
#[derive(Debug)]
struct Counted<W>(W);

impl<W: Write> Write for Counted<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes)
    }

    /// A line comes in one piece.
    fn write_all(&mut self, line: &[u8]) -> io::Result<()> {
        let written = self.0.write_all(line);
        if written.is_err() {
            LOST.add(LOST_LOG_LINES, 1);
        }
        written
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}
