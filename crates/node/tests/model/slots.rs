//! What the stock of slots promises, in every order in which its users can run.

use std::collections::BTreeSet;

use parking_lot::Mutex as Ghost;
use shuttle::future::block_on;
use shuttle::thread;

use crate::check::{holds, holds_always, is_found};
use crate::planted::Indexes;
use crate::pool::stock::{Making, Refused, Stock};
use crate::sync::{Arc, switch};

/// The links of the host. The kernel takes one away some time after its slot was closed.
#[derive(Debug, Default)]
struct Kernel(Ghost<BTreeSet<u16>>);

impl Kernel {
    fn has(&self, index: u16) -> bool {
        self.0.lock().contains(&index)
    }

    fn create(self: &Arc<Self>, index: u16) -> Slot {
        switch();
        assert!(self.0.lock().insert(index), "two slots have index {index}");
        Slot { index, kernel: Arc::clone(self), open: true }
    }
}

/// As in production, dropping one that was not closed is a leak.
#[derive(Debug)]
struct Slot {
    index: u16,
    kernel: Arc<Kernel>,
    open: bool,
}

impl Slot {
    fn close(mut self) {
        self.open = false;
        let (index, kernel) = (self.index, Arc::clone(&self.kernel));
        thread::spawn(move || {
            switch();
            kernel.0.lock().remove(&index);
        });
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        assert!(!self.open || std::thread::panicking(), "slot {} is leaked", self.index);
    }
}

type Slots = Arc<Stock<Slot>>;

fn finish(making: Making<Slot>, kernel: &Arc<Kernel>) {
    let slot = kernel.create(making.index());
    making.finish(slot);
}

fn close(stock: &Slots, index: u16, slot: Slot) {
    assert_eq!(slot.index, index, "a slot under another's index");
    slot.close();
    stock.released(index);
}

/// Takes a slot as the pool does, making one in a thread of its own; keeps it a moment; closes it.
/// One who is in a hurry leaves while his slot is being made.
fn use_one(stock: &Slots, kernel: &Arc<Kernel>, in_a_hurry: bool) {
    loop {
        let Ok(taken) = stock.take() else { return };
        if let Some(slot) = taken {
            switch();
            return close(stock, slot.index, slot);
        }
        let making = match stock.begin(|index| kernel.has(index)) {
            Ok(making) => making,
            Err(Refused::Closed(_) | Refused::Exhausted) => return,
        };
        let kernel = Arc::clone(kernel);
        let made = thread::spawn(move || finish(making, &kernel));
        if in_a_hurry {
            return;
        }
        made.join().expect("the thread that makes a slot");
    }
}

/// Closes what is there, as often as `is_over` has it.
fn clear(stock: &Slots, mut is_over: impl FnMut() -> bool) {
    loop {
        for (index, slot) in stock.clear() {
            close(stock, index, slot);
        }
        if is_over() {
            return;
        }
        thread::yield_now();
    }
}

/// Nobody ever has a slot that another has, none is lost, and after the end none is handed out.
fn slots_are_used_by_one_and_all_closed(patient_close: bool) {
    let stock: Slots = Arc::new(Stock::new(2));
    let kernel = Arc::new(Kernel::default());
    let users: Vec<_> = [false, false, true]
        .into_iter()
        .map(|in_a_hurry| {
            let (stock, kernel) = (Arc::clone(&stock), Arc::clone(&kernel));
            thread::spawn(move || use_one(&stock, &kernel, in_a_hurry))
        })
        .collect();
    stock.shut();
    assert!(stock.take().is_err(), "a closed stock hands out");
    assert!(matches!(stock.begin(|_| false), Err(Refused::Closed(_))), "a closed stock makes");
    // In this order: what is counted as made is on the shelf before it is counted no more.
    clear(&stock, || !patient_close || (stock.making() == 0 && stock.ready() == 0));
    for user in users {
        user.join().expect("a user");
    }
    let counts = stock.counts(|index| kernel.has(index));
    assert_eq!((counts.making, counts.warm, counts.out), (0, 0, 0), "somebody still has one");
}

/// An index comes back as soon as its link is gone, and no sooner.
fn an_index_is_used_again_only_without_its_link(looks: bool) {
    let stock: Slots = Arc::new(Stock::new(1));
    let kernel = Arc::new(Kernel::default());
    for _ in 0..2 {
        let Ok(making) = stock.begin(|index| looks && kernel.has(index)) else { continue };
        finish(making, &kernel);
        if let Ok(Some(slot)) = stock.take() {
            close(&stock, 0, slot);
        }
    }
}

/// One that could not be made is missing, too.
fn the_filler_hears_of_a_failure() {
    let stock: Slots = Arc::new(Stock::new(2));
    let making = stock.begin(|_| false).expect("an index");
    let filler = {
        let stock = Arc::clone(&stock);
        thread::spawn(move || block_on(stock.wait_fewer_than(1)))
    };
    drop(making);
    filler.join().expect("the filler");
}

/// Who fills the stock is woken whenever there may be fewer than there should be.
fn the_filler_is_woken() {
    let stock: Slots = Arc::new(Stock::new(4));
    let kernel = Arc::new(Kernel::default());
    let filler = {
        let (stock, kernel) = (Arc::clone(&stock), Arc::clone(&kernel));
        thread::spawn(move || {
            // One from the start, and one more for each that is taken.
            for _ in 0..3 {
                block_on(stock.wait_fewer_than(1));
                finish(stock.begin(|index| kernel.has(index)).expect("an index"), &kernel);
            }
        })
    };
    let users: Vec<_> = (0..2)
        .map(|_| {
            let stock = Arc::clone(&stock);
            thread::spawn(move || {
                loop {
                    if let Some(slot) = stock.take().expect("open") {
                        return close(&stock, slot.index, slot);
                    }
                    thread::yield_now();
                }
            })
        })
        .collect();
    for thread in users.into_iter().chain([filler]) {
        thread.join().expect("a thread of the check");
    }
    stock.shut();
    clear(&stock, || true);
}

/// What the next property needs of a giver of indexes, sound or not.
pub(crate) trait Give: Send + Sync + 'static {
    fn new(size: u16) -> Arc<Self>;
    fn give(self: &Arc<Self>) -> Option<u16>;
}

impl Give for Stock<Slot> {
    fn new(size: u16) -> Arc<Self> {
        Arc::new(Self::new(size))
    }

    fn give(self: &Arc<Self>) -> Option<u16> {
        // Kept for ever, as by a slot that is with a sandbox.
        self.begin(|_| false).ok().map(|making| std::mem::ManuallyDrop::new(making).index())
    }
}

fn no_index_is_given_twice<G: Give>() {
    let (giver, kernel) = (G::new(2), Arc::new(Kernel::default()));
    let takers: Vec<_> = (0..3)
        .map(|_| {
            let (giver, kernel) = (Arc::clone(&giver), Arc::clone(&kernel));
            thread::spawn(move || {
                if let Some(index) = giver.give() {
                    let _kept = std::mem::ManuallyDrop::new(kernel.create(index));
                }
            })
        })
        .collect();
    for taker in takers {
        taker.join().expect("a taker");
    }
}

/// What an earlier daemon's sandbox has, is given to nobody who comes at the same time.
fn an_index_that_is_claimed_is_nobody_elses() {
    let (stock, kernel): (Slots, _) = (Arc::new(Stock::new(2)), Arc::new(Kernel::default()));
    let takers: Vec<_> = [true, true, false]
        .into_iter()
        .map(|claims| {
            let (stock, kernel) = (Arc::clone(&stock), Arc::clone(&kernel));
            thread::spawn(move || {
                let index = if claims { stock.claim(0).then_some(0) } else { stock.give() };
                index.map(|index| std::mem::ManuallyDrop::new(kernel.create(index)).index)
            })
        })
        .collect();
    let taken: Vec<_> =
        takers.into_iter().filter_map(|taker| taker.join().expect("a taker")).collect();
    assert!(taken.contains(&0), "nobody has it: {taken:?}");
    assert!(!stock.claim(0), "claimed twice");
    assert!(!stock.claim(2), "there is no such slot");
}

#[test]
fn an_index_of_an_earlier_daemon_is_claimed_by_one() {
    holds(an_index_that_is_claimed_is_nobody_elses);
    // And given back like any other.
    shuttle::check_random(
        || {
            let stock: Slots = Arc::new(Stock::new(1));
            assert!(stock.claim(0) && stock.is_out(0));
            assert!(matches!(stock.begin(|_| false), Err(Refused::Exhausted)));
            stock.released(0);
            assert!(!stock.is_out(0));
            drop(stock.begin(|_| false).expect("free again"));
        },
        1,
    );
}

#[test]
fn no_slot_is_in_two_hands_and_none_is_lost_whenever_the_stock_is_closed() {
    holds(|| slots_are_used_by_one_and_all_closed(true));
}

#[test]
fn an_index_waits_for_its_link() {
    holds(|| an_index_is_used_again_only_without_its_link(true));
}

#[test]
fn the_filler_sleeps_only_while_there_is_enough() {
    holds(the_filler_is_woken);
    holds_always(the_filler_hears_of_a_failure);
}

#[test]
fn no_index_is_given_to_two() {
    holds(no_index_is_given_twice::<Stock<Slot>>);
}

#[test]
fn a_close_that_forgets_what_is_being_made_is_found() {
    is_found("somebody still has one", || slots_are_used_by_one_and_all_closed(false));
}

#[test]
fn an_index_given_out_while_its_link_is_there_is_found() {
    is_found("two slots have index", || an_index_is_used_again_only_without_its_link(false));
}

#[test]
fn choosing_an_index_before_writing_it_down_is_found() {
    is_found("two slots have index", no_index_is_given_twice::<Indexes>);
}

#[test]
fn a_slot_that_nobody_had_cannot_be_given_back() {
    shuttle::check_random(
        || {
            let stock: Slots = Arc::new(Stock::new(1));
            let making = stock.begin(|_| false).expect("an index");
            stock.released(0);
            assert!(matches!(stock.begin(|_| false), Err(Refused::Exhausted)));
            finish(making, &Arc::new(Kernel::default()));
            stock.released(0);
            let slot = stock.take().expect("open").expect("a slot");
            close(&stock, 0, slot);
            stock.released(0);
            assert!(stock.has(0), "until its link is known to be gone");
            drop(stock.begin(|_| false).expect("free again"));
            assert!(!stock.has(0));
        },
        1,
    );
}
