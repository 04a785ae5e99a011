//! `PUT /sandboxes/{id}/network`.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use e2b_wire::NetworkUpdate;
use http::StatusCode;
use model::{Egress, Ipv4Range, SandboxId};
use tracing::info_span;

use crate::Team;
use crate::app::App;
use crate::auth::Caller;
use crate::http::{ApiError, JsonBody, SandboxPath};
use crate::network::{check_egress, egress, updated};
use crate::node_answers;

/// How long a node may take to set rules.
const CALL_LIMIT: Duration = Duration::from_secs(10);

pub(crate) async fn update(
    State(app): State<Arc<App>>,
    caller: Caller,
    SandboxPath(id): SandboxPath,
    body: JsonBody<NetworkUpdate>,
) -> Result<StatusCode, ApiError> {
    let span = info_span!("network", sandbox.id = %id);
    let work = Arc::clone(&app).update_network(caller.team, id, body.value);
    app.owned(span, work).await?;
    Ok(StatusCode::NO_CONTENT)
}

impl App {
    /// Replaces the rules of a running sandbox for connections to the outside.
    async fn update_network(
        self: Arc<Self>,
        team: Arc<Team>,
        id: SandboxId,
        update: NetworkUpdate,
    ) -> Result<(), ApiError> {
        // Of two changes at a time, the one that is recorded last is in force.
        let _alone = self.lock_end(&id).await;
        let row = self.running(&team, &id).await?;
        let internet = update.allow_internet_access;
        let network = updated(row.network.clone(), update);
        check_egress(&network)?;
        let mut rules: Egress = egress(&network)?;
        if internet == Some(false) {
            rules.deny.push(Ipv4Range::ALL);
        }
        let node = self.node_of(&row)?;
        let set = node.within(CALL_LIMIT, node.api().set_egress(&id, rules)).await;
        set.map_err(|error| node_answers::call_failed(&error, &id))?;
        Ok(self.store.set_network(&id, &network, internet).await?)
    }
}
