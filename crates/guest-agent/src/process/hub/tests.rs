use futures::FutureExt as _;
use proptest::collection::vec;
use proptest::prelude::{Just, Strategy, prop_oneof, proptest};

use super::*;
use crate::process::queue::{BYTES_MAX, SCARCE_BYTES_MAX};
use crate::unread;

fn piece(text: &'static str) -> Piece {
    Piece { source: Source::Stdout, data: Bytes::from_static(text.as_bytes()) }
}

fn large(length: usize) -> Piece {
    Piece { source: Source::Stdout, data: Bytes::from(vec![b'x'; length]) }
}

fn ended() -> EndEvent {
    EndEvent { exit_code: 7, ..EndEvent::default() }
}

/// Reads what is there already.
fn read_now(subscription: &mut Subscription) -> Vec<Bytes> {
    let pieces = std::iter::from_fn(|| subscription.next().now_or_never()?.ok());
    pieces.map(|piece| piece.data).collect()
}

#[tokio::test]
async fn a_subscriber_reads_everything_before_the_end() {
    let (hub, mut first) = Hub::new(&Held::default());
    hub.publish(piece("one"));
    hub.publish(piece("two"));
    hub.end(ended());
    assert_eq!(first.next().await.unwrap().data, "one");
    assert_eq!(first.next().await.unwrap().data, "two");
    assert_eq!(first.next().await.unwrap_err().exit_code, 7);
}

#[tokio::test]
async fn what_nobody_heard_is_the_next_ones_and_then_nobodys() {
    let (hub, first) = Hub::new(&Held::default());
    hub.publish(piece("not taken, "));
    drop(first);
    hub.publish(piece("while nobody was there"));
    let mut second = hub.subscribe().unwrap();
    let mut third = hub.subscribe().unwrap();
    hub.publish(piece("live"));
    assert_eq!(read_now(&mut second), ["not taken, while nobody was there", "live"]);
    assert_eq!(read_now(&mut third), ["live"]);
}

#[tokio::test]
async fn what_one_of_several_left_unread_the_others_have_had() {
    let (hub, mut first) = Hub::new(&Held::default());
    let second = hub.subscribe().unwrap();
    hub.publish(piece("one"));
    drop(second);
    assert_eq!(read_now(&mut first), ["one"]);
    drop(first);
    assert!(read_now(&mut hub.subscribe().unwrap()).is_empty());
}

#[tokio::test]
async fn what_was_kept_comes_before_an_end_that_nobody_heard() {
    let (hub, first) = Hub::new(&Held::default());
    drop(first);
    hub.publish(piece("last words"));
    hub.end(ended());
    let mut late = hub.subscribe().unwrap();
    assert_eq!(late.next().await.unwrap().data, "last words");
    assert_eq!(late.next().await.unwrap_err().exit_code, 7);
    drop(late);
    assert_eq!(hub.subscribe().unwrap().next().await.unwrap_err().exit_code, 7);
}

#[tokio::test]
async fn while_it_is_frozen_nobody_takes_anything_and_what_is_left_is_copied() {
    let (hub, mut listener) = Hub::new(&Held::default());
    hub.publish(piece("taken"));
    hub.publish(piece("left"));
    assert_eq!(listener.next().await.unwrap().data, "taken");
    let copied = |(kept, end): (Vec<Piece>, Option<EndEvent>)| {
        let kept: Vec<_> = kept.into_iter().map(|piece| piece.data).collect();
        (kept, end.map(|end| end.exit_code))
    };
    assert_eq!(copied(hub.freeze()), (vec![Bytes::from("left")], None));
    hub.end(ended());
    assert!(read_now(&mut listener).is_empty() && listener.next().now_or_never().is_none());
    hub.thaw();
    assert_eq!(read_now(&mut listener), ["left"]);
    hub.publish(piece("for nobody"));
    drop(listener);
    assert_eq!(copied(hub.freeze()), (vec![Bytes::from("for nobody")], Some(7)));
    hub.thaw();
    assert_eq!(read_now(&mut hub.subscribe().unwrap()), ["for nobody"]);
}

#[tokio::test]
async fn a_resumed_one_gives_what_was_kept_to_the_first_who_comes() {
    let kept = vec![piece("kept, "), piece("too")];
    let hub = Hub::resumed(&Held::default(), kept, Written::default(), None);
    hub.publish(piece(", and more"));
    let mut first = hub.subscribe().unwrap();
    hub.publish(piece("live"));
    assert_eq!(read_now(&mut first), ["kept, too, and more", "live"]);
}

#[tokio::test]
async fn a_slow_subscriber_makes_the_process_wait_and_a_gone_one_does_not() {
    let (hub, slow) = Hub::new(&Held::default());
    let mut fast = hub.subscribe().unwrap();
    while hub.room().now_or_never().is_some() {
        hub.publish(large(1000));
        read_now(&mut fast);
    }
    let mut room = std::pin::pin!(hub.room());
    assert!(futures::poll!(&mut room).is_pending());
    drop(slow);
    room.await;
    drop(fast);
    for _ in 0..10 * BYTES_MAX / 1000 {
        assert!(hub.room().now_or_never().is_some());
        hub.publish(large(1000));
    }
}

#[test]
fn all_slow_subscribers_together_hold_a_bounded_part_of_memory() {
    const PROCESSES: usize = 2000;
    const PIECE_MAX: usize = 32 * 1024;
    let held = Held::default();
    let mut hubs: Vec<_> = (0..PROCESSES).map(|_| Hub::new(&held)).collect();
    for (hub, _stalled) in &hubs {
        while let Some(room) = hub.room().now_or_never() {
            hub.publish(large(room.min(PIECE_MAX)));
        }
    }
    let queued = || held.unread.bytes();
    let each = SCARCE_BYTES_MAX + PIECE_COST_BYTES;
    assert!(queued() < unread::BYTES_MAX + PIECE_MAX + PROCESSES * each, "{}", queued());
    // The last of them is not made to wait by the readers of the others.
    let (hub, reader) = hubs.last_mut().unwrap();
    for _ in 0..100 {
        assert_eq!(read_now(reader).len(), 1);
        hub.publish(large(hub.room().now_or_never().unwrap()));
    }
    drop(hubs);
    assert_eq!(queued(), 0);
}

#[test]
fn subscribers_are_limited_and_gone_ones_make_room() {
    let (hub, _first) = Hub::new(&Held::default());
    let mut subscriptions: Vec<_> =
        (1..SUBSCRIBERS_MAX).map(|_| hub.subscribe().unwrap()).collect();
    assert!(hub.subscribe().is_err());
    subscriptions.pop();
    assert!(hub.subscribe().is_ok());
}

#[derive(Debug, Clone)]
enum Step {
    Publish,
    Subscribe,
    /// One of the listeners reads a piece.
    Read(usize),
    Leave(usize),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => Just(Step::Publish),
        1 => Just(Step::Subscribe),
        4 => (0..4_usize).prop_map(Step::Read),
        1 => (0..4_usize).prop_map(Step::Leave),
    ]
}

/// One who listens, and the number that is to come next.
struct Listener {
    subscription: Subscription,
    next: u32,
}

impl Listener {
    /// Whether there was anything.
    fn read(&mut self) -> bool {
        let Some(Ok(piece)) = self.subscription.next().now_or_never() else { return false };
        for number in piece.data.chunks(4) {
            assert_eq!(number, self.next.to_be_bytes());
            self.next += 1;
        }
        true
    }
}

proptest! {
    /// The process says 0, 1, 2, ... Whoever listens hears every number from that on which follows
    /// the last one taken when the last listener left, or which is said next.
    #[test]
    fn nobody_hears_anything_twice_or_out_of_order_or_misses_it(steps in vec(step(), 0..200)) {
        let held = Held::default();
        let (hub, subscription) = Hub::new(&held);
        let mut listeners = vec![Listener { subscription, next: 0 }];
        let (mut said, mut unheard) = (0_u32, 0);
        for step in steps {
            match step {
                Step::Publish => {
                    let data = Bytes::from(said.to_be_bytes().to_vec());
                    hub.publish(Piece { source: Source::Terminal, data });
                    said += 1;
                }
                Step::Subscribe => {
                    let next = if listeners.is_empty() { unheard } else { said };
                    listeners.push(Listener { subscription: hub.subscribe().unwrap(), next });
                }
                Step::Read(index) => {
                    let Some(listener) = listeners.get_mut(index) else { continue };
                    assert!(listener.read() || listener.next == said);
                }
                Step::Leave(index) if index < listeners.len() => {
                    unheard = listeners.remove(index).next;
                }
                Step::Leave(_) => {}
            }
        }
        if listeners.is_empty() {
            listeners.push(Listener { subscription: hub.subscribe().unwrap(), next: unheard });
        }
        for mut listener in listeners {
            while listener.read() {}
            assert_eq!(listener.next, said);
        }
        assert_eq!(held.unread.bytes(), 0);
    }
}

/// What is read by one listener after another, while the process talks on without a pause.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn listeners_that_take_turns_hear_everything_once() {
    const SAID: u32 = 20_000;
    let (hub, subscription) = Hub::new(&Held::default());
    let talking = Arc::clone(&hub);
    crate::tasks::spawn(async move {
        for number in 0..SAID {
            talking.room().await;
            let data = Bytes::from(number.to_be_bytes().to_vec());
            talking.publish(Piece { source: Source::Stdout, data });
        }
        talking.end(ended());
    });
    let mut listener = Listener { subscription, next: 0 };
    // All of it would fit into the backlog, however long nobody listens.
    while listener.next < SAID {
        for _ in 0..50 {
            let Ok(piece) = listener.subscription.next().await else { break };
            for number in piece.data.chunks(4) {
                assert_eq!(number, listener.next.to_be_bytes());
                listener.next += 1;
            }
        }
        let next = listener.next;
        drop(listener);
        listener = Listener { subscription: hub.subscribe().unwrap(), next };
    }
    assert!(listener.subscription.next().await.is_err());
}
