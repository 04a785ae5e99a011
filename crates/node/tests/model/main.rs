//! The registry, admission and the stock of slots under a model checker: the same source files as
//! in production, compiled against `sync` of the checker, which decides who runs next. See
//! `lifecycle`'s test of the same name.
#![cfg(test)]

#[path = "../../src/admission.rs"]
mod admission;
#[path = "../../../lifecycle/tests/model/check.rs"]
mod check;
#[path = "../../src/entry.rs"]
#[expect(dead_code, reason = "supervision and status are not checked here")]
mod entry;
mod lifecycles;
mod planted;
mod pool;
mod pulse;
#[path = "../../src/registry.rs"]
mod registry;
mod slots;
#[path = "../../../lifecycle/tests/model/sync.rs"]
#[expect(dead_code, reason = "the node needs less of it")]
mod sync;

/// What an entry says of its teardown.
mod teardown {
    pub(crate) use node::Step;
}
