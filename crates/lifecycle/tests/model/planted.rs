//! The classic mistakes. Nothing here is used but to show that the checker finds them.

pub(crate) mod attempt;
pub(crate) mod gate;
