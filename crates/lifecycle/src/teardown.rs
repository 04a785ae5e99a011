//! What is left to release, in the order in which it must go.

use std::fmt;
use std::time::Duration;

/// The name of a step, as shown in status and logs.
pub trait StepName: Copy + Eq + fmt::Debug + Send + 'static {
    /// Steps whose failure keeps this one from being tried.
    fn needs(self) -> &'static [Self];
    /// The most time one try of this step may take.
    fn limit(self) -> Duration;
}

/// One step that did not end well in the last round.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StepFailure<S> {
    pub step: S,
    pub error: String,
}

/// The steps that have not been confirmed. It only ever shrinks.
///
/// A step that failed stays and is the only one tried again; steps that do not need it go on
/// (R6). Releasing must therefore be idempotent: a step may have done its work before its
/// confirmation was lost.
#[derive(Debug, Clone)]
pub struct Plan<S> {
    pending: Vec<S>,
    /// Where this round is.
    at: usize,
    rounds: u32,
    failed: Vec<StepFailure<S>>,
}

impl<S: StepName> Plan<S> {
    /// A plan of `steps`, run front to back.
    #[must_use]
    pub fn new(steps: Vec<S>) -> Self {
        Self { pending: steps, at: 0, rounds: 0, failed: Vec::new() }
    }

    /// Begins a round over what is left.
    pub fn begin(&mut self) {
        self.rounds += 1;
        self.at = 0;
        self.failed.clear();
    }

    /// The next step of this round, or `None` when the round is over. A step that needs one that is
    /// still pending is passed over and counts as failed.
    ///
    /// The step stays pending until [`Plan::settle`] says that it is gone: a round that is dropped
    /// in the middle forgets nothing.
    pub fn next_step(&mut self) -> Option<S> {
        while let Some(&step) = self.pending.get(self.at) {
            let held = step.needs().iter().find(|need| self.pending.contains(need));
            let Some(held) = held else { return Some(step) };
            let error = format!("waits for {held:?}");
            self.failed.push(StepFailure { step, error });
            self.at += 1;
        }
        None
    }

    /// Says how `step`, which [`Plan::next_step`] gave out last, ended.
    pub fn settle(&mut self, step: S, ended: Result<(), String>) {
        match ended {
            Ok(()) => self.pending.retain(|left| *left != step),
            Err(error) => {
                self.failed.push(StepFailure { step, error });
                self.at += 1;
            }
        }
    }

    /// Whether every step was confirmed.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.pending.is_empty()
    }

    /// What is left.
    #[must_use]
    pub fn pending(&self) -> &[S] {
        &self.pending
    }

    /// How many rounds have begun.
    #[must_use]
    pub fn rounds(&self) -> u32 {
        self.rounds
    }

    /// The failures of the last round.
    #[must_use]
    pub fn failures(&self) -> &[StepFailure<S>] {
        &self.failed
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{Plan, StepName};

    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    enum Step {
        Kill,
        Mount,
        Slot,
        Files,
    }

    impl StepName for Step {
        fn needs(self) -> &'static [Self] {
            match self {
                Self::Kill => &[],
                Self::Mount | Self::Slot => &[Self::Kill],
                Self::Files => &[Self::Mount],
            }
        }
        fn limit(self) -> Duration {
            Duration::from_secs(1)
        }
    }

    const ALL: [Step; 4] = [Step::Kill, Step::Mount, Step::Slot, Step::Files];

    fn run(plan: &mut Plan<Step>, broken: Option<Step>) -> Vec<Step> {
        let mut ran = Vec::new();
        plan.begin();
        while let Some(step) = plan.next_step() {
            ran.push(step);
            plan.settle(step, if Some(step) == broken { Err("busy".into()) } else { Ok(()) });
        }
        ran
    }

    #[test]
    fn a_failed_step_holds_back_only_what_needs_it_and_is_retried_alone() {
        for broken in ALL {
            let mut plan = Plan::new(ALL.to_vec());
            assert!(run(&mut plan, Some(broken)).contains(&broken));
            let held = plan.pending().to_vec();
            assert!(held.contains(&broken), "{broken:?} is kept");
            assert_eq!(plan.failures().len(), held.len());
            assert_eq!(run(&mut plan, None), held, "only what is left runs again");
            assert!(plan.is_done() && plan.failures().is_empty());
        }
    }

    #[test]
    fn a_finished_plan_does_nothing() {
        let mut plan = Plan::new(ALL.to_vec());
        assert_eq!(run(&mut plan, None), ALL);
        assert_eq!(run(&mut plan, Some(Step::Kill)), []);
    }

    #[test]
    fn a_dropped_round_keeps_the_step_that_was_running() {
        let mut plan = Plan::new(ALL.to_vec());
        plan.begin();
        let kill = plan.next_step().unwrap();
        plan.settle(kill, Ok(()));
        let mount = plan.next_step().unwrap();
        assert_eq!(mount, Step::Mount);
        // The caller is dropped here. The next one finds it again.
        assert_eq!(run(&mut plan, None), [Step::Mount, Step::Slot, Step::Files]);
    }
}
