use std::sync::Arc;

use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::io::AsyncWriteExt as _;
use tokio_util::sync::CancellationToken;
use tracing::debug;

use crate::serve::ClientPass;
use crate::upstream::Passes;

/// Bytes on their way in one direction.
const BUFFER_BYTES: usize = 16 * 1024;

/// Two connections that have left HTTP and are one now.
#[derive(Debug)]
pub(crate) struct Tunnel {
    pub(crate) client: OnUpgrade,
    pub(crate) sandbox: OnUpgrade,
    /// Cancelled when the sandbox ends.
    pub(crate) stop: CancellationToken,
    /// Held until the tunnel ends.
    pub(crate) passes: (Passes, Option<Arc<ClientPass>>),
}

impl Tunnel {
    /// Carries bytes both ways until both ends are done, one of them fails, or the sandbox ends.
    /// Each direction ends by itself, so half-closed connections work.
    pub(crate) async fn run(self) {
        let _held = self.passes;
        let both = tokio::select! {
            biased;
            () = self.stop.cancelled() => return,
            both = async { tokio::try_join!(self.client, self.sandbox) } => both,
        };
        let (mut client, mut sandbox) = match both {
            Ok((client, sandbox)) => (TokioIo::new(client), TokioIo::new(sandbox)),
            Err(error) => {
                debug!(error = %observe::chain(&error), "tunnel not opened");
                return;
            }
        };
        let carried = tokio::select! {
            biased;
            () = self.stop.cancelled() => None,
            carried = tokio::io::copy_bidirectional_with_sizes(
                &mut client, &mut sandbox, BUFFER_BYTES, BUFFER_BYTES,
            ) => Some(carried),
        };
        match carried {
            Some(Ok(_bytes)) => {}
            Some(Err(error)) => debug!(error = %observe::chain(&error), "tunnel ended"),
            None => {
                // An end that comes before the reset which unread bytes would cause.
                if let Err(error) = client.shutdown().await {
                    debug!(error = %observe::chain(&error), "client had left the tunnel");
                }
            }
        }
    }
}
