//! What somebody wants of a sandbox, and waits for: another end, a pause, a snapshot. Its supervisor
//! alone does it.

use std::collections::VecDeque;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime};

use model::{EndReason, OnTimeout, SandboxPhase};
use node_wire::{CreateError, NewSnapshot, PauseError, PauseOrder, PausedStatus};
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use super::{Entry, Life};

/// What was asked for and is not in force yet.
#[derive(Debug, Default)]
pub(super) struct Moves {
    asked: Vec<Move>,
    wishes: VecDeque<Wish>,
    /// Nobody makes them any more.
    closed: bool,
}

/// Another end, that somebody waits for.
#[derive(Debug)]
pub(crate) struct Move {
    pub ends_at: SystemTime,
    /// Whether it is in force and will be under the next daemon, too; else why not.
    pub answer: oneshot::Sender<Result<(), String>>,
}

/// What somebody wants of the machine, and waits for. Its supervisor drops what it cannot answer.
#[derive(Debug)]
pub(crate) enum Wish {
    Pause {
        order: PauseOrder,
        answer: oneshot::Sender<Result<Began, PauseError>>,
    },
    /// The memory of a paused one is given up, its files are kept.
    GiveUp,
    Resume {
        ttl: Duration,
        on_timeout: OnTimeout,
        answer: oneshot::Sender<Result<(), CreateError>>,
    },
    Snapshot {
        new: NewSnapshot,
        answer: oneshot::Sender<Result<Duration, PauseError>>,
    },
}

/// How far a pause has come.
#[derive(Debug)]
pub(crate) enum Began {
    Done(Box<PausedStatus>),
    /// It ends, and its files are kept.
    Ending,
}

impl Entry {
    /// Asks for another end. Its supervisor answers; it drops the question of one that ends or is
    /// paused before.
    /// `None` when it is not live.
    pub(crate) fn ask_end(
        &self,
        ends_at: SystemTime,
    ) -> Option<oneshot::Receiver<Result<(), String>>> {
        let mut moves = self.moves.lock();
        if moves.closed || !self.phase().is_routable() {
            return None;
        }
        let (answer, answered) = oneshot::channel();
        moves.asked.push(Move { ends_at, answer });
        drop(moves);
        self.moved.notify_one();
        Some(answered)
    }

    /// Waits for ends that are asked for. Only the supervisor calls this.
    ///
    /// Cancel safety: yes.
    pub(crate) async fn asked_ends(&self) -> Vec<Move> {
        loop {
            let asked = std::mem::take(&mut self.moves.lock().asked);
            if !asked.is_empty() {
                return asked;
            }
            self.moved.notified().await;
        }
    }

    /// Whether another end is asked for that is not in force yet.
    pub(crate) fn is_end_asked(&self) -> bool {
        !self.moves.lock().asked.is_empty()
    }

    /// Drops the questions for another end: who asked is told that it is not live. Called when that
    /// is so, because there are none after this. Only the supervisor calls this.
    pub(crate) fn drop_asked_ends(&self) {
        let asked = std::mem::take(&mut self.moves.lock().asked);
        // Who asked is told without the lock.
        drop(asked);
    }

    /// Nobody answers who asks for something any more. Only the supervisor calls this.
    pub(crate) fn close_moves(&self) {
        let asked =
            std::mem::replace(&mut *self.moves.lock(), Moves { closed: true, ..Moves::default() });
        // Who asked is told without the lock.
        drop(asked);
    }

    /// Asks its supervisor for something. False when nobody answers any more.
    pub(crate) fn wish(&self, wish: Wish) -> bool {
        let mut moves = self.moves.lock();
        if moves.closed {
            return false;
        }
        moves.wishes.push_back(wish);
        drop(moves);
        self.wished.notify_one();
        true
    }

    /// Waits for the next wish. Only the supervisor calls this.
    ///
    /// Cancel safety: yes.
    pub(crate) async fn next_wish(&self) -> Wish {
        loop {
            if let Some(wish) = self.moves.lock().wishes.pop_front() {
                return wish;
            }
            self.wished.notified().await;
        }
    }

    /// Says whether what it has written is kept when it goes. Only the supervisor calls this.
    pub(crate) fn set_kept(&self, kept: bool) {
        self.kept.store(kept, Ordering::SeqCst);
    }

    /// Whether what it has written is kept when it goes.
    pub(crate) fn is_kept(&self) -> bool {
        self.kept.load(Ordering::SeqCst) && !self.is_unwanted()
    }

    /// Ends it for its owner, with everything that would be kept.
    pub(crate) fn discard(&self, reason: EndReason) {
        self.unwanted.cancel();
        self.end(reason);
    }

    pub(crate) fn is_unwanted(&self) -> bool {
        self.unwanted.is_cancelled()
    }

    /// Cancelled when its owner wants nothing of it any more.
    pub(crate) fn unwanted(&self) -> &CancellationToken {
        &self.unwanted
    }

    /// Starts its clock anew. Only the supervisor calls this.
    pub(crate) fn set_life(&self, life: Life) {
        self.state.send_modify(|state| {
            state.started_at = life.started_at;
            state.ends_at = life.ends_at;
            state.deadline = life.deadline();
        });
    }

    /// What becomes of it when its time is over. Only the supervisor calls this.
    pub(crate) fn set_on_timeout(&self, on_timeout: OnTimeout) {
        self.state.send_modify(|state| state.on_timeout = on_timeout);
    }

    /// What is told of it while it is paused with its memory.
    pub(crate) fn to_paused(&self) -> Option<PausedStatus> {
        let state = self.state();
        (state.phase == SandboxPhase::Paused).then(|| PausedStatus {
            id: self.id.clone(),
            lifecycle: self.lifecycle.clone(),
            team: self.team.clone(),
            template: self.template.clone(),
            build: self.build.clone(),
            resources: self.resources,
            metadata: self.metadata.clone(),
            started_at: state.started_at,
            paused_at: state.paused_at.unwrap_or(state.started_at),
            memory: true,
            agent_silent: state.agent_silent,
        })
    }
}
