use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;
use std::num::NonZero;

use model::{LifecycleId, SandboxId, Secret};

/// Where the traffic of a sandbox goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    pub sandbox: SandboxId,
    /// The run this address belongs to; a later run of the same sandbox has another.
    pub lifecycle: LifecycleId,
    /// Every port of the sandbox is at this address.
    pub addr: IpAddr,
}

/// What a sandbox asks of its clients, and what it sees of them. Nodes do not know it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ingress {
    /// The guest agent's token, `None` when it takes requests from whoever reaches it. An address
    /// signed with it says by that alone for which sandbox it is.
    pub agent_token: Option<Secret>,
    /// What a client must show on every port but the guest agent's; `None`: nothing.
    pub traffic_token: Option<Secret>,
    /// The host name that programs see instead of the one the client asked for, on every port but
    /// the guest agent's. `${PORT}` in it stands for the port.
    pub mask_host: Option<String>,
    /// Ports whose programs speak TLS. The guest agent's is none of them.
    pub https_ports: BTreeSet<NonZero<u16>>,
}

/// The edge's route table, as the control plane sees it.
pub trait Routes: fmt::Debug + Send + Sync {
    /// Makes `route` the one used for its sandbox, under the terms of `ingress`. Takes effect before
    /// it returns.
    fn publish(&self, route: Route, ingress: Ingress);

    /// Takes the route away if it still belongs to `lifecycle`, and ends its open connections.
    fn withdraw(&self, sandbox: &SandboxId, lifecycle: &LifecycleId);
}
