mod carry;
mod end;
mod frames;

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use hyper::upgrade::OnUpgrade;
use lifecycle::Budget;
use tokio_util::sync::CancellationToken;
use tracing::{debug, error};

use self::carry::Way;
use self::end::End;
use self::frames::Frames;
#[cfg(feature = "fuzz")]
pub(crate) use self::frames::pass_in_pieces;
use crate::quiet::Quiet;
use crate::serve::{self, ClientPass};
use crate::upstream::{Passes, Transport};

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

/// Why no more is carried.
enum Over {
    /// Both ends have nothing more to say, and were told.
    Done,
    /// The sandbox ends, or the edge does.
    Stopped,
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
                let Some(client) = serve::left_http(client) else {
                    error!("tunnel not opened: the client is no connection of HTTP/1");
                    return;
                };
                (End::new(client, frames), End::new(sandbox, None))
            }
            Some(Err(error)) => {
                debug!(error = %observe::chain(&error), "tunnel not opened");
                return;
            }
            // Told already.
            None => return,
        };
        let (mut up, mut down) = (Way::default(), Way::default());
        let carried = poll_fn(|cx| -> Poll<io::Result<Over>> {
            if Pin::new(&mut stop).poll(cx).is_ready() {
                return Poll::Ready(Ok(Over::Stopped));
            }
            let up = up.poll(cx, &mut client, &mut sandbox)?;
            let down = down.poll(cx, &mut sandbox, &mut client)?;
            if up.is_ready() && down.is_ready() {
                Poll::Ready(Ok(Over::Done))
            } else {
                Poll::Pending
            }
        })
        .await;
        match carried {
            Ok(Over::Done) => {}
            Err(error) => debug!(error = %observe::chain(&error), "tunnel ended"),
            Ok(Over::Stopped) => {
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
