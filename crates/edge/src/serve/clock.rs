//! How long a client connection may take for what it does now.
//!
//! HTTP libraries offer one limit for "no request yet", which would have to be both short (a head
//! must not drip in) and long (clients keep unused connections for minutes). Here the two differ.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::{Instant, Sleep};

/// What an HTTP/2 connection starts with (RFC 9113, 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// The state of one connection. Fed by the socket and by the requests, read by the [`Alarm`].
#[derive(Debug)]
pub(super) struct Clock {
    head_limit: Duration,
    idle_limit: Duration,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    wire: Wire,
    phase: Phase,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wire {
    /// So many bytes were those of the preface.
    Unknown(usize),
    Http1,
    Http2,
}

#[derive(Debug, Clone, Copy)]
enum Phase {
    /// A head has begun, or the connection is new.
    Head { until: Instant },
    /// Nothing is under way.
    Idle { until: Instant },
    /// So many requests are under way, which may take as long as they like.
    Busy(usize),
}

/// A request under way. Dropping it is the end of its answer.
#[derive(Debug)]
pub(crate) struct Serving(Arc<Clock>);

impl Clock {
    pub(super) fn new(head_limit: Duration, idle_limit: Duration) -> Self {
        let phase = Phase::Head { until: Instant::now() + head_limit };
        let state = Mutex::new(State { wire: Wire::Unknown(0), phase });
        Self { head_limit, idle_limit, state }
    }

    /// The socket gave `bytes`.
    pub(super) fn read(&self, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        let mut state = self.state.lock();
        if let Wire::Unknown(seen) = state.wire {
            state.wire = Wire::after(seen, bytes);
            if state.wire == Wire::Http2 {
                state.phase = Phase::Idle { until: Instant::now() + self.idle_limit };
            }
            return;
        }
        // Frames of an idle HTTP/2 connection are mostly not heads.
        if let (Phase::Idle { .. }, Wire::Http1) = (state.phase, state.wire) {
            state.phase = Phase::Head { until: Instant::now() + self.head_limit };
        }
    }

    /// Whether nothing has come yet.
    pub(super) fn is_fresh(&self) -> bool {
        matches!(self.state.lock().wire, Wire::Unknown(0))
    }

    /// A head is complete.
    pub(super) fn serve(self: &Arc<Self>) -> Serving {
        let mut state = self.state.lock();
        let under_way = if let Phase::Busy(under_way) = state.phase { under_way } else { 0 };
        state.phase = Phase::Busy(under_way + 1);
        Serving(Arc::clone(self))
    }

    fn deadline(&self) -> Option<Instant> {
        match self.state.lock().phase {
            Phase::Head { until } | Phase::Idle { until } => Some(until),
            Phase::Busy(_) => None,
        }
    }
}

impl Wire {
    fn after(seen: usize, bytes: &[u8]) -> Self {
        let rest = PREFACE.get(seen..).unwrap_or_default();
        let compared = rest.len().min(bytes.len());
        if rest.get(..compared) != bytes.get(..compared) {
            Self::Http1
        } else if compared == rest.len() {
            Self::Http2
        } else {
            Self::Unknown(seen + compared)
        }
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        let mut state = self.0.state.lock();
        state.phase = match state.phase {
            Phase::Busy(under_way) if under_way > 1 => Phase::Busy(under_way - 1),
            _ => Phase::Idle { until: Instant::now() + self.0.idle_limit },
        };
    }
}

/// Ready when the connection took longer than it may.
///
/// To be polled after the connection, in the same task. It then arms a timer only when a limit
/// shorter than the armed one begins, which a head that arrives at once never does.
#[derive(Debug)]
pub(super) struct Alarm {
    clock: Arc<Clock>,
    timer: Pin<Box<Sleep>>,
}

impl Alarm {
    pub(super) fn new(clock: Arc<Clock>) -> Self {
        let first = clock.deadline().unwrap_or_else(Instant::now);
        Self { clock, timer: Box::pin(tokio::time::sleep_until(first)) }
    }
}

impl Future for Alarm {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = self.get_mut();
        loop {
            let deadline = this.clock.deadline();
            if let Some(deadline) = deadline
                && deadline < this.timer.deadline()
            {
                this.timer.as_mut().reset(deadline);
            }
            ready!(this.timer.as_mut().poll(cx));
            let now = Instant::now();
            match deadline {
                Some(deadline) if deadline <= now => return Poll::Ready(()),
                Some(deadline) => this.timer.as_mut().reset(deadline),
                // It becomes idle at some time from now on, maybe without a poll of this.
                None => this.timer.as_mut().reset(now + this.clock.idle_limit),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use tokio::time::{Instant, advance};

    use super::{Alarm, Clock, PREFACE};

    const HEAD: Duration = Duration::from_secs(10);
    const IDLE: Duration = Duration::from_secs(600);

    fn clock() -> Arc<Clock> {
        Arc::new(Clock::new(HEAD, IDLE))
    }

    async fn rings_after(clock: &Arc<Clock>) -> Duration {
        let start = Instant::now();
        Alarm::new(Arc::clone(clock)).await;
        start.elapsed()
    }

    /// The clock of tokio rounds up to milliseconds.
    #[track_caller]
    fn assert_about(took: Duration, limit: Duration) {
        assert!(took >= limit && took <= limit + Duration::from_millis(2), "{took:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_new_connection_has_the_time_of_one_head_whatever_drips_in() {
        let clock = clock();
        clock.read(b"G");
        clock.read(b"ET / HTTP/1.1\r\nX: ");
        assert_about(rings_after(&clock).await, HEAD);
    }

    #[tokio::test(start_paused = true)]
    async fn an_unused_connection_has_long_and_the_next_head_is_short_again() {
        let clock = clock();
        clock.read(b"GET /");
        drop(clock.serve());
        assert_about(rings_after(&clock).await, IDLE);
        clock.read(b"GET /");
        assert_about(rings_after(&clock).await, HEAD);
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_under_way_has_no_limit() {
        let clock = clock();
        clock.read(b"GET /");
        let (one, other) = (clock.serve(), clock.serve());
        let mut alarm = Alarm::new(Arc::clone(&clock));
        for _ in 0..5 {
            advance(IDLE).await;
            clock.read(b"body");
            assert!(futures::poll!(&mut alarm).is_pending());
        }
        drop(one);
        assert!(clock.deadline().is_none());
        drop(other);
        assert!(clock.deadline().is_some());
        alarm.await;
    }

    #[tokio::test(start_paused = true)]
    async fn http_2_is_idle_from_its_preface_on() {
        let clock = clock();
        for byte in PREFACE {
            clock.read(std::slice::from_ref(byte));
        }
        clock.read(b"\0\0\0\x04\0\0\0\0\0");
        assert_about(rings_after(&clock).await, IDLE);
    }
}
