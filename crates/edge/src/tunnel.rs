mod frames;
mod sandbox;

use std::sync::Arc;
use std::time::Duration;

use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use lifecycle::Budget;
use tokio_util::sync::CancellationToken;
use tracing::debug;

#[cfg(feature = "fuzz")]
pub(crate) use self::frames::pass_in_pieces;
use self::frames::{Client, Frames};
use self::sandbox::Sandbox;
use crate::quiet::Quiet;
use crate::serve::ClientPass;
use crate::upstream::{Passes, Transport};

/// Bytes on their way in one direction.
const BUFFER_BYTES: usize = 16 * 1024;

/// How long a client may take to hear that its tunnel ends.
const LAST_WORD: Duration = Duration::from_secs(1);

/// Two connections that have left HTTP and are one now.
#[derive(Debug)]
pub(crate) struct Tunnel {
    pub(crate) client: OnUpgrade,
    pub(crate) sandbox: Transport,
    /// Whether what the sandbox sends are the frames of a WebSocket.
    pub(crate) is_websocket: bool,
    /// Cancelled when the sandbox ends, and when the edge does.
    pub(crate) stop: CancellationToken,
    /// Held until the tunnel ends.
    pub(crate) passes: (Passes, Option<Arc<ClientPass>>),
}

impl Tunnel {
    /// Carries bytes both ways until both ends are done, one of them fails, or the sandbox or the
    /// edge ends, which a WebSocket is told. Each direction ends by itself, so half-closed
    /// connections work.
    pub(crate) async fn run(self) {
        let _held = self.passes;
        let mut stop = Quiet::new(self.stop.cancelled_owned());
        let both = tokio::select! {
            biased;
            () = &mut stop => return,
            both = async {
                let sandbox = self.sandbox.run().await?;
                Some(self.client.await.map(|client| (client, sandbox)))
            } => both,
        };
        let (mut client, mut sandbox) = match both {
            Some(Ok((client, sandbox))) => {
                let frames = self.is_websocket.then(Frames::default);
                (Client { io: TokioIo::new(client), frames }, Sandbox::from(sandbox))
            }
            Some(Err(error)) => {
                debug!(error = %observe::chain(&error), "tunnel not opened");
                return;
            }
            // Told already.
            None => return,
        };
        let carried = tokio::select! {
            biased;
            () = &mut stop => None,
            carried = tokio::io::copy_bidirectional_with_sizes(
                &mut client, &mut sandbox, BUFFER_BYTES, BUFFER_BYTES,
            ) => Some(carried),
        };
        match carried {
            Some(Ok(_bytes)) => {}
            Some(Err(error)) => debug!(error = %observe::chain(&error), "tunnel ended"),
            None => {
                // An end that comes before the reset which unread bytes would cause.
                match Budget::within(LAST_WORD).run("end a tunnel", client.end()).await {
                    Ok(Ok(())) => {}
                    Ok(Err(error)) => {
                        debug!(error = %observe::chain(&error), "client had left the tunnel");
                    }
                    Err(error) => {
                        debug!(error = %observe::chain(&error), "client did not hear of the end");
                    }
                }
            }
        }
    }
}
