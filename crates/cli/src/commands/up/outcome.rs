//! How a service ended: its last lines and its exit code.

use std::process::ExitCode;
use std::time::Duration;

use crate::say;

/// Something went wrong; nothing is left.
pub(super) const FAILED: u8 = 1;
/// Something is left on the host.
pub(super) const LEFT_OVER: u8 = 2;
/// Nothing is left, and not everything had ended by itself.
pub(super) const FORCED: u8 = 3;
/// Another service has the data directory or the host, or what an earlier one left does not go.
pub(super) const REFUSED: u8 = 4;

/// What there is to tell of a stop.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    pub(super) took: Duration,
    /// The phase the node reached.
    pub(super) phase: &'static str,
    /// Sandboxes that were there when the stop began, without those that are still there.
    pub(super) ended: usize,
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
        tracing::info!(
            took_ms = self.took.as_millis(),
            phase = self.phase,
            stopped = self.ended,
            failed = self.failed.len(),
            leaked = self.left.len(),
            gave_up = self.gave_up,
            exit_code = code,
            "service stopped"
        );
        let line = self.line();
        if let Err(error) = say::answer(&line) {
            tracing::info!(error = %observe::chain(&error), "nobody reads standard output");
            say::remark(&line);
        }
        ExitCode::from(code)
    }

    fn line(&self) -> String {
        let left = if self.gave_up {
            "what is left is removed by the next start".to_owned()
        } else {
            format!("{} objects left", self.left.len())
        };
        format!(
            "cofferdam: stopped in {:.1} s ({}), {} sandboxes ended, {} failed, {left}, exit code {}",
            self.took.as_secs_f64(),
            self.phase,
            self.ended,
            self.failed.len(),
            self.code()
        )
    }
}

#[cfg(test)]
mod tests {
    use super::{FAILED, FORCED, LEFT_OVER, Outcome};

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
            assert!(outcome.line().ends_with(&format!("exit code {code}")));
        }
    }
}
