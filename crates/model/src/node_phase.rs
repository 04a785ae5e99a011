//! What a node says of itself, and what may become of it.

/// Where a node stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum NodePhase {
    /// Reclaiming what an earlier daemon left; nothing is admitted yet.
    Starting,
    Healthy,
    /// Works, but is not to be chosen for new sandboxes.
    Standby,
    /// An operator says that it must not be chosen.
    Unhealthy,
    /// No new work, for good; what runs may finish.
    Draining,
    /// What runs is being ended.
    Forcing,
    /// An attempt to end it all has left something.
    ForceFailed,
    /// The census was empty with admission closed.
    Stopped,
}

/// What an operator, a signal or a timer asks of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum NodeRequest {
    Healthy,
    Standby,
    Unhealthy,
    Drain,
    /// Drain, and end at once what runs.
    DrainForced,
}

/// What a request does to a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// Nothing; the time of the last change stays.
    None,
    /// The node is in this phase now.
    To(NodePhase),
    /// A force attempt is running already; the request joins it.
    Join,
}

/// A drain cannot be reversed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the node is {from:?}: a drain cannot be reversed")]
pub struct DrainIsFinal {
    pub from: NodePhase,
}

impl NodePhase {
    pub const ALL: [Self; 8] = [
        Self::Starting,
        Self::Healthy,
        Self::Standby,
        Self::Unhealthy,
        Self::Draining,
        Self::Forcing,
        Self::ForceFailed,
        Self::Stopped,
    ];

    /// What `request` does in this phase. A node that starts takes no request but to drain: its
    /// admission never opens then.
    ///
    /// # Errors
    /// [`DrainIsFinal`] for every way back from a drain.
    pub const fn on(self, request: NodeRequest) -> Result<Change, DrainIsFinal> {
        use NodeRequest as R;
        match (self, request) {
            (Self::Starting, R::Healthy | R::Standby | R::Unhealthy)
            | (Self::Healthy, R::Healthy)
            | (Self::Standby, R::Standby)
            | (Self::Unhealthy, R::Unhealthy)
            | (Self::Draining | Self::Forcing | Self::ForceFailed | Self::Stopped, R::Drain)
            | (Self::Stopped, R::DrainForced) => Ok(Change::None),
            (Self::Standby | Self::Unhealthy, R::Healthy) => Ok(Change::To(Self::Healthy)),
            (Self::Healthy | Self::Unhealthy, R::Standby) => Ok(Change::To(Self::Standby)),
            (Self::Healthy | Self::Standby, R::Unhealthy) => Ok(Change::To(Self::Unhealthy)),
            (Self::Starting | Self::Healthy | Self::Standby | Self::Unhealthy, R::Drain) => {
                Ok(Change::To(Self::Draining))
            }
            (
                Self::Starting
                | Self::Healthy
                | Self::Standby
                | Self::Unhealthy
                | Self::Draining
                | Self::ForceFailed,
                R::DrainForced,
            ) => Ok(Change::To(Self::Forcing)),
            (Self::Forcing, R::DrainForced) => Ok(Change::Join),
            (
                Self::Draining | Self::Forcing | Self::ForceFailed | Self::Stopped,
                R::Healthy | R::Standby | R::Unhealthy,
            ) => Err(DrainIsFinal { from: self }),
        }
    }

    /// Whether it drains, or has drained.
    #[must_use]
    pub const fn is_draining(self) -> bool {
        matches!(self, Self::Draining | Self::Forcing | Self::ForceFailed | Self::Stopped)
    }

    /// Whether placement may choose it.
    #[must_use]
    pub const fn is_eligible(self) -> bool {
        matches!(self, Self::Healthy)
    }

    /// The word in status, logs and commands.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Healthy => "healthy",
            Self::Standby => "standby",
            Self::Unhealthy => "unhealthy",
            Self::Draining => "draining",
            Self::Forcing => "forcing",
            Self::ForceFailed => "force-failed",
            Self::Stopped => "stopped",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Change, DrainIsFinal, NodePhase, NodeRequest};

    /// Every pair, by hand: rows are phases, columns are requests.
    #[test]
    fn every_pair_of_phase_and_request_is_decided() {
        use NodePhase::{
            Draining, ForceFailed, Forcing, Healthy, Standby, Starting, Stopped, Unhealthy,
        };
        const REQUESTS: [NodeRequest; 5] = [
            NodeRequest::Healthy,
            NodeRequest::Standby,
            NodeRequest::Unhealthy,
            NodeRequest::Drain,
            NodeRequest::DrainForced,
        ];
        let no = Ok(Change::None);
        let to = |phase| Ok(Change::To(phase));
        let back = |from| Err(DrainIsFinal { from });
        let join = Ok(Change::Join);
        let rows = [
            (Starting, [no, no, no, to(Draining), to(Forcing)]),
            (Healthy, [no, to(Standby), to(Unhealthy), to(Draining), to(Forcing)]),
            (Standby, [to(Healthy), no, to(Unhealthy), to(Draining), to(Forcing)]),
            (Unhealthy, [to(Healthy), to(Standby), no, to(Draining), to(Forcing)]),
            (Draining, [back(Draining), back(Draining), back(Draining), no, to(Forcing)]),
            (Forcing, [back(Forcing), back(Forcing), back(Forcing), no, join]),
            (
                ForceFailed,
                [back(ForceFailed), back(ForceFailed), back(ForceFailed), no, to(Forcing)],
            ),
            (Stopped, [back(Stopped), back(Stopped), back(Stopped), no, no]),
        ];
        assert_eq!(rows.map(|(phase, _)| phase), NodePhase::ALL);
        for (phase, expected) in rows {
            for (request, expected) in REQUESTS.into_iter().zip(expected) {
                assert_eq!(phase.on(request), expected, "{phase:?} on {request:?}");
            }
        }
    }

    #[test]
    fn no_request_leads_out_of_a_drain() {
        for phase in NodePhase::ALL.into_iter().filter(|p| p.is_draining()) {
            for request in [NodeRequest::Healthy, NodeRequest::Drain, NodeRequest::DrainForced] {
                if let Ok(Change::To(next)) = phase.on(request) {
                    assert!(next.is_draining(), "{phase:?} to {next:?}");
                }
            }
            assert!(!phase.is_eligible());
        }
    }
}
