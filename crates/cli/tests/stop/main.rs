//! `cofferdam up` with sandboxes in it, and how it comes to its end: by signals, by an operator, in
//! the eyes of a service manager. Needs root.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod kit;
mod operator;
mod signals;
mod supervisor;
