//! How many descriptors there may be at a time.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// The limit on open files: the agent's own, and what it hands on.
#[derive(Debug, Clone, Copy)]
pub(crate) struct OpenFiles {
    /// Of the agent.
    pub(crate) most: usize,
    /// Soft and hard, as the agent itself found them and as every process it starts has them: many
    /// programs cannot do with more descriptors than `select` knows, and the agent cannot do with
    /// so few.
    pub(crate) inherited: Rlimit,
}

impl OpenFiles {
    /// Lets this program have as many as it is allowed to.
    pub(crate) fn raise() -> Self {
        let inherited = getrlimit(Resource::Nofile);
        let raised = Rlimit { current: inherited.maximum, maximum: inherited.maximum };
        // Up to the hard limit that is always allowed; if not, it stays as it is.
        let _refused = setrlimit(Resource::Nofile, raised);
        let most = getrlimit(Resource::Nofile).current;
        Self { most: most.and_then(|most| most.try_into().ok()).unwrap_or(usize::MAX), inherited }
    }
}
