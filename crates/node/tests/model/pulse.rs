//! The pulse of production, with a point before and after each beat at which others may run.

use crate::sync::switch;

#[path = "../../src/pulse.rs"]
mod real;

#[derive(Debug, Clone, Default)]
pub(crate) struct Pulse(real::Pulse);

impl Pulse {
    pub(crate) fn beat(&self) {
        switch();
        self.0.beat();
        switch();
    }

    pub(crate) fn listen(&self) -> real::Beats {
        self.0.listen()
    }
}
