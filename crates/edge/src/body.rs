use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Frame, SizeHint};
use http_body_util::Full;
use http_body_util::combinators::UnsyncBoxBody;
use hyper::body::Incoming;
use tracing::debug;

use crate::grpc;
use crate::serve::Serving;
use crate::upstream::Lease;

/// An error of any kind, as bodies carry it.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// The body of an answer: the edge's own, a sandbox's as it comes, or the API's.
#[derive(Debug)]
pub struct Body {
    kind: Kind,
    /// Dropped when the answer has been sent.
    _serving: Option<Serving>,
}

#[derive(Debug)]
enum Kind {
    Own(Full<Bytes>),
    Sandbox(Relay),
    Api(UnsyncBoxBody<Bytes, BoxError>),
}

/// What a sandbox sends, passed on frame by frame. Nothing is read from the sandbox before the
/// client has taken what came before.
#[derive(Debug)]
struct Relay {
    incoming: Incoming,
    /// Taken when the body ended well: the connection can be used again then.
    lease: Option<Lease>,
    ended: bool,
    /// Why there is no more, when the client has not been told.
    broken: Option<hyper::Error>,
    /// The answer to a call, whose client is told in trailers when it breaks.
    is_grpc: bool,
}

impl Body {
    fn of(kind: Kind) -> Self {
        Self { kind, _serving: None }
    }

    /// The same body, which holds `serving` as long as it is being sent.
    pub(crate) fn while_serving(self, serving: Serving) -> Self {
        Self { _serving: Some(serving), ..self }
    }

    pub(crate) fn empty() -> Self {
        Self::of(Kind::Own(Full::default()))
    }

    pub(crate) fn text(text: impl Into<Bytes>) -> Self {
        Self::of(Kind::Own(Full::new(text.into())))
    }

    pub(crate) fn sandbox(incoming: Incoming, lease: Lease, is_grpc: bool) -> Self {
        let lease = Some(lease);
        Self::of(Kind::Sandbox(Relay { incoming, lease, ended: false, broken: None, is_grpc }))
    }

    pub(crate) fn api<B>(body: B) -> Self
    where
        B: http_body::Body<Data = Bytes, Error: Into<BoxError>> + Send + 'static,
    {
        Self::of(Kind::Api(UnsyncBoxBody::new(http_body_util::BodyExt::map_err(body, Into::into))))
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match &mut self.get_mut().kind {
            Kind::Own(full) => Pin::new(full).poll_frame(cx).map_err(|never| match never {}),
            Kind::Api(body) => Pin::new(body).poll_frame(cx),
            Kind::Sandbox(relay) => relay.poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.kind {
            Kind::Own(full) => full.is_end_stream(),
            Kind::Api(body) => body.is_end_stream(),
            Kind::Sandbox(relay) => relay.incoming.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            Kind::Own(full) => full.size_hint(),
            Kind::Api(body) => body.size_hint(),
            Kind::Sandbox(relay) => relay.incoming.size_hint(),
        }
    }
}

impl Relay {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let frame = match self.broken.take() {
            Some(error) => Some(Err(error)),
            None => ready!(self.poll_sandbox(cx)),
        };
        self.ended = frame.is_none();
        Poll::Ready(frame.map(|frame| match (frame, self.is_grpc) {
            (Err(error), true) => {
                debug!(error = %observe::chain(&error), "call cut off");
                Ok(Frame::trailers(grpc::cut_off()))
            }
            (frame, _) => frame.map_err(Into::into),
        }))
    }

    fn poll_sandbox(&mut self, cx: &mut Context<'_>) -> Poll<Option<hyper::Result<Frame<Bytes>>>> {
        let Self { incoming, lease, .. } = self;
        let frame = ready!(match lease {
            Some(lease) => lease.sender.poll_body(cx, incoming),
            None => http_body::Body::poll_frame(Pin::new(incoming), cx),
        });
        if let Some(Err(error)) = frame {
            // With an error the client's connection ends as it is. What came before, which may be
            // all of the answer up to here, is sent while there is nothing new.
            self.broken = Some(error);
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        Poll::Ready(frame)
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        // A body of known length ends without a last frame. Dropped before its end, the body
        // takes its connection along, which is how the sandbox learns that the client is gone.
        if (self.ended || http_body::Body::is_end_stream(&self.incoming))
            && let Some(lease) = self.lease.take()
        {
            lease.give_back();
        }
    }
}
