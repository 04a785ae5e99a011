use std::collections::BTreeMap;
use std::time::Duration;

use crate::{Egress, Ipv4Range, SandboxId, Secret, TeamId, TemplateId};

/// What a sandbox may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Resources {
    /// Whole processors' worth of time.
    pub vcpus: u32,
    /// Memory including page cache, MiB. Swap is never added to it.
    pub memory_mib: u64,
    /// Size told to users, MiB; enforced only where the driver can.
    pub disk_mib: u64,
}

/// What a pause keeps of a sandbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Keep {
    /// Everything: its processes halt and go on later. Its files are kept safe all the same, for the
    /// day on which the memory is lost.
    Memory,
    /// What it has written to its file system. Its processes end; it starts anew later.
    Files,
}

/// What becomes of a sandbox when its time is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnTimeout {
    Kill,
    Pause(Keep),
}

/// Everything a node has to know to run a sandbox.
#[derive(Debug, Clone)]
pub struct SandboxSpec {
    pub id: SandboxId,
    pub team: TeamId,
    pub template: TemplateId,
    /// `None`: what the template says.
    pub resources: Option<Resources>,
    pub env: BTreeMap<String, String>,
    pub metadata: BTreeMap<String, String>,
    /// The guest agent's token; `None` leaves the agent open to whoever reaches it.
    pub access_token: Option<Secret>,
    /// Counted from the moment the guest agent answered.
    pub ttl: Duration,
    pub on_timeout: OnTimeout,
    /// Whether it may open connections to the internet.
    pub internet: bool,
    /// Which ones, if any.
    pub egress: Egress,
}

impl SandboxSpec {
    /// The rules it starts with; without internet everything is denied that is not allowed.
    #[must_use]
    pub fn rules(&self) -> Egress {
        let mut rules = self.egress.clone();
        if !self.internet {
            rules.deny.push(Ipv4Range::ALL);
        }
        rules
    }
}

/// Why a sandbox ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum EndReason {
    /// Somebody asked.
    Request,
    /// Its time was over.
    Timeout,
    /// The machine ended by itself.
    Crashed,
    /// The start failed.
    StartFailed,
    /// The node stops.
    NodeStop,
    /// An earlier daemon left it behind and this one could not take it over.
    Reclaimed,
    /// The host was restarted under it.
    HostRestart,
    /// It was paused, and its processes were not kept.
    Paused,
}

impl EndReason {
    /// The word used in logs, events and the store.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Request => "request",
            Self::Timeout => "timeout",
            Self::Crashed => "crashed",
            Self::StartFailed => "start-failed",
            Self::NodeStop => "node-stop",
            Self::Reclaimed => "reclaimed",
            Self::HostRestart => "host-restart",
            Self::Paused => "paused",
        }
    }
}
