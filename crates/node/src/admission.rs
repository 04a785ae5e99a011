use lifecycle::Pass;

use crate::pulse::Pulse;

/// A pass through the node's gate. Leaving is told to whoever waits for the node to be empty.
#[derive(Debug)]
pub(crate) struct Admitted {
    pass: Option<Pass>,
    pulse: Pulse,
}

impl Admitted {
    pub(crate) fn new(pass: Pass, pulse: Pulse) -> Self {
        Self { pass: Some(pass), pulse }
    }
}

impl Drop for Admitted {
    fn drop(&mut self) {
        // First out, then told: who counts after the beat does not count this one.
        drop(self.pass.take());
        self.pulse.beat();
    }
}
