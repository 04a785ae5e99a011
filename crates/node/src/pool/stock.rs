//! Which slot is where: the books of the pool. They know nothing of what a slot is.

use std::collections::{BTreeMap, VecDeque};

use crate::sync::{Arc, Mutex, Notify};

/// Slots made ahead, and who has which index.
#[derive(Debug)]
pub(crate) struct Stock<T> {
    /// Indexes go from 0 to this, exclusively.
    size: u16,
    book: Mutex<Book<T>>,
    /// There may be fewer slots than there should be.
    fewer: Notify,
}

#[derive(Debug)]
struct Book<T> {
    /// An index that is in no place is free: one entry per index is why no two hands have it.
    places: BTreeMap<u16, Place>,
    shelf: VecDeque<(u16, T)>,
    next: u16,
    closed: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Making,
    Shelf,
    /// Somebody has taken it.
    Out,
    /// Closed; the kernel may still have the link.
    Released,
}

/// How many slots are where. Each is in one place.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub making: usize,
    pub warm: usize,
    /// Taken by somebody.
    pub out: usize,
    /// Closed; the kernel still has the link.
    pub leaving: usize,
    pub free: usize,
}

/// Nothing is handed out any more.
#[derive(Debug, thiserror::Error)]
#[error("slots are closed")]
pub(crate) struct Closed;

/// No slot can be made.
#[derive(Debug)]
pub(crate) enum Refused {
    Closed(Closed),
    /// Every index is in use, or its link is still there.
    Exhausted,
}

impl<T> Stock<T> {
    pub(crate) fn new(size: u16) -> Self {
        let book = Book { places: BTreeMap::new(), shelf: VecDeque::new(), next: 0, closed: false };
        Self { size, book: Mutex::new(book), fewer: Notify::default() }
    }

    /// A slot from the shelf. `None` when it is empty.
    pub(crate) fn take(&self) -> Result<Option<T>, Closed> {
        let taken = {
            let mut book = self.book.lock();
            if book.closed {
                return Err(Closed);
            }
            let taken = book.shelf.pop_front();
            if let Some((index, _)) = taken {
                book.places.insert(index, Place::Out);
            }
            taken
        };
        self.fewer.notify_one();
        Ok(taken.map(|(_, slot)| slot))
    }

    /// Begins to make a slot: gives it an index that nobody has and that is not `linked`.
    pub(crate) fn begin(
        self: &Arc<Self>,
        linked: impl Fn(u16) -> bool,
    ) -> Result<Making<T>, Refused> {
        let mut book = self.book.lock();
        if book.closed {
            return Err(Refused::Closed(Closed));
        }
        for _ in 0..self.size {
            let index = book.next;
            book.next = (book.next + 1) % self.size;
            let free = matches!(book.places.get(&index), None | Some(Place::Released));
            if free && !linked(index) {
                book.places.insert(index, Place::Making);
                drop(book);
                return Ok(Making { stock: Arc::clone(self), index, finished: false });
            }
        }
        Err(Refused::Exhausted)
    }

    /// Keeps an index for whoever has it from an earlier daemon. `false` when it is in use.
    pub(crate) fn claim(&self, index: u16) -> bool {
        let mut book = self.book.lock();
        let free = index < self.size && !book.places.contains_key(&index);
        if free {
            book.places.insert(index, Place::Out);
        }
        free
    }

    /// Whether somebody has the slot.
    pub(crate) fn is_out(&self, index: u16) -> bool {
        self.book.lock().places.get(&index) == Some(&Place::Out)
    }

    /// The index of a slot that was taken and is closed: free again once its link is gone. May be
    /// repeated.
    pub(crate) fn released(&self, index: u16) {
        let mut book = self.book.lock();
        match book.places.get(&index) {
            Some(Place::Out) => {
                book.places.insert(index, Place::Released);
            }
            Some(Place::Released) | None => {}
            Some(place @ (Place::Making | Place::Shelf)) => {
                tracing::error!(index, ?place, "a slot that nobody had was given back; refused");
            }
        }
    }

    /// Whether the index is in any place, its link on its way out included.
    pub(crate) fn has(&self, index: u16) -> bool {
        self.book.lock().places.contains_key(&index)
    }

    /// Slots on the shelf.
    pub(crate) fn ready(&self) -> usize {
        self.book.lock().shelf.len()
    }

    /// Slots that are being made.
    pub(crate) fn making(&self) -> usize {
        self.book.lock().count(Place::Making)
    }

    /// How many are where. `linked` says of the closed ones whether their link is still there.
    pub(crate) fn counts(&self, linked: impl Fn(u16) -> bool) -> Counts {
        let book = self.book.lock();
        let mut counts = Counts {
            free: usize::from(self.size).saturating_sub(book.places.len()),
            ..Counts::default()
        };
        for (index, place) in &book.places {
            match place {
                Place::Making => counts.making += 1,
                Place::Shelf => counts.warm += 1,
                Place::Out => counts.out += 1,
                Place::Released if linked(*index) => counts.leaving += 1,
                Place::Released => counts.free += 1,
            }
        }
        counts
    }

    /// Waits until there are fewer than `wanted` on the shelf and in the making; for ever when
    /// closed. For one caller at a time.
    ///
    /// Cancel safety: yes; a call that nobody waited for is kept.
    pub(crate) async fn wait_fewer_than(&self, wanted: usize) {
        loop {
            {
                let book = self.book.lock();
                if !book.closed && book.count(Place::Shelf) + book.count(Place::Making) < wanted {
                    return;
                }
            }
            self.fewer.notified().await;
        }
    }

    /// Hands nothing out any more. What is in the making still comes to the shelf.
    pub(crate) fn shut(&self) {
        self.book.lock().closed = true;
    }

    /// Takes everything off the shelf, to be closed; nothing before [`Stock::shut`].
    pub(crate) fn clear(&self) -> Vec<(u16, T)> {
        let mut book = self.book.lock();
        if !book.closed {
            return Vec::new();
        }
        let cleared: Vec<_> = book.shelf.drain(..).collect();
        book.places.extend(cleared.iter().map(|(index, _)| (*index, Place::Out)));
        cleared
    }
}

impl<T> Book<T> {
    fn count(&self, wanted: Place) -> usize {
        self.places.values().filter(|place| **place == wanted).count()
    }
}

/// A slot that is being made. Dropped unfinished, its index is free again.
#[derive(Debug)]
pub(crate) struct Making<T> {
    stock: Arc<Stock<T>>,
    index: u16,
    finished: bool,
}

impl<T> Making<T> {
    pub(crate) fn index(&self) -> u16 {
        self.index
    }

    /// Puts it on the shelf, also for whoever asked for it: one who has gone meanwhile loses
    /// nothing.
    pub(crate) fn finish(mut self, slot: T) {
        let mut book = self.stock.book.lock();
        book.places.insert(self.index, Place::Shelf);
        book.shelf.push_back((self.index, slot));
        self.finished = true;
    }
}

impl<T> Drop for Making<T> {
    fn drop(&mut self) {
        if !self.finished {
            self.stock.book.lock().places.remove(&self.index);
            self.stock.fewer.notify_one();
        }
    }
}
