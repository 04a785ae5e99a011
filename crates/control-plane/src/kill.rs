use std::sync::Arc;

use model::{EndReason, SandboxId};
use node_wire::NodeError;

use crate::Team;
use crate::app::App;
use crate::http::ApiError;
use crate::node_answers;
use crate::store::RowState;

impl App {
    /// Ends a sandbox of `team` and answers when the node released everything it held. Joins an
    /// end that is under way; tries again what is stuck.
    pub(crate) async fn kill(
        self: Arc<Self>,
        team: Arc<Team>,
        id: SandboxId,
    ) -> Result<(), ApiError> {
        let Some(row) = self.store.sandbox(&team.id, &id).await? else {
            return Err(ApiError::no_sandbox(&id));
        };
        self.store.sandbox_killing(&id).await?;
        if let Some(lifecycle) = &row.lifecycle {
            self.routes.withdraw(&id, lifecycle);
        }
        let node = self.node_of(&row)?;
        // Longer than anybody waits for the answer.
        let limit = self.config.limits.request;
        match node.within(limit, node.api().kill(&id, EndReason::Request)).await {
            // Not there any more: it ended by itself a moment ago, or its start is being undone.
            Ok(()) | Err(NodeError::NotFound(_)) => {
                let reason = EndReason::Request.as_str();
                self.store.close_sandbox(&id, RowState::Killing, reason).await?;
                tracing::info!("sandbox killed");
                Ok(())
            }
            Err(error) => {
                tracing::error!(error = %observe::chain(&error), "sandbox is not gone yet");
                Err(node_answers::call_failed(&error, &id))
            }
        }
    }
}
