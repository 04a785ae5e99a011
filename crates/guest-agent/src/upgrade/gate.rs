//! Where requests wait while the agent is being replaced, and are waited for before.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::body::Body;
use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::Response;
use bytes::Bytes;
use futures::StreamExt as _;
use http::header::CONTENT_TYPE;
use hyper::body::{Body as HttpBody, Frame, SizeHint};

use crate::agent::Agent;
use crate::hold::Worker;

/// Always answered: it says that somebody is there.
const HEALTH: &str = "/health";
/// What holds all others cannot wait itself.
const UPGRADE: &str = "/upgrade";
/// How much of a request is received before it begins.
const RECEIVED_BYTES: usize = 64 * 1024;
/// Requests that change what the agent knows, or take from it, and are short. They are over
/// before it is handed on. What others do, such as writing a file, is as good when it is cut off
/// by this as when it is cut off by a client that goes away.
const WAITED_FOR: [&str; 14] = [
    "/init",
    "/freeze",
    "/unfreeze",
    "/fsfreeze",
    "/fsthaw",
    "/files/compose",
    "/process.Process/Start",
    "/process.Process/Connect",
    "/process.Process/Update",
    "/process.Process/SendSignal",
    "/process.Process/CloseStdin",
    "/filesystem.Filesystem/CreateWatcher",
    "/filesystem.Filesystem/GetWatcherEvents",
    "/filesystem.Filesystem/RemoveWatcher",
];

/// A request that comes while all is held waits: what becomes of the upgrade decides whether it is
/// answered, or its connection closed before anything was done for it.
pub(crate) async fn layer(
    State(agent): State<Arc<Agent>>,
    request: Request,
    next: Next,
) -> Response {
    let path = request.uri().path();
    if path == HEALTH || path == UPGRADE {
        return next.run(request).await;
    }
    let is_waited_for = WAITED_FOR.contains(&path);
    let (head, body) = request.into_parts();
    // A client that does not send what it announced must not be waited for.
    let body = if is_waited_for { received(body).await } else { body };
    let request = Request::from_parts(head, body);
    let mut worker = agent.upgrades.requests.worker();
    worker.park().await;
    if !is_waited_for {
        drop(worker);
        return next.run(request).await;
    }
    let response = next.run(request).await;
    // A stream has begun with its head.
    let content_type = response.headers().get(CONTENT_TYPE);
    if content_type.is_some_and(|kind| kind.as_bytes().starts_with(b"application/connect+")) {
        return response;
    }
    response.map(|body| Body::new(Counted { body, _worker: worker }))
}

/// The same body with its beginning in memory; of most requests that is all there is.
async fn received(body: Body) -> Body {
    let (mut rest, mut first, mut bytes) = (body.into_data_stream().fuse(), Vec::new(), 0_usize);
    while bytes < RECEIVED_BYTES {
        let Some(piece) = rest.next().await else { break };
        let has_failed = piece.is_err();
        bytes = bytes.saturating_add(piece.as_ref().map_or(0, Bytes::len));
        first.push(piece);
        if has_failed {
            break;
        }
    }
    Body::from_stream(futures::stream::iter(first).chain(rest))
}

/// An answer that counts as work until the connection has taken it.
struct Counted {
    body: Body,
    _worker: Worker,
}

impl HttpBody for Counted {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
