//! `cofferdam up` with sandboxes in it, and how it comes to its end: by signals, by an operator, in
//! the eyes of a service manager; what the next service finds; and the ends of single sandboxes in
//! the hands of an operator. Needs root.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

#[cfg(feature = "fault-injection")]
mod broken;
mod busy;
#[cfg(feature = "fault-injection")]
mod crash;
mod deletes;
mod disk;
mod explain;
mod foreign;
mod guest;
mod handover;
mod inside;
mod kit;
mod leaks;
mod memory;
mod operator;
mod pause;
mod records;
mod replace;
mod rivals;
mod sandboxes;
mod signals;
mod supervisor;
mod systemd;
mod teams;
#[cfg(feature = "fault-injection")]
mod uninstall;
mod upstream;
