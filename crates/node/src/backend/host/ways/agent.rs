//! What a sandbox must be told before rules are in force.

use std::net::SocketAddr;

use guest_wire::rest::InitRequest;
use lifecycle::Budget;
use model::Secret;

use super::WayError;

/// The guest agent of one sandbox.
#[derive(Debug, Clone)]
pub(crate) struct Agent {
    pub(crate) address: SocketAddr,
    pub(crate) token: Option<Secret>,
}

impl Agent {
    /// Has the programs of the sandbox believe `certificate`. May be repeated.
    pub(super) async fn tell(&self, certificate: &str, budget: Budget) -> Result<(), WayError> {
        let token = self.token.as_ref().map(|token| token.expose().to_owned());
        let request = InitRequest {
            // One that is absent is taken away.
            access_token: token.clone(),
            ca_bundle: Some(certificate.to_owned()),
            ..InitRequest::default()
        };
        let told = guest_wire::client::init(self.address, token.as_deref(), &request);
        budget.run("guest agent", told).await?.map(drop).map_err(WayError::Tell)
    }
}
