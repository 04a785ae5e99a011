//! One line on standard error for what is odd. Never data of users: no commands, no paths of
//! requests, no variables.

use std::fmt::Display;
use std::io::Write as _;

/// Says that something odd happened and was survived.
pub(crate) fn odd(what: impl Display) {
    // Nobody reading standard error is no reason to fail.
    drop(writeln!(std::io::stderr(), "envd: {what}"));
}
