//! What a node logs, with the time that has passed on its clock.

use std::fmt;
use std::io::Write;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use parking_lot::Mutex;
use serde_json::Value;
use tokio::time::Instant;
use tracing::Dispatch;
use tracing::level_filters::LevelFilter;
use tracing::subscriber::DefaultGuard;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::FormatTime;

/// Everything logged on this thread, until it is dropped.
pub(super) struct Log {
    text: Sink,
    _guard: DefaultGuard,
}

/// One record, as a log in JSON has it.
#[derive(Debug)]
pub(super) struct Line(Value);

/// With one subscriber in the process, the first use of a record on a thread without it would
/// switch that record off for all: so there are two.
static SECOND: LazyLock<Dispatch> = LazyLock::new(|| Dispatch::new(tracing_subscriber::registry()));

impl Log {
    pub(super) fn start() -> Self {
        LazyLock::force(&SECOND);
        let text = Sink::default();
        let sink = text.clone();
        let lines = tracing_subscriber::fmt()
            .json()
            .flatten_event(true)
            .with_timer(Clock(Instant::now()))
            .with_max_level(LevelFilter::DEBUG)
            .with_writer(move || sink.clone())
            .finish();
        Self { text, _guard: tracing::subscriber::set_default(lines) }
    }

    /// The records of `message` so far.
    pub(super) fn lines(&self, message: &str) -> Vec<Line> {
        let text = String::from_utf8(self.text.0.lock().clone()).unwrap();
        let lines = text.lines().map(|line| Line(serde_json::from_str(line).unwrap()));
        lines.filter(|line| line.text("message") == message).collect()
    }
}

impl Line {
    /// How long after the start of the log.
    pub(super) fn at(&self) -> Duration {
        Duration::from_millis(self.text("timestamp").parse().unwrap())
    }

    pub(super) fn text(&self, field: &str) -> &str {
        self.0[field].as_str().unwrap_or_default()
    }

    pub(super) fn number(&self, field: &str) -> u64 {
        let value = &self.0[field];
        // 128 bits are written as text.
        value.as_u64().or_else(|| value.as_str()?.parse().ok()).unwrap()
    }

    /// A field of the innermost span.
    pub(super) fn of_span(&self, field: &str) -> &str {
        self.0["span"][field].as_str().unwrap_or_default()
    }
}

#[derive(Clone, Default)]
struct Sink(Arc<Mutex<Vec<u8>>>);

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

struct Clock(Instant);

impl FormatTime for Clock {
    fn format_time(&self, to: &mut Writer<'_>) -> fmt::Result {
        write!(to, "{}", self.0.elapsed().as_millis())
    }
}
