//! What a stop closes, in its order.

/// What a stop closes when the sandboxes are gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Closer {
    /// Rounds of teardowns that are stuck: none runs beside the closers.
    Rounds,
    /// The tasks that keep the node going.
    Upkeep,
    /// Children that nobody waits for.
    Orphans,
    /// Slots that are ready, and every link.
    Slots,
    /// The firewall's table.
    Firewall,
    /// The cgroup of helpers.
    Helpers,
    /// The roots of the cgroups.
    Cgroups,
}

impl Closer {
    /// In their fixed order.
    pub(crate) const ALL: [Self; 7] = [
        Self::Rounds,
        Self::Upkeep,
        Self::Orphans,
        Self::Slots,
        Self::Firewall,
        Self::Helpers,
        Self::Cgroups,
    ];

    /// The closer's name in errors, and its fault point.
    const fn names(self) -> [&'static str; 2] {
        macro_rules! names {
            ($name:literal) => {
                [$name, concat!("close.", $name)]
            };
        }
        match self {
            Self::Rounds => names!("rounds"),
            Self::Upkeep => names!("upkeep"),
            Self::Orphans => names!("orphans"),
            Self::Slots => names!("slots"),
            Self::Firewall => names!("firewall"),
            Self::Helpers => names!("helpers"),
            Self::Cgroups => names!("cgroups"),
        }
    }

    pub(crate) const fn name(self) -> &'static str {
        let [name, _] = self.names();
        name
    }

    pub(crate) const fn point(self) -> &'static str {
        let [_, point] = self.names();
        point
    }

    /// Its share of the time that all of them have together.
    pub(crate) const fn weight(self) -> u32 {
        match self {
            // The kernel takes links away when it gets to it.
            Self::Rounds | Self::Slots => 3,
            Self::Upkeep => 2,
            Self::Orphans | Self::Firewall | Self::Helpers | Self::Cgroups => 1,
        }
    }
}
