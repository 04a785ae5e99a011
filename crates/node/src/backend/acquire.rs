//! What a start acquires, in its order, and where a test can make it fail.

/// What a lifecycle acquires.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Acquire {
    /// The lifecycle directory with its record.
    Directory,
    /// The right to the template's files.
    Lease,
    /// Namespaces, links and addresses.
    Slot,
    /// The cgroups, with limits.
    Cgroup,
    /// The machine: its files, mounts and processes.
    Machine,
    /// The guest agent's first answer.
    Init,
}

impl Acquire {
    /// In the order in which they are acquired.
    pub(crate) const ALL: [Self; 6] =
        [Self::Directory, Self::Lease, Self::Slot, Self::Cgroup, Self::Machine, Self::Init];

    /// The step's name in errors, and the fault points before and after it.
    const fn names(self) -> [&'static str; 3] {
        macro_rules! names {
            ($name:literal) => {
                [$name, concat!("create.", $name, ".before"), concat!("create.", $name, ".after")]
            };
        }
        match self {
            Self::Directory => names!("directory"),
            Self::Lease => names!("lease"),
            Self::Slot => names!("slot"),
            Self::Cgroup => names!("cgroup"),
            Self::Machine => names!("machine"),
            Self::Init => names!("init"),
        }
    }

    pub(crate) const fn name(self) -> &'static str {
        let [name, _, _] = self.names();
        name
    }

    pub(crate) const fn before(self) -> &'static str {
        let [_, before, _] = self.names();
        before
    }

    pub(crate) const fn after(self) -> &'static str {
        let [_, _, after] = self.names();
        after
    }
}

/// The fault points within the making of a machine, in the order in which they are passed.
pub(crate) const MACHINE_POINTS: [&str; 5] = [
    "create.mount.before",
    "create.mount.after",
    "create.runtime.before",
    "create.runtime.after",
    "create.start.after",
];

/// The fault points around the writing that makes it live.
pub(crate) const LIVE_POINTS: [&str; 2] = ["create.live.before", "create.live.after"];

const POINTS: usize = 2 * Acquire::ALL.len() + MACHINE_POINTS.len() + LIVE_POINTS.len();

/// Every fault point of a create: those around each step, then those within the machine's, then
/// those of the last writing.
pub const CREATE_POINTS: [&str; POINTS] = {
    let mut points = [""; POINTS];
    let mut at = 0;
    while at < Acquire::ALL.len() {
        points[2 * at] = Acquire::ALL[at].before();
        points[2 * at + 1] = Acquire::ALL[at].after();
        at += 1;
    }
    let mut within = 0;
    while within < MACHINE_POINTS.len() {
        points[2 * at + within] = MACHINE_POINTS[within];
        within += 1;
    }
    points[2 * at + within] = LIVE_POINTS[0];
    points[2 * at + within + 1] = LIVE_POINTS[1];
    points
};
