use std::fmt;
use std::net::IpAddr;

use model::{LifecycleId, SandboxId};

/// Where the traffic of a sandbox goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    pub sandbox: SandboxId,
    /// The run this address belongs to; a later run of the same sandbox has another.
    pub lifecycle: LifecycleId,
    /// Every port of the sandbox is at this address.
    pub addr: IpAddr,
}

/// The edge's route table, as the control plane sees it.
pub trait Routes: fmt::Debug + Send + Sync {
    /// Makes `route` the one used for its sandbox. Takes effect before it returns.
    fn publish(&self, route: Route);

    /// Takes the route away if it still belongs to `lifecycle`, and ends its open connections.
    fn withdraw(&self, sandbox: &SandboxId, lifecycle: &LifecycleId);
}
