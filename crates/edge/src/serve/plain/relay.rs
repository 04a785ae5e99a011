//! One plain request and its answer, between two sockets.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead as _, AsyncWrite as _, ReadBuf};
use tokio::net::TcpStream;

use super::answer::{self, Body, Look};
use super::chunks::write_chunk;
use crate::scratch;
use crate::upstream::{BUFFER_BYTES, Bare, Passes};

/// How an exchange ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// The client has all of the answer.
    Done,
    /// There will be no answer, and not a byte of one came.
    Silent,
    /// What came is no answer.
    Broken,
    /// The sandbox ended before it answered.
    Ended,
    /// In the midst of an answer, or the client has left: its connection is not to be used again.
    Cut,
}

#[derive(Debug)]
pub(super) struct Relay<'a> {
    client: &'a mut TcpStream,
    bare: &'a mut Bare,
    /// What the sandbox has not got yet of the request.
    unsent: &'a [u8],
    /// Whether the sandbox got anything of it.
    begun: bool,
    to_head: bool,
    /// What came of a head that is not complete.
    head: Vec<u8>,
    /// What the client has not taken yet, from `taken` on.
    out: &'a mut Vec<u8>,
    taken: usize,
    at: At,
    stays: bool,
    /// Given up when all of the answer is here: who has it may ask again, and there is room by then.
    passes: Option<Passes>,
    /// Whether the client is looked after: not any more when it has sent its next request.
    watched: bool,
}

#[derive(Debug)]
enum At {
    Head,
    Body(Body),
    /// Ends so when the client has what there is.
    Over(End),
}

impl<'a> Relay<'a> {
    /// `request` for the sandbox; `out` is empty memory for what goes to the client; `to_head`: the
    /// answer has no body.
    pub(super) fn new(
        (client, bare, passes): (&'a mut TcpStream, &'a mut Bare, Option<Passes>),
        request: &'a [u8],
        out: &'a mut Vec<u8>,
        to_head: bool,
    ) -> Self {
        Self {
            client,
            bare,
            unsent: request,
            begun: false,
            to_head,
            head: Vec::new(),
            out,
            taken: 0,
            at: At::Head,
            stays: false,
            passes,
            watched: true,
        }
    }

    /// Whether the sandbox can have acted on the request.
    pub(super) const fn has_begun(&self) -> bool {
        self.begun
    }

    /// Whether the connection to the sandbox can be used again.
    pub(super) const fn stays(&self) -> bool {
        self.stays && self.unsent.is_empty()
    }

    /// Moves what can be moved. `is_last`: the connection of the client ends after this answer.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>, is_last: bool) -> Poll<End> {
        loop {
            // Nothing is read before the client has taken what came before.
            match self.flush(cx) {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(_)) => return Poll::Ready(End::Cut),
                Poll::Pending => return self.wait(cx),
            }
            if let At::Over(end) = self.at {
                return Poll::Ready(end);
            }
            self.send(cx);
            let read = scratch::with(|scratch| {
                let mut buffer = ReadBuf::new(scratch);
                let read = ready!(Pin::new(self.bare.socket()).poll_read(cx, &mut buffer));
                let is_open = read.is_ok();
                match buffer.filled() {
                    [] => self.end(is_open),
                    bytes => self.take(cx, bytes, is_last),
                }
                Poll::Ready(())
            });
            if read.is_pending() {
                return self.wait(cx);
            }
        }
    }

    /// Nothing can be moved: what else may end it?
    fn wait(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        // What is all there is the client's, whatever becomes of its sandbox.
        if !matches!(self.at, At::Over(_)) && self.bare.has_ended(cx) {
            let end = if matches!(self.at, At::Head) { End::Ended } else { End::Cut };
            return Poll::Ready(end);
        }
        if self.watched {
            let mut byte = [0];
            match self.client.poll_peek(cx, &mut ReadBuf::new(&mut byte)) {
                Poll::Ready(Ok(0) | Err(_)) => return Poll::Ready(End::Cut),
                Poll::Ready(Ok(_)) => self.watched = false,
                Poll::Pending => {}
            }
        }
        Poll::Pending
    }

    fn flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while let Some(left) = self.out.get(self.taken..).filter(|left| !left.is_empty()) {
            match ready!(Pin::new(&mut *self.client).poll_write(cx, left)) {
                Ok(0) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Ok(taken) => self.taken += taken,
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
        self.out.clear();
        self.taken = 0;
        Poll::Ready(Ok(()))
    }

    /// Sends what the sandbox takes of the request. Why it takes no more is seen in what it answers.
    fn send(&mut self, cx: &mut Context<'_>) {
        while !self.unsent.is_empty() {
            match Pin::new(self.bare.socket()).poll_write(cx, self.unsent) {
                Poll::Ready(Ok(sent)) if sent > 0 => {
                    self.begun = true;
                    self.unsent = self.unsent.get(sent..).unwrap_or_default();
                }
                Poll::Ready(_) | Poll::Pending => return,
            }
        }
    }

    /// The sandbox has sent `bytes`.
    fn take(&mut self, cx: &mut Context<'_>, bytes: &[u8], is_last: bool) {
        if !matches!(self.at, At::Head) {
            return self.pass(cx, bytes);
        }
        if self.head.is_empty() {
            let left = self.take_head(cx, bytes, is_last);
            self.head.extend_from_slice(left);
            return;
        }
        self.head.extend_from_slice(bytes);
        // A head ends with the end of a line: one that drips in is not looked at for every byte.
        if bytes.contains(&b'\n') || self.head.len() >= BUFFER_BYTES {
            let mut head = std::mem::take(&mut self.head);
            let left = self.take_head(cx, &head, is_last).len();
            head.drain(..head.len() - left);
            self.head = head;
        }
    }

    /// What is left of `bytes`: of a head that is not complete.
    fn take_head<'b>(&mut self, cx: &mut Context<'_>, bytes: &'b [u8], is_last: bool) -> &'b [u8] {
        let mut bytes = bytes;
        loop {
            match answer::look(bytes, self.to_head, is_last, self.out) {
                Look::Interim(skipped) if skipped < bytes.len() => {
                    bytes = bytes.get(skipped..).unwrap_or_default();
                }
                Look::Interim(_) => return &[],
                Look::More if bytes.len() < BUFFER_BYTES => return bytes,
                Look::More | Look::Broken => {
                    self.at = At::Over(End::Broken);
                    return &[];
                }
                Look::Answer(answer) => {
                    self.at = At::Body(answer.body);
                    self.stays = answer.stays;
                    self.pass(cx, bytes.get(answer.head_bytes..).unwrap_or_default());
                    return &[];
                }
            }
        }
    }

    /// Passes `bytes` of the body on.
    fn pass(&mut self, cx: &mut Context<'_>, bytes: &[u8]) {
        let At::Body(body) = &mut self.at else { return };
        let (ours, over) = match body {
            Body::Left(left) => {
                let here = usize::try_from(*left).unwrap_or(usize::MAX).min(bytes.len());
                *left -= here as u64;
                let over = (*left == 0).then_some(End::Done);
                if over.is_some() {
                    self.passes = None;
                }
                self.write_through(cx, bytes.get(..here).unwrap_or_default());
                (here, over)
            }
            Body::Chunks(chunks) => match chunks.pass(bytes, self.out) {
                Ok(ours) => (ours, chunks.is_done().then_some(End::Done)),
                Err(_broken) => (bytes.len(), Some(End::Cut)),
            },
            Body::UntilEnd => {
                write_chunk(bytes, self.out);
                (bytes.len(), None)
            }
        };
        // Something that nobody has asked for.
        self.stays &= ours == bytes.len();
        if let Some(end) = over {
            self.passes = None;
            self.at = At::Over(end);
        }
    }

    /// Gives the client `bytes` after what it has to take before; what it does not take at once is
    /// kept.
    fn write_through(&mut self, cx: &mut Context<'_>, bytes: &[u8]) {
        let before = self.out.get(self.taken..).unwrap_or_default();
        let slices = [IoSlice::new(before), IoSlice::new(bytes)];
        let taken = match Pin::new(&mut *self.client).poll_write_vectored(cx, &slices) {
            Poll::Ready(Ok(taken)) => taken,
            // The next flush meets it again.
            Poll::Ready(Err(_)) | Poll::Pending => 0,
        };
        let of_these = taken.saturating_sub(before.len());
        self.taken += taken - of_these;
        self.out.extend_from_slice(bytes.get(of_these..).unwrap_or_default());
    }

    /// Nothing more comes. `in_order`: because the other end has said so.
    fn end(&mut self, in_order: bool) {
        self.stays = false;
        let end = match &self.at {
            At::Head if self.head.is_empty() => End::Silent,
            At::Head => End::Broken,
            At::Body(Body::UntilEnd) if in_order => {
                self.out.extend_from_slice(b"0\r\n\r\n");
                End::Done
            }
            At::Body(_) => End::Cut,
            At::Over(end) => *end,
        };
        self.passes = None;
        self.at = At::Over(end);
    }
}
