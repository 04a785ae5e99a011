use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

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
        .with_writer(std::io::stderr)
        // Telling on standard error that standard error is closed panics, and the service ends.
        .log_internal_errors(false)
        .with_ansi(std::io::stderr().is_terminal());
    let set = match format {
        LogFormat::Text => lines.try_init(),
        LogFormat::Json => lines.json().try_init(),
    };
    set.map_err(|_already| SetupError::Twice)
}
