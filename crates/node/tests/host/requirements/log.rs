use std::fmt::{Debug, Write};
use std::future::Future;
use std::sync::Arc;
use std::time::Instant;

use parking_lot::Mutex;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};

/// One line of the log.
#[derive(Debug, Clone)]
pub(crate) struct Line {
    pub at: Instant,
    pub level: Level,
    /// The message, then ` field=value` for every field.
    pub text: String,
}

#[derive(Debug, Clone, Default)]
struct Log(Arc<Mutex<Vec<Line>>>);

/// Runs `work` with all its tasks on this thread, and keeps what is logged there.
pub(crate) fn logged<T>(work: impl Future<Output = T>) -> (T, Vec<Line>) {
    let log = Log::default();
    let result = tokio::task::block_in_place(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        tracing::subscriber::with_default(log.clone(), || runtime.block_on(work))
    });
    let lines = log.0.lock().clone();
    (result, lines)
}

impl Subscriber for Log {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() <= Level::INFO
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut words = Words::default();
        event.record(&mut words);
        let text = words.message + &words.fields;
        self.0.lock().push(Line { at: Instant::now(), level: *event.metadata().level(), text });
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

#[derive(Debug, Default)]
struct Words {
    message: String,
    fields: String,
}

impl Visit for Words {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.record_debug(field, &format_args!("{value}"));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        if field.name() == "message" {
            self.message = format!("{value:?}");
        } else {
            write!(self.fields, " {}={value:?}", field.name()).unwrap();
        }
    }
}
