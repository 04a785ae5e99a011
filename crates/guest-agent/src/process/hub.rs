//! Hands what one process says to everybody who listens.

use bytes::Bytes;
use guest_wire::proto::process::process_event::EndEvent;
use parking_lot::Mutex;
use tokio::sync::mpsc;

/// How many pieces may wait for one subscriber before the process is made to wait.
const WAITING_MAX: usize = 16;
/// How many may listen to one process.
const SUBSCRIBERS_MAX: usize = 256;

/// Which output a piece came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Source {
    Stdout,
    Stderr,
    Terminal,
}

/// One piece of output.
#[derive(Debug, Clone)]
pub(super) struct Piece {
    pub(super) source: Source,
    pub(super) data: Bytes,
}

/// The subscribers of one process. Nothing is kept for those who come later.
pub(super) struct Hub {
    state: Mutex<State>,
}

enum State {
    Live(Vec<mpsc::Sender<Piece>>),
    Ended(EndEvent),
}

/// Too many listen already.
#[derive(Debug, thiserror::Error)]
#[error("{SUBSCRIBERS_MAX} streams are attached to this process already: close one of them first")]
pub(super) struct TooManySubscribers;

impl Hub {
    /// A hub and its first subscriber, who misses nothing.
    pub(super) fn new() -> (Self, mpsc::Receiver<Piece>) {
        let (sender, receiver) = mpsc::channel(WAITING_MAX);
        (Self { state: Mutex::new(State::Live(vec![sender])) }, receiver)
    }

    /// From now on every piece goes to the receiver as well. It ends when the process has ended,
    /// or at once if it has already.
    pub(super) fn subscribe(&self) -> Result<mpsc::Receiver<Piece>, TooManySubscribers> {
        let (sender, receiver) = mpsc::channel(WAITING_MAX);
        if let State::Live(subscribers) = &mut *self.state.lock() {
            subscribers.retain(|subscriber| !subscriber.is_closed());
            if subscribers.len() >= SUBSCRIBERS_MAX {
                return Err(TooManySubscribers);
            }
            subscribers.push(sender);
        }
        Ok(receiver)
    }

    /// Gives `piece` to every subscriber, at the pace of the slowest. Without one it is dropped.
    ///
    /// Cancel safety: no, some subscribers may have it and others not.
    pub(super) async fn publish(&self, piece: Piece) {
        let subscribers = match &*self.state.lock() {
            State::Live(subscribers) => subscribers.clone(),
            State::Ended(_) => return,
        };
        for subscriber in subscribers {
            // One that is gone is forgotten at the next subscription.
            drop(subscriber.send(piece.clone()).await);
        }
    }

    /// Ends every subscription once what it still has to read is read.
    pub(super) fn end(&self, end: EndEvent) {
        *self.state.lock() = State::Ended(end);
    }

    /// How the process ended, if it has.
    pub(super) fn ended(&self) -> Option<EndEvent> {
        match &*self.state.lock() {
            State::Live(_) => None,
            State::Ended(end) => Some(end.clone()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn piece(text: &'static str) -> Piece {
        Piece { source: Source::Stdout, data: Bytes::from_static(text.as_bytes()) }
    }

    #[tokio::test]
    async fn a_subscriber_reads_everything_before_the_end() {
        let (hub, first) = Hub::new();
        drop(first);
        hub.publish(piece("to nobody")).await;
        let mut receiver = hub.subscribe().unwrap();
        hub.publish(piece("one")).await;
        hub.publish(piece("two")).await;
        hub.end(EndEvent { exit_code: 7, ..EndEvent::default() });
        assert_eq!(receiver.recv().await.unwrap().data, "one");
        assert_eq!(receiver.recv().await.unwrap().data, "two");
        assert!(receiver.recv().await.is_none());
        assert_eq!(hub.ended().unwrap().exit_code, 7);
        assert!(hub.subscribe().unwrap().recv().await.is_none());
    }

    #[tokio::test]
    async fn a_slow_subscriber_makes_the_process_wait_and_a_gone_one_does_not() {
        let (hub, slow) = Hub::new();
        for _ in 0..WAITING_MAX {
            hub.publish(piece("x")).await;
        }
        let publish = hub.publish(piece("one too many"));
        let mut publish = std::pin::pin!(publish);
        assert!(futures::poll!(&mut publish).is_pending());
        drop(slow);
        publish.await;
    }

    #[test]
    fn subscribers_are_limited_and_gone_ones_make_room() {
        let (hub, _first) = Hub::new();
        let mut receivers: Vec<_> =
            (1..SUBSCRIBERS_MAX).map(|_| hub.subscribe().unwrap()).collect();
        assert!(hub.subscribe().is_err());
        receivers.pop();
        assert!(hub.subscribe().is_ok());
    }
}
