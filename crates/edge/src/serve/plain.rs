//! Plain requests, passed on without a library for HTTP in between.
//!
//! Most requests are as plain as can be: HTTP/1.1, for a sandbox that runs, a body of a known and small
//! size or none, no wish to leave HTTP. Taking them apart into a request, a map of headers and a stream,
//! and putting them together again, costs more than all else that a proxy does. Here a head is read
//! once, checked, and written; the parser is `httparse`, which the library uses as well.
//!
//! Nothing is done here that a request could be misunderstood by. Whatever is not plain beyond doubt
//! goes to the library, with its connection, and stays there: other versions, API calls, sandboxes with
//! terms, upgrades, `Expect`, chunks, trailers, larger bodies, illegal heads, targets that cannot be
//! reached at once. So every error has one place where it is answered, but for those that come after a
//! sandbox got the request.

mod answer;
#[cfg(any(test, feature = "fuzz"))]
pub(crate) mod check;
mod chunks;
mod head;
mod relay;
mod request;

#[cfg(test)]
mod tests;

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use e2b_wire::proxy_error::{ErrorForm, ProxyError};
use http::{HeaderMap, HeaderName, HeaderValue};
use lifecycle::Budget;
use tokio::io::{AsyncRead as _, AsyncWriteExt as _, ReadBuf};
use tokio::net::TcpStream;
use tracing::debug;

use self::relay::{End, Relay};
use self::request::{Look, Plain};
use super::clock::{Clock, Serving};
use super::watch::Watch;
use crate::edge::Way;
use crate::{Edge, scratch};

/// Headers of one message; the library has the same limit.
const MAX_HEADERS: usize = 100;

/// How long after the start of a request its end may come. Clients send head and body one after the
/// other, and a network takes large heads apart; who takes more time wants the sandbox to see that.
const REST_AFTER: Duration = Duration::from_millis(10);

/// What an unused connection may keep of its memory.
const SMALL: usize = 4096;

/// A client connection that goes on with the library.
#[derive(Debug)]
pub(super) struct Handover {
    pub(super) socket: TcpStream,
    /// Was read from it, and not answered.
    pub(super) read: Bytes,
}

/// A client connection whose requests were plain so far.
#[derive(Debug)]
struct Connection<'a> {
    socket: TcpStream,
    edge: &'a Edge,
    clock: &'a Arc<Clock>,
    watch: &'a mut Watch,
    /// What the client has sent from the next request on.
    inbox: Vec<u8>,
    /// A request as its sandbox gets it.
    request: Vec<u8>,
    /// An answer as its client gets it.
    answer: Vec<u8>,
}

/// What is next on a connection.
enum Next {
    /// After a request of so many bytes.
    Request(usize),
    /// It goes on with the library.
    Library,
}

/// What became of waiting for a client.
#[derive(Debug, PartialEq, Eq)]
enum Read {
    Some,
    /// It sends no more.
    Left,
    /// The connection is to end, or nothing was under way and nothing is to begin any more.
    Over,
}

/// Serves the plain requests of `socket`. `None` when the connection has ended.
///
/// Cancel safety: the connection is closed by a dropped call, and so is that to a sandbox that has not
/// answered all of a request.
pub(super) async fn serve(
    socket: TcpStream,
    edge: &Edge,
    clock: &Arc<Clock>,
    watch: &mut Watch,
) -> Option<Handover> {
    let (inbox, request, answer) = (Vec::new(), Vec::new(), Vec::new());
    let mut connection = Connection { socket, edge, clock, watch, inbox, request, answer };
    loop {
        match connection.next().await? {
            Next::Request(bytes) => connection.tidy(bytes),
            Next::Library => {
                let Connection { socket, inbox, .. } = connection;
                return Some(Handover { socket, read: inbox.into() });
            }
        }
        // A client that has sent its next request already sees that it is not answered.
        if connection.watch.is_stopping() {
            return None;
        }
    }
}

impl Connection<'_> {
    /// Waits for a request and sees it through. `None` when the connection is to end.
    async fn next(&mut self) -> Option<Next> {
        if self.inbox.is_empty() && self.read().await != Read::Some {
            return None;
        }
        let (mut serving, mut after) = (None, None);
        let plain = loop {
            let all = match request::look(&self.inbox, &mut self.request) {
                Look::Plain(plain) => break plain,
                Look::Other => return Some(Next::Library),
                Look::More => self.inbox.len() + 1,
                Look::Until(all) => {
                    serving.get_or_insert_with(|| self.clock.serve());
                    all
                }
            };
            let after = *after.get_or_insert_with(|| Budget::within(REST_AFTER));
            while self.inbox.len() < all {
                match after.run("read the rest of a request", self.read()).await {
                    Ok(Read::Some) => {}
                    Ok(Read::Over) => return None,
                    // The sandbox is to see what there is of it.
                    Ok(Read::Left) | Err(_) => return Some(Next::Library),
                }
            }
        };
        let Some(way) = self.edge.way(&plain.target) else { return Some(Next::Library) };
        let serving = serving.unwrap_or_else(|| self.clock.serve());
        self.exchange(&plain, way, serving).await
    }

    /// Reads what is there into the inbox.
    ///
    /// Cancel safety: yes.
    async fn read(&mut self) -> Read {
        let Self { socket, clock, watch, inbox, .. } = self;
        poll_fn(|cx| {
            let read = scratch::with(|scratch| {
                let mut buffer = ReadBuf::new(scratch);
                let read = ready!(Pin::new(&mut *socket).poll_read(cx, &mut buffer));
                Poll::Ready(match buffer.filled() {
                    bytes if read.is_ok() && !bytes.is_empty() => {
                        clock.read(bytes);
                        inbox.extend_from_slice(bytes);
                        Read::Some
                    }
                    _ => Read::Left,
                })
            });
            if read.is_ready() {
                return read;
            }
            let is_over = watch.poll(cx).is_ready() || (watch.is_stopping() && inbox.is_empty());
            if is_over { Poll::Ready(Read::Over) } else { Poll::Pending }
        })
        .await
    }

    /// Has the sandbox answer `plain`.
    async fn exchange(&mut self, plain: &Plain, way: Way, serving: Serving) -> Option<Next> {
        let Way { upstream, port, passes } = way;
        let kept = upstream.kept_bare(port, plain.repeatable);
        let was_kept = kept.is_some();
        let bare = match kept {
            Some(bare) => Some(bare),
            None => self.watch.beside(upstream.connect_bare(port)).await?,
        };
        let Some(mut bare) = bare else { return Some(Next::Library) };
        let Self { socket, watch, request, answer, .. } = self;
        let mut relay =
            Relay::new((socket, &mut bare, Some(passes)), request, answer, plain.is_head);
        let end = poll_fn(|cx| match relay.poll(cx, watch.is_stopping()) {
            Poll::Ready(end) => Poll::Ready(Some(end)),
            Poll::Pending => watch.poll(cx).map(|()| None),
        })
        .await?;
        let (stays, begun) = (relay.stays(), relay.has_begun());
        // With its passes: whoever is refused may ask again.
        drop(relay);
        let sandbox = &plain.target.sandbox;
        let refusal = match end {
            End::Done => {
                if stays {
                    upstream.keep_bare(port, bare);
                }
                drop(serving);
                return Some(Next::Request(plain.bytes));
            }
            End::Cut => return None,
            // The server had left the connection. The library sends it again, on a new one if need be.
            End::Silent if was_kept && (!begun || plain.repeatable) && !upstream.has_ended() => {
                return Some(Next::Library);
            }
            _ if upstream.has_ended() => ProxyError::SandboxNotFound { sandbox },
            End::Silent | End::Broken | End::Ended => {
                ProxyError::NoAnswer { sandbox, port: plain.target.port }
            }
        };
        debug!(%sandbox, port = plain.target.port, ?end, "no answer");
        drop(bare);
        self.refuse(refusal, plain).await?;
        drop(serving);
        Some(Next::Request(plain.bytes))
    }

    /// Tells the client why there is no answer.
    async fn refuse(&mut self, error: ProxyError<'_>, plain: &Plain) -> Option<()> {
        let form = ErrorForm::wanted(&headers_of(&self.inbox));
        let mut text = Vec::new();
        answer::write_refusal(&error, form, plain.is_head, self.watch.is_stopping(), &mut text);
        let Self { socket, watch, .. } = self;
        watch.beside(socket.write_all(&text)).await?.ok()
    }

    /// Is done with a request of so many bytes.
    fn tidy(&mut self, bytes: usize) {
        let Self { inbox, request, answer, .. } = self;
        inbox.drain(..bytes.min(inbox.len()));
        request.clear();
        answer.clear();
        for memory in [inbox, request, answer] {
            if memory.is_empty() && memory.capacity() > SMALL {
                *memory = Vec::new();
            }
        }
    }
}

/// The headers of the request at the start of `bytes`, which is a legal one.
fn headers_of(bytes: &[u8]) -> HeaderMap {
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut request = httparse::Request::new(&mut headers);
    if request.parse(bytes).is_err() {
        return HeaderMap::new();
    }
    let legal = |header: &httparse::Header<'_>| {
        let name = HeaderName::from_bytes(header.name.as_bytes()).ok()?;
        Some((name, HeaderValue::from_bytes(header.value).ok()?))
    };
    request.headers.iter().filter_map(legal).collect()
}
