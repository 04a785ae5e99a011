//! The body of an answer that asks for no more than the connection gets rid of.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

use axum::body::Body;
use bytes::Bytes;
use futures::task::AtomicWaker;
use hyper::body::{Body as HttpBody, Frame, SizeHint};

use crate::unread::Unread;

/// How much of one answer may wait to be sent before its next frame is asked for. The HTTP library
/// by itself would take several times as much for every client that does not read. While memory is
/// scarce, one frame is enough.
const UNSENT_BYTES_MAX: usize = 64 * 1024;

/// A body whose frames are taken one after another, as fast as they are sent.
pub(super) struct Paced {
    body: Body,
    unsent: Arc<Unsent>,
}

/// What of one answer was handed to the connection and not sent.
struct Unsent {
    bytes: AtomicUsize,
    /// What is here is counted there.
    unread: Arc<Unread>,
    waker: AtomicWaker,
}

/// Bytes that are counted until the connection lets them go.
struct Counted {
    data: Bytes,
    unsent: Arc<Unsent>,
}

impl Paced {
    pub(super) fn new(body: Body, unread: Arc<Unread>) -> Self {
        let (bytes, waker) = (AtomicUsize::new(0), AtomicWaker::new());
        Self { body, unsent: Arc::new(Unsent { bytes, unread, waker }) }
    }
}

impl HttpBody for Paced {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        self.unsent.waker.register(context.waker());
        if !self.unsent.has_room() {
            return Poll::Pending;
        }
        let Self { body, unsent } = &mut *self;
        // What is taken from a queue for a frame is in no other place until the frame is counted.
        unsent.unread.take_in_hand(1);
        let frame = Pin::new(body).poll_frame(context);
        let frame = frame.map_ok(|frame| frame.map_data(|data| unsent.count(data)));
        unsent.unread.hand_on(1);
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Unsent {
    /// With nothing unsent always, and whenever that changes the waker is called.
    fn has_room(&self) -> bool {
        let most = if self.unread.is_scarce() { 1 } else { UNSENT_BYTES_MAX };
        self.bytes.load(Ordering::Acquire) < most
    }

    fn count(self: &Arc<Self>, data: Bytes) -> Bytes {
        self.bytes.fetch_add(data.len(), Ordering::Relaxed);
        self.unread.add(data.len());
        self.unread.take_in_hand(data.len());
        Bytes::from_owner(Counted { data, unsent: Arc::clone(self) })
    }
}

impl AsRef<[u8]> for Counted {
    fn as_ref(&self) -> &[u8] {
        &self.data
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.unsent.unread.take_away(self.data.len());
        self.unsent.unread.hand_on(self.data.len());
        self.unsent.bytes.fetch_sub(self.data.len(), Ordering::Release);
        self.unsent.waker.wake();
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt as _;

    use super::*;
    use crate::unread::BYTES_MAX;

    const FRAME: usize = UNSENT_BYTES_MAX / 2;

    fn paced(unread: &Arc<Unread>) -> Paced {
        let frames = (0..3).map(|_| Ok::<_, axum::Error>(Bytes::from(vec![0; FRAME])));
        Paced::new(Body::from_stream(futures::stream::iter(frames)), Arc::clone(unread))
    }

    async fn next(body: &mut Paced) -> Bytes {
        body.frame().await.unwrap().unwrap().into_data().unwrap()
    }

    #[tokio::test]
    async fn the_next_frame_waits_until_enough_of_those_before_is_sent() {
        let unread = Arc::new(Unread::default());
        let mut body = paced(&unread);
        let first = next(&mut body).await;
        let second = next(&mut body).await;
        let mut third = Box::pin(next(&mut body));
        assert!(futures::poll!(&mut third).is_pending());
        assert_eq!(unread.bytes(), 2 * FRAME);
        drop(first);
        assert_eq!(third.await.len(), FRAME);
        assert!(body.frame().await.is_none());
        drop(second);
        assert_eq!(unread.bytes(), 0);
    }

    #[tokio::test]
    async fn while_memory_is_scarce_one_frame_after_the_other_is_sent() {
        let unread = Arc::new(Unread::default());
        unread.add(BYTES_MAX);
        let mut body = paced(&unread);
        for _ in 0..3 {
            let frame = next(&mut body).await;
            assert!(futures::poll!(std::pin::pin!(body.frame())).is_pending());
            drop(frame);
        }
        assert!(body.frame().await.is_none());
    }

    #[tokio::test]
    async fn an_answer_that_is_given_up_is_counted_no_longer() {
        let unread = Arc::new(Unread::default());
        let mut body = paced(&unread);
        let first = next(&mut body).await;
        drop(body);
        assert_eq!(unread.bytes(), FRAME);
        drop(first);
        assert_eq!(unread.bytes(), 0);
    }
}
