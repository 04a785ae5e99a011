//! How long is searched, and how a mistake is expected to be found.

use std::panic::{AssertUnwindSafe, catch_unwind};

use shuttle::scheduler::{PctScheduler, RandomScheduler, Scheduler};
use shuttle::{Config, Runner};

/// Executions by random schedules.
const RANDOM: usize = 10_000;
/// Executions by schedules with few preemptions; these need fewer, they look at likely places.
const PREEMPTED: usize = 2_000;
/// Preemptions that a mistake may need: those that people make need one or two.
const DEPTH: usize = 3;
/// The same schedules at every run: what is red stays red until it is mended.
const SEED: u64 = 0xC0FF_E4DA;

/// Holds in every schedule that is tried.
pub(crate) fn holds(property: impl Fn() + Copy + Send + Sync + 'static) {
    run(RandomScheduler::new_from_seed(SEED, RANDOM), property);
    run(PctScheduler::new_from_seed(SEED, DEPTH, PREEMPTED), property);
}

fn run(scheduler: impl Scheduler + 'static, property: impl Fn() + Send + Sync + 'static) {
    Runner::new(scheduler, Config::new()).run(property);
}

/// Holds in every schedule there is.
pub(crate) fn holds_always(property: impl Fn() + Copy + Send + Sync + 'static) {
    shuttle::check_dfs(property, None);
}

/// Is broken by some schedule, in the way that `expected` says.
pub(crate) fn is_found(expected: &str, property: impl Fn() + Copy + Send + Sync + 'static) {
    let found = catch_unwind(AssertUnwindSafe(|| holds(property)));
    let panic = found.expect_err("the checker does not see the mistake");
    let text = panic.downcast_ref::<String>().cloned();
    let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
    let text = text.expect("a message");
    assert!(text.contains(expected), "{expected:?} was expected, not {text:?}");
}
