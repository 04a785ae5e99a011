use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::time::Duration;

use host::Faults;

/// What to do about limits that this host cannot enforce.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LimitsPolicy {
    /// Run without them, and say so in the status.
    Auto,
    /// Refuse to start.
    Require,
}

/// Everything a node is told. Checked whole by [`crate::Node::start`].
#[derive(Debug, Clone)]
pub struct Config {
    /// Absolute. The node's files are below `node/` in it.
    pub data_dir: PathBuf,
    pub version: String,
    /// The guest agent: a static binary.
    pub agent: PathBuf,
    /// `auto`, `crun` or `runc`.
    pub runtime: String,
    pub limits: LimitsPolicy,
    /// First address of the /16 that the nodes of this host share.
    pub network: Ipv4Addr,
    /// Empty: the host's own.
    pub resolvers: Vec<Ipv4Addr>,
    /// A file with certificates of authorities, PEM: servers whose HTTPS requests are given headers
    /// are believed by these. `None`: those that the host believes.
    pub authorities: Option<PathBuf>,
    /// Sandboxes at a time, those that start and those that are stuck included.
    pub max_sandboxes: u32,
    /// Sandboxes that may be starting at a time.
    pub max_starting: u32,
    /// Slots kept ready.
    pub warm_slots: u16,
    /// Processes and threads in one sandbox.
    pub max_pids: u64,
    /// No new sandbox when less than this is free on the data directory's file system, MiB.
    pub disk_reserve_mib: u64,
    /// The time one round of a teardown may take.
    pub teardown_limit: Duration,
    /// The time one attempt to end everything may take.
    pub force_limit: Duration,
    /// Records of ended sandboxes that are kept, and for how long.
    pub ended_kept: usize,
    pub ended_max: Duration,
    /// Disk size told of templates built here, MiB.
    pub disk_mib: u64,
    pub faults: Faults,
}

impl Config {
    /// The usual settings for `data_dir`, with the guest agent at `agent`.
    #[must_use]
    pub fn new(data_dir: PathBuf, agent: PathBuf) -> Self {
        Self {
            data_dir,
            version: env!("CARGO_PKG_VERSION").into(),
            agent,
            runtime: "auto".into(),
            limits: LimitsPolicy::Auto,
            network: Ipv4Addr::new(10, 213, 0, 0),
            resolvers: Vec::new(),
            authorities: None,
            max_sandboxes: 1000,
            max_starting: 32,
            warm_slots: 16,
            max_pids: 2048,
            disk_reserve_mib: 1024,
            teardown_limit: Duration::from_secs(30),
            force_limit: Duration::from_secs(30),
            ended_kept: 1000,
            ended_max: Duration::from_secs(7 * 24 * 3600),
            disk_mib: 10 * 1024,
            faults: Faults::default(),
        }
    }

    pub(crate) fn lifecycles(&self) -> PathBuf {
        self.data_dir.join("node").join("lifecycles")
    }
}
