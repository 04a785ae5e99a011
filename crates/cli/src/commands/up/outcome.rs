//! How a service ended: its last lines and its exit code.

use std::process::ExitCode;
use std::time::Duration;

use observe::metrics::{LOST, LOST_EVENTS, LOST_LOG_LINES};

use crate::say;

/// Something went wrong; nothing is left.
pub(super) const FAILED: u8 = 1;
/// Something is left on the host.
pub(super) const LEFT_OVER: u8 = 2;
/// Nothing is left, and not everything had ended by itself.
pub(super) const FORCED: u8 = 3;
/// Another service has the data directory or the host, or what an earlier one left does not go.
pub(super) const REFUSED: u8 = 4;

/// In the place of a node's phase when its sandboxes run on.
pub(super) const LEFT: &str = "left";

/// What somebody should have been told while the service ran, and was not.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Lost {
    /// Of the node, with the control plane or another listener too slow for them.
    events: u64,
    log_lines: u64,
}

impl Lost {
    fn so_far() -> Self {
        Self { events: LOST.of(LOST_EVENTS), log_lines: LOST.of(LOST_LOG_LINES) }
    }
}

/// What there is to tell of a stop.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    pub(super) took: Duration,
    /// The phase the node reached.
    pub(super) phase: &'static str,
    /// Sandboxes that were there when the stop began, without those that are still there.
    pub(super) ended: usize,
    /// Sandboxes that run on for the next service.
    pub(super) running: usize,
    /// Sandboxes, builds and shared parts that did not go.
    pub(super) failed: Vec<String>,
    /// Objects of ours on the host.
    pub(super) left: Vec<String>,
    pub(super) forced: bool,
    /// A third signal cut the stop off, so nobody looked at what is left.
    pub(super) gave_up: bool,
    /// What stopped the service if nobody had asked for it.
    pub(super) cause: Option<String>,
}

impl Outcome {
    /// The end of a service that was asked to stop before it served.
    pub(super) fn while_starting() -> Self {
        Self { phase: "starting", ..Self::default() }
    }

    /// What is left is what a caller must know first.
    pub(super) fn code(&self) -> u8 {
        if self.gave_up || !self.left.is_empty() {
            LEFT_OVER
        } else if self.cause.is_some() || !self.failed.is_empty() {
            FAILED
        } else if self.forced {
            FORCED
        } else {
            0
        }
    }

    /// Says how it ended, to the log and to whoever reads; that nobody does changes nothing.
    pub(super) fn tell(&self) -> ExitCode {
        let code = self.code();
        if let Some(cause) = &self.cause {
            say::remark(&format!("cofferdam: stopped, because {cause}"));
        }
        for what in &self.failed {
            say::remark(&format!("cofferdam: while stopping: {what}"));
        }
        for what in &self.left {
            say::remark(&format!("cofferdam: left: {what}"));
        }
        let lost = Lost::so_far();
        tracing::info!(
            took_ms = self.took.as_millis(),
            phase = self.phase,
            stopped = self.ended,
            running = self.running,
            failed = self.failed.len(),
            leaked = self.left.len(),
            lost_events = lost.events,
            lost_log_lines = lost.log_lines,
            gave_up = self.gave_up,
            exit_code = code,
            "service stopped"
        );
        // The line of the log may have been lost itself.
        let line = self.line(Lost::so_far());
        if let Err(error) = say::answer(&line) {
            tracing::info!(error = %observe::chain(&error), "nobody reads standard output");
            say::remark(&line);
        }
        ExitCode::from(code)
    }

    fn line(&self, lost: Lost) -> String {
        let left = if self.gave_up {
            "what is left is removed by the next start".to_owned()
        } else if self.phase == LEFT {
            format!("{} run on for the next service", self.running)
        } else {
            format!("{} objects left", self.left.len())
        };
        format!(
            "cofferdam: stopped in {:.1} s ({}), {} sandboxes ended, {} failed, {left}, \
             {} events and {} log lines lost, exit code {}",
            self.took.as_secs_f64(),
            self.phase,
            self.ended,
            self.failed.len(),
            lost.events,
            lost.log_lines,
            self.code()
        )
    }
}

#[cfg(test)]
mod tests {
    use super::{FAILED, FORCED, LEFT_OVER, Lost, Outcome};

    #[test]
    fn the_exit_code_tells_the_worst_first() {
        let some = || vec!["x".to_owned()];
        let cause = || Some("the listener ended".to_owned());
        let clean = Outcome::default;
        let rows = [
            (clean(), 0),
            (Outcome { forced: true, ..clean() }, FORCED),
            (Outcome { forced: true, cause: cause(), ..clean() }, FAILED),
            (Outcome { failed: some(), ..clean() }, FAILED),
            (Outcome { failed: some(), left: some(), ..clean() }, LEFT_OVER),
            (Outcome { cause: cause(), left: some(), ..clean() }, LEFT_OVER),
            (Outcome { gave_up: true, ..clean() }, LEFT_OVER),
        ];
        for (outcome, code) in rows {
            assert_eq!(outcome.code(), code, "{outcome:?}");
            assert!(outcome.line(Lost::default()).ends_with(&format!("exit code {code}")));
        }
    }

    #[test]
    fn the_last_line_says_what_ended_what_is_left_and_what_nobody_was_told() {
        let outcome = Outcome { phase: "stopped", ended: 12, ..Outcome::default() };
        assert_eq!(
            outcome.line(Lost { events: 3, log_lines: 40 }),
            "cofferdam: stopped in 0.0 s (stopped), 12 sandboxes ended, 0 failed, 0 objects left, \
             3 events and 40 log lines lost, exit code 0"
        );
    }
}
