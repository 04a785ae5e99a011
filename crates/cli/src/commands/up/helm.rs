use std::future::Future;
use std::pin::Pin;

use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at};

use crate::signals::Signals;
use crate::sockets::Sockets;
use crate::supervisor::{Stage, Supervisor};

/// What goes on whatever the service does: signals are heard, and the supervisor is told. It is
/// one loop with the work it watches, so a supervisor that hears nothing any more is right.
#[derive(Debug)]
pub(super) struct Helm {
    signals: Signals,
    supervisor: Supervisor,
    ticks: Interval,
    signalled: bool,
}

impl Helm {
    /// Takes over from whoever else would handle signals.
    ///
    /// # Errors
    /// The system refuses handlers.
    pub(super) fn take(supervisor: Supervisor) -> anyhow::Result<Self> {
        let pause = supervisor.pause();
        let mut ticks = interval_at(Instant::now() + pause, pause);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Ok(Self { signals: Signals::listen()?, supervisor, ticks, signalled: false })
    }

    /// Whether a service manager has started the service; else a person or a script has, who wants
    /// it gone when they say so.
    pub(super) fn is_managed(&self) -> bool {
        self.supervisor.is_there()
    }

    pub(super) fn keep(&self, sockets: &Sockets) {
        self.supervisor.keep(sockets);
    }

    pub(super) fn ready(&mut self, status: &str) {
        self.supervisor.ready(status);
    }

    pub(super) fn replacing(&mut self, status: &str) {
        self.supervisor.replacing(status);
    }

    /// Whether there ever was a signal.
    pub(super) fn was_signalled(&self) -> bool {
        self.signalled
    }

    pub(super) fn stopping(&mut self, status: &str) {
        self.supervisor.stopping(status);
    }

    /// The next signal, ticking until it comes.
    ///
    /// Cancel safety: yes.
    pub(super) async fn signal(&mut self, stage: Stage, status: impl Fn() -> String) {
        loop {
            tokio::select! {
                biased;
                () = self.signals.next() => {
                    self.signalled = true;
                    return;
                }
                _ = self.ticks.tick() => self.supervisor.tick(stage, &status()),
            }
        }
    }

    /// What `work` comes to, or `None` when a signal comes before. `work` is not touched then and
    /// may go on.
    ///
    /// Cancel safety: as safe as `work`.
    pub(super) async fn unless_signalled<F: Future>(
        &mut self,
        stage: Stage,
        status: impl Fn() -> String,
        mut work: Pin<&mut F>,
    ) -> Option<F::Output> {
        tokio::select! {
            biased;
            () = self.signal(stage, status) => None,
            done = &mut work => Some(done),
        }
    }
}
