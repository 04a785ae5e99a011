use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use parking_lot::Mutex;

use crate::BoxError;

/// A client's request body on its way to a sandbox.
///
/// It can be taken back from a connection that turned out to be dead, as long as nothing of it was
/// read from the client.
#[derive(Debug)]
pub(crate) struct RequestBody(Option<Arc<Mutex<Lent>>>);

/// The owner's end of a [`RequestBody`].
#[derive(Debug)]
pub(crate) struct BodyReturn(Option<Arc<Mutex<Lent>>>);

#[derive(Debug)]
struct Lent {
    /// `None` once it was taken back.
    body: Option<Incoming>,
    begun: bool,
}

#[derive(Debug, thiserror::Error)]
#[error("the request is sent on another connection")]
struct TakenBack;

impl RequestBody {
    pub(crate) fn new(body: Incoming) -> Self {
        if body.is_end_stream() {
            return Self(None);
        }
        Self(Some(Arc::new(Mutex::new(Lent { body: Some(body), begun: false }))))
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    pub(crate) fn lend(&self) -> BodyReturn {
        BodyReturn(self.0.clone())
    }
}

impl BodyReturn {
    /// Whether the connection still has the body, because there is more of it to send.
    pub(crate) fn is_under_way(&self) -> bool {
        self.0.as_ref().is_some_and(|lent| Arc::strong_count(lent) > 1)
    }

    /// The whole body, or `None` when a part of it is gone.
    pub(crate) fn take_back(self) -> Option<RequestBody> {
        let Some(lent) = self.0 else { return Some(RequestBody(None)) };
        let mut lent = lent.lock();
        if lent.begun {
            return None;
        }
        lent.body.take().map(RequestBody::new)
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let Some(lent) = &self.0 else { return Poll::Ready(None) };
        let mut lent = lent.lock();
        let Some(body) = &mut lent.body else { return Poll::Ready(Some(Err(TakenBack.into()))) };
        let frame = Pin::new(body).poll_frame(cx);
        lent.begun |= frame.is_ready();
        frame.map_err(Into::into)
    }

    fn is_end_stream(&self) -> bool {
        let Some(lent) = &self.0 else { return true };
        lent.lock().body.as_ref().is_some_and(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        let Some(lent) = &self.0 else { return SizeHint::with_exact(0) };
        lent.lock().body.as_ref().map_or_else(SizeHint::default, Body::size_hint)
    }
}
