//! Telling a person, on standard error, how work is getting on.

use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

/// One piece of work with known steps: a bar on a terminal, otherwise a line for each step.
#[derive(Debug)]
pub(crate) struct Progress {
    what: &'static str,
    bar: Option<ProgressBar>,
    started: Instant,
}

impl Progress {
    pub(crate) fn start(what: &'static str, steps: u64) -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::new(steps).with_prefix(what);
            // A template that is wrong is a bug of ours; the plain bar is good enough then.
            if let Ok(style) =
                ProgressStyle::with_template("{prefix} {bar:24} {pos}/{len} {elapsed} {msg}")
            {
                bar.set_style(style);
            }
            bar.enable_steady_tick(Duration::from_millis(200));
            bar
        });
        Self { what, bar, started: Instant::now() }
    }

    /// `step` is being done now.
    pub(crate) fn step(&self, step: u64, what: &'static str) {
        match &self.bar {
            Some(bar) => {
                bar.set_position(step.saturating_sub(1));
                bar.set_message(what);
            }
            None => self.line(what),
        }
    }

    pub(crate) fn done(self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
        self.line("done");
    }

    pub(crate) fn failed(self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
        self.line("failed");
    }

    fn line(&self, what: &str) {
        let elapsed = self.started.elapsed().as_secs_f64();
        // Nobody may be reading any more; the work goes on.
        drop(writeln!(std::io::stderr(), "{}: {elapsed:5.1} s  {what}", self.what));
    }
}
