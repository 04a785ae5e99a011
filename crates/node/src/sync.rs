//! What code that is model checked is made of.
//!
//! `tests/model` compiles that code a second time, from the same files, against a module of the
//! same name whose locks and signals let the checker choose who runs next.

pub(crate) use std::sync::Arc;

pub(crate) use parking_lot::Mutex;
pub(crate) use tokio::sync::Notify;
