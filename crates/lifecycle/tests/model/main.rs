//! The gate and the attempts under a model checker: the same source files as in production,
//! compiled against `sync` of this folder, whose locks and signals let the checker decide who runs
//! next.
//!
//! Everything that is checked decides under one lock and has no atomics, so interleavings of whole
//! operations are all there is to explore and the memory model adds nothing. Two callers are
//! explored exhaustively, more of them by 10,000 random schedules and 2,000 with few, well placed
//! preemptions, the same at every run. A failure prints the schedule that replays it.
//!
//! A checker that finds nothing proves nothing: `planted` has the classic mistakes, and each is
//! found by the very property that the real thing satisfies.
#![cfg(test)]

#[path = "../../src/attempt.rs"]
#[expect(unreachable_pub, dead_code, reason = "a library's file in a program")]
mod attempt;
mod attempts;
mod check;
#[path = "../../src/gate.rs"]
#[expect(unreachable_pub, dead_code, reason = "a library's file in a program")]
mod gate;
mod gates;
mod planted;
mod surroundings;
#[expect(dead_code, reason = "the node, which has the same checker, needs more of it")]
mod sync;

pub(crate) use lifecycle::Expired;
pub(crate) use surroundings::{Budget, TaskGroup};
