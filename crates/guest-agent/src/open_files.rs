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
    /// Lets this program have as many as it is allowed to. An agent before this one may have done
    /// so already: it hands on the soft limit that it found itself.
    pub(crate) fn raise(handed_on: Option<Option<u64>>) -> Self {
        let found = getrlimit(Resource::Nofile);
        let inherited = Rlimit { current: handed_on.unwrap_or(found.current), ..found };
        let raised = Rlimit { current: inherited.maximum, maximum: inherited.maximum };
        // Up to the hard limit that is always allowed; if not, it stays as it is.
        let _refused = setrlimit(Resource::Nofile, raised);
        let most = getrlimit(Resource::Nofile).current;
        Self { most: most.and_then(|most| most.try_into().ok()).unwrap_or(usize::MAX), inherited }
    }

    /// What processes get, soft and hard, as the kernel reads it.
    pub(crate) fn as_raw(self) -> [u64; 2] {
        let Rlimit { current, maximum } = self.inherited;
        [current, maximum].map(|limit| limit.unwrap_or(libc::RLIM_INFINITY))
    }
}
