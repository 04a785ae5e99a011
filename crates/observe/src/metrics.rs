//! What this process counts, and its text for Prometheus.
//!
//! Counters and distributions belong to the process: they are statics, and whoever does the thing
//! counts it. What *is*, rather than what has happened, is asked for when the text is made.

mod exposition;
mod family;

pub use exposition::Exposition;
pub use family::{Counts, Durations};

/// Sandbox starts, from admission to the answer.
pub static CREATE: Durations<1> =
    Durations::new("cofferdam_create_seconds", "How long starts of sandboxes took.", ["result"]);

/// Ends of sandboxes, from the request or the cause to the confirmed last release, or to the first
/// round that left something.
pub static END: Durations<2> = Durations::new(
    "cofferdam_end_seconds",
    "How long ends of sandboxes took.",
    ["reason", "result"],
);

/// Single release steps; every try counts.
pub static RELEASE_STEP: Durations<2> = Durations::new(
    "cofferdam_release_step_seconds",
    "How long release steps took.",
    ["step", "result"],
);

/// What the durability of a lifecycle costs: writing its record, a directory made for it included.
pub static RECORD_WRITE: Durations<1> = Durations::new(
    "cofferdam_record_write_seconds",
    "How long writes of lifecycle records took.",
    ["result"],
);

/// Attempts to end everything on a node.
pub static FORCE_ATTEMPTS: Counts<1> = Counts::new(
    "cofferdam_force_attempts_total",
    "Attempts to end everything on the node.",
    ["result"],
);

/// Slots that were to be made, ahead or for a start.
pub static SLOTS: Counts<1> = Counts::new(
    "cofferdam_slots_total",
    "Network slots that were made, or could not be.",
    ["result"],
);

/// Tasks that keep the node going and ended before they were told to.
pub static UPKEEP_ENDED: Counts<1> = Counts::new(
    "cofferdam_upkeep_ended_total",
    "Tasks that keep the node going and have ended too early.",
    ["task"],
);

/// Connections, and requests on them, that went through the filter of a sandbox whose rules are about
/// names: `ok`, or why they were not let through. Questions to name servers: `question`, or that it was
/// `-refused`, `-failed`, or `-odd`.
pub static EGRESS: Counts<1> = Counts::new(
    "cofferdam_egress_total",
    "Connections to the outside that were looked into, and what became of them.",
    ["result"],
);

/// What somebody should have been told and was not.
pub static LOST: Counts<1> = Counts::new(
    "cofferdam_lost_total",
    "Events of the node that were not taken in, and log lines that could not be written.",
    ["what"],
);
/// Labels of [`LOST`].
pub const LOST_EVENTS: [&str; 1] = ["events"];
/// Labels of [`LOST`].
pub const LOST_LOG_LINES: [&str; 1] = ["log_lines"];

/// The words of the label `result`.
#[must_use]
pub const fn result_of(succeeded: bool) -> &'static str {
    if succeeded { "ok" } else { "failed" }
}

/// Adds all of them to `text`.
pub fn expose(text: &mut Exposition) {
    CREATE.expose(text);
    END.expose(text);
    RELEASE_STEP.expose(text);
    RECORD_WRITE.expose(text);
    FORCE_ATTEMPTS.expose(text);
    EGRESS.expose(text);
    LOST.expose(text);
    SLOTS.expose(text);
    UPKEEP_ENDED.expose(text);
}
