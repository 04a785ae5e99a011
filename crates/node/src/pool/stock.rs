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
    /// There may be something to forget.
    used: Notify,
}

#[derive(Debug)]
struct Book<T> {
    /// An index that is in no place is free, and the host remembers nothing of its last use: one
    /// entry per index is why no two hands have it.
    places: BTreeMap<u16, Place>,
    shelf: VecDeque<(u16, T)>,
    next: u16,
    closed: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// Nobody's; who had it under an earlier daemon, nobody knows.
    Unknown,
    Making,
    Shelf,
    /// Somebody has taken it.
    Out,
    /// Closed; the kernel may still have the link.
    Released,
    /// Without a link; the host is made to forget what it remembers of its use.
    Forgetting,
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
    /// Every index is in use, or its link or what is remembered of it is still there.
    Exhausted,
}

impl<T> Stock<T> {
    pub(crate) fn new(size: u16) -> Self {
        let places = (0..size).map(|index| (index, Place::Unknown)).collect();
        let book = Book { places, shelf: VecDeque::new(), next: 0, closed: false };
        Self { size, book: Mutex::new(book), fewer: Notify::default(), used: Notify::default() }
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

    /// Begins to make a slot: gives it an index that nobody has, that is forgotten and not `linked`.
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
            if !book.places.contains_key(&index) && !linked(index) {
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
        let unused = [None, Some(Place::Unknown), Some(Place::Forgetting)];
        let free = index < self.size && unused.contains(&book.places.get(&index).copied());
        if free {
            book.places.insert(index, Place::Out);
        }
        free
    }

    /// Whether somebody has the slot.
    pub(crate) fn is_out(&self, index: u16) -> bool {
        self.book.lock().places.get(&index) == Some(&Place::Out)
    }

    /// The index of a slot that was taken and is closed: free again once its link is gone and it is
    /// forgotten. May be repeated.
    pub(crate) fn released(&self, index: u16) {
        let mut book = self.book.lock();
        match book.places.get(&index) {
            Some(Place::Out) => {
                book.places.insert(index, Place::Released);
                drop(book);
                self.used.notify_one();
            }
            Some(Place::Released | Place::Forgetting | Place::Unknown) | None => {}
            Some(place @ (Place::Making | Place::Shelf)) => {
                tracing::error!(index, ?place, "a slot that nobody had was given back; refused");
            }
        }
    }

    /// Begins to forget: takes every index that is nobody's any more and not `linked`, in order.
    pub(crate) fn begin_to_forget(self: &Arc<Self>, linked: impl Fn(u16) -> bool) -> Forgetting<T> {
        let mut book = self.book.lock();
        let mut indexes = Vec::new();
        for (&index, place) in &mut book.places {
            if matches!(place, Place::Unknown | Place::Released) && !linked(index) {
                *place = Place::Forgetting;
                indexes.push(index);
            }
        }
        drop(book);
        Forgetting { stock: Arc::clone(self), indexes }
    }

    /// Waits until an index is nobody's any more and not forgotten. For one caller at a time.
    ///
    /// Cancel safety: yes; a call that nobody waited for is kept.
    pub(crate) async fn wait_used(&self) {
        loop {
            {
                let book = self.book.lock();
                if book.count(Place::Unknown) + book.count(Place::Released) > 0 {
                    return;
                }
            }
            self.used.notified().await;
        }
    }

    /// Whether the index is somebody's, or its link may be on its way out.
    pub(crate) fn has(&self, index: u16) -> bool {
        let place = self.book.lock().places.get(&index).copied();
        place.is_some_and(|place| !matches!(place, Place::Unknown | Place::Forgetting))
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
                Place::Released | Place::Unknown | Place::Forgetting => counts.free += 1,
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

/// Indexes whose use the host is made to forget. Dropped before it is done, they are to be forgotten
/// still.
#[derive(Debug)]
pub(crate) struct Forgetting<T> {
    stock: Arc<Stock<T>>,
    indexes: Vec<u16>,
}

impl<T> Forgetting<T> {
    pub(crate) fn indexes(&self) -> &[u16] {
        &self.indexes
    }

    /// They are free, but for those that were claimed meanwhile.
    pub(crate) fn done(mut self) {
        let indexes = std::mem::take(&mut self.indexes);
        let mut book = self.stock.book.lock();
        for index in indexes {
            if book.places.get(&index) == Some(&Place::Forgetting) {
                book.places.remove(&index);
            }
        }
    }
}

impl<T> Drop for Forgetting<T> {
    fn drop(&mut self) {
        if self.indexes.is_empty() {
            return;
        }
        let mut book = self.stock.book.lock();
        for index in &self.indexes {
            if let Some(place @ Place::Forgetting) = book.places.get_mut(index) {
                *place = Place::Released;
            }
        }
        drop(book);
        self.stock.used.notify_one();
    }
}

/// A slot that is being made. Dropped unfinished, its index is as one that was used.
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
            self.stock.book.lock().places.insert(self.index, Place::Released);
            self.stock.fewer.notify_one();
            self.stock.used.notify_one();
        }
    }
}
