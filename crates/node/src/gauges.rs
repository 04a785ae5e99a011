use model::SandboxPhase;

use crate::start::Node;
use crate::teardown::Step;

/// What a node has now, to be measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gauges {
    /// Creates and builds that were admitted and are not in force yet.
    pub passes: u32,
    pub slots: Slots,
}

/// Where the slots of a node are. Every slot is in one place, so they add up to all there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Slots {
    /// Ready for the next sandboxes.
    pub warm: usize,
    pub making: usize,
    /// With a sandbox.
    pub used: usize,
    /// With a sandbox whose end has left it.
    pub stuck: usize,
    /// Closed; the kernel takes the link away.
    pub leaving: usize,
    pub free: usize,
}

impl Slots {
    #[must_use]
    pub const fn total(self) -> usize {
        self.warm + self.making + self.used + self.stuck + self.leaving + self.free
    }
}

impl Node {
    #[must_use]
    pub fn gauges(&self) -> Gauges {
        let inner = &self.inner;
        let counts = inner.backend.slots();
        let entries = inner.registry.all();
        let keeps_slot = |state: crate::entry::State| {
            state.phase == SandboxPhase::Stuck && state.pending.contains(&Step::Slot)
        };
        let stuck = entries.iter().filter(|entry| keeps_slot(entry.state())).count();
        // A stuck one that never had a slot has the step pending all the same.
        let stuck = stuck.min(counts.out);
        let slots = Slots {
            warm: counts.warm,
            making: counts.making,
            used: counts.out - stuck,
            stuck,
            leaving: counts.leaving,
            free: counts.free,
        };
        Gauges { passes: inner.gate.inside(), slots }
    }
}
