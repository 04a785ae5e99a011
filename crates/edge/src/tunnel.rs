mod carry;
mod end;
mod frames;

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
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

/// Both directions.
#[derive(Debug, Default)]
struct Ways {
    up: Way,
    down: Way,
}

impl Ways {
    /// Moves what can be moved now, either way, and has the task of `cx` woken when there is more.
    /// Ready when both have ended.
    ///
    /// # Errors
    /// Of either end.
    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        client: &mut End,
        sandbox: &mut End,
    ) -> Poll<io::Result<()>> {
        // Both, before one that fails is the end of both: who takes no more may have said why.
        let up = self.up.poll(cx, client, sandbox);
        let down = self.down.poll(cx, sandbox, client);
        let (up, down) = (up?, down?);
        if up.is_ready() && down.is_ready() { Poll::Ready(Ok(())) } else { Poll::Pending }
    }
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
        let mut ways = Ways::default();
        let carried = poll_fn(|cx| -> Poll<io::Result<Over>> {
            if Pin::new(&mut stop).poll(cx).is_ready() {
                return Poll::Ready(Ok(Over::Stopped));
            }
            ways.poll(cx, &mut client, &mut sandbox).map_ok(|()| Over::Done)
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

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::Ways;
    use super::end::testing::pair;

    #[tokio::test]
    async fn the_last_words_of_who_takes_no_more_are_heard() {
        for _ in 0..50 {
            let ((mut to, mut client), (mut from, mut sandbox)) = (pair().await, pair().await);
            let mut ways = Ways::default();
            client.write_all(b"not read").await.unwrap();
            let mut first = [0];
            // Until some of it has come there.
            tokio::select! {
                _over = std::future::poll_fn(|cx| ways.poll(cx, &mut to, &mut from)) => panic!(),
                read = sandbox.read_exact(&mut first) => assert_eq!(read.unwrap(), 1),
            }
            client.write_all(b"not taken").await.unwrap();
            sandbox.write_all(b"too much").await.unwrap();
            // With bytes that nobody has read it is broken off.
            drop(sandbox);
            let over = std::future::poll_fn(|cx| ways.poll(cx, &mut to, &mut from)).await;
            drop((over, to, from));
            let mut heard = Vec::new();
            // The end is a broken one here, too.
            drop(client.read_to_end(&mut heard).await);
            assert_eq!(heard, b"too much");
        }
    }
}
