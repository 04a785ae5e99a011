//! The node's own listener, for a control plane or a tool on another machine.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use lifecycle::{Budget, TaskGroup};
use node_wire::NodeApi;
use node_wire::grpc::{self, Auth};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::credentials::Credentials;

/// The listener outlives the node's work, so that its end can be watched: all that is under way
/// when it stops are answers on their way out, and streams.
const GRACE: Duration = Duration::from_secs(1);

/// The node's calls, being served until [`Rpc::close`].
#[derive(Debug)]
pub(super) struct Rpc {
    tasks: TaskGroup,
    stop: CancellationToken,
}

impl Rpc {
    /// Serves `node` on `listener` to whoever has the node's token.
    ///
    /// # Errors
    /// The listener has no address, or the credentials have no token for it.
    pub(super) fn start(
        listener: TcpListener,
        node: Arc<dyn NodeApi>,
        credentials: &Credentials,
    ) -> anyhow::Result<Self> {
        let token = credentials.node_token.clone();
        let token = token.context("there is no COFFERDAM_NODE_TOKEN in credentials.env")?;
        let address = listener.local_addr().context("ask for the node's address")?;
        if address.ip().is_loopback() {
            tracing::info!(%address, "the node's gRPC is served");
        } else {
            tracing::warn!(%address, "the node's gRPC is served beyond this machine, not encrypted");
        }
        let (tasks, stop) = (TaskGroup::default(), CancellationToken::new());
        let server = grpc::server(node, Auth::bearer(token));
        let serving = grpc::serve(listener, server, stop.clone(), GRACE);
        tasks.spawn(tracing::info_span!("node_rpc"), async move {
            if let Err(error) = serving.await {
                tracing::warn!(error = %observe::chain(&error), "calls to the node were left open");
            }
        });
        Ok(Self { tasks, stop })
    }

    /// Stops accepting, lets calls under way end, and ends what is left.
    pub(super) async fn close(self, budget: Budget) {
        self.stop.cancel();
        if let Err(error) = self.tasks.close(budget).await {
            tracing::warn!(error = %observe::chain(&error), "the node's listener did not close");
        }
    }
}
