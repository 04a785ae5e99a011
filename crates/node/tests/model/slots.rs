//! What the stock of slots promises, in every order in which its users can run.

use std::collections::BTreeSet;

use parking_lot::Mutex as Ghost;
use shuttle::future::block_on;
use shuttle::thread;

use crate::check::{holds, holds_always, is_found};
use crate::planted::Indexes;
use crate::pool::stock::{Making, Refused, Stock};
use crate::sync::{Arc, switch};

/// The host. The kernel takes a link away some time after its slot was closed, and until then it
/// remembers connections.
#[derive(Debug, Default)]
struct Kernel {
    links: Ghost<BTreeSet<u16>>,
    remembered: Ghost<BTreeSet<u16>>,
    /// It remembers nothing, as some do.
    forgetful: bool,
}

impl Kernel {
    fn has(&self, index: u16) -> bool {
        self.links.lock().contains(&index)
    }

    fn create(self: &Arc<Self>, index: u16) -> Slot {
        switch();
        assert!(self.links.lock().insert(index), "two slots have index {index}");
        assert!(!self.remembered.lock().contains(&index), "the host remembers slot {index}");
        Slot { index, kernel: Arc::clone(self), open: true }
    }

    fn forget(&self, indexes: &[u16]) {
        switch();
        self.remembered.lock().retain(|index| !indexes.contains(index));
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
            // The last packet.
            if !kernel.forgetful {
                kernel.remembered.lock().insert(index);
            }
            kernel.links.lock().remove(&index);
        });
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        assert!(!self.open || std::thread::panicking(), "slot {} is leaked", self.index);
    }
}

type Slots = Arc<Stock<Slot>>;

/// Has the host forget what was used and is not `linked`.
fn forget(stock: &Slots, kernel: &Kernel, linked: impl Fn(u16) -> bool) {
    let forgetting = stock.begin_to_forget(linked);
    kernel.forget(forgetting.indexes());
    forgetting.done();
}

/// As the pool does: has it forget only when there is nothing else.
fn begin(stock: &Slots, kernel: &Kernel) -> Result<Making<Slot>, Refused> {
    let linked = |index| kernel.has(index);
    match stock.begin(linked) {
        Err(Refused::Exhausted) => {
            forget(stock, kernel, linked);
            stock.begin(linked)
        }
        begun => begun,
    }
}

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
        let making = match begin(stock, kernel) {
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

/// An index comes back as soon as its link is gone and it is forgotten, and no sooner.
fn an_index_is_used_again_only_without_its_link(looks: bool) {
    let stock: Slots = Arc::new(Stock::new(1));
    let kernel = Arc::new(Kernel { forgetful: !looks, ..Kernel::default() });
    for _ in 0..2 {
        forget(&stock, &kernel, |index| looks && kernel.has(index));
        let Ok(making) = stock.begin(|index| looks && kernel.has(index)) else { continue };
        finish(making, &kernel);
        if let Ok(Some(slot)) = stock.take() {
            close(&stock, 0, slot);
        }
    }
}

/// What was used is told to who forgets it, and is used again afterwards.
fn who_forgets_is_woken(looks: bool) {
    let stock: Slots = Arc::new(Stock::new(1));
    let kernel = Arc::new(Kernel::default());
    // By an earlier daemon.
    kernel.remembered.lock().insert(0);
    let forgetter = {
        let (stock, kernel) = (Arc::clone(&stock), Arc::clone(&kernel));
        thread::spawn(move || {
            for _ in 0..2 {
                block_on(stock.wait_used());
                while looks && kernel.has(0) {
                    thread::yield_now();
                }
                forget(&stock, &kernel, |index| looks && kernel.has(index));
            }
        })
    };
    for _ in 0..2 {
        let making = loop {
            match stock.begin(|index| kernel.has(index)) {
                Ok(making) => break making,
                Err(_) => thread::yield_now(),
            }
        };
        finish(making, &kernel);
        let slot = stock.take().expect("open").expect("a slot");
        close(&stock, 0, slot);
    }
    forgetter.join().expect("who forgets");
}

/// One that could not be made is missing, too, and one whose forgetting failed is to be forgotten.
fn the_filler_hears_of_a_failure() {
    let stock: Slots = Arc::new(Stock::new(2));
    drop(stock.begin_to_forget(|_| false));
    assert!(matches!(stock.begin(|_| false), Err(Refused::Exhausted)));
    let making = begin(&stock, &Kernel::default()).expect("an index");
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
                finish(begin(&stock, &kernel).expect("an index"), &kernel);
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
        begin(self, &Kernel::default())
            .ok()
            .map(|making| std::mem::ManuallyDrop::new(making).index())
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
            let kernel = Kernel::default();
            assert!(matches!(begin(&stock, &kernel), Err(Refused::Exhausted)));
            stock.released(0);
            assert!(!stock.is_out(0));
            drop(begin(&stock, &kernel).expect("free again"));
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
fn an_index_is_forgotten_before_it_is_used_again() {
    holds(|| who_forgets_is_woken(true));
}

#[test]
fn forgetting_before_the_link_is_gone_is_found() {
    is_found("the host remembers slot", || who_forgets_is_woken(false));
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
            let kernel = Arc::new(Kernel::default());
            let making = begin(&stock, &kernel).expect("an index");
            stock.released(0);
            assert!(matches!(begin(&stock, &kernel), Err(Refused::Exhausted)));
            finish(making, &kernel);
            stock.released(0);
            let slot = stock.take().expect("open").expect("a slot");
            close(&stock, 0, slot);
            stock.released(0);
            assert!(stock.has(0), "until its link is known to be gone");
            while kernel.has(0) {
                thread::yield_now();
            }
            forget(&stock, &kernel, |index| kernel.has(index));
            assert!(!stock.has(0));
            drop(stock.begin(|_| false).expect("free again"));
        },
        1,
    );
}
