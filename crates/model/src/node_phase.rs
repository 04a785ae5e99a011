/// What a node says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum NodePhase {
    /// Reclaiming what an earlier daemon left; nothing is admitted yet.
    Starting,
    Healthy,
    /// No new work; what runs may finish. There is no way back.
    Draining,
    /// The census was empty and admission is closed for good.
    Stopped,
}

impl NodePhase {
    pub const ALL: [Self; 4] = [Self::Starting, Self::Healthy, Self::Draining, Self::Stopped];

    /// Whether a node in this phase may be told, or may decide, to be in `next`.
    #[must_use]
    pub const fn may_become(self, next: Self) -> bool {
        match (self, next) {
            (Self::Starting | Self::Healthy, Self::Healthy)
            | (Self::Starting | Self::Healthy | Self::Draining, Self::Draining)
            | (Self::Draining | Self::Stopped, Self::Stopped) => true,
            (_, Self::Starting | Self::Healthy | Self::Draining | Self::Stopped) => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::NodePhase;

    #[test]
    fn a_drain_is_never_reversed() {
        for next in NodePhase::ALL {
            let forward = matches!(next, NodePhase::Draining | NodePhase::Stopped);
            assert_eq!(NodePhase::Draining.may_become(next), forward, "draining to {next:?}");
            assert_eq!(NodePhase::Stopped.may_become(next), next == NodePhase::Stopped);
        }
    }
}
