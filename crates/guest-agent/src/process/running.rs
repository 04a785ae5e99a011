//! One process from its start until everything it said is handed out.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};

use guest_wire::proto::process::ProcessConfig;
use rustix::process::{Pid, Signal};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::end::end_event;
use super::hub::{Hub, Source};
use super::input::Input;
use super::notes;
use super::output::pump;
use super::registry::Holds;
use super::stdio::AgentEnds;
use crate::hold::{Hold, Worker};
use crate::journal::Journal;
use crate::pollable::Pollable;
use crate::reaper::{Ending, Reaper};

/// A process that was started by a request, as other requests find it.
pub(super) struct Running {
    pub(super) origin: Origin,
    pub(super) hub: Arc<Hub>,
    pub(super) input: Input,
    /// What its output is read from, as long as there may be more.
    pub(super) outputs: Vec<(Source, Weak<Pollable>)>,
    reaper: Arc<Reaper>,
    /// A signal that is meant to end it was sent.
    was_told_to_end: AtomicBool,
    /// Set when it has exited and was told to: a killed process's children, which may hold its
    /// output open for ever, are not waited for.
    abandon_output: CancellationToken,
}

/// What is settled about a process when it starts.
pub(super) struct Origin {
    pub(super) pid: Pid,
    pub(super) ending: Ending,
    pub(super) tag: Option<String>,
    /// As the client asked for it.
    pub(super) config: ProcessConfig,
    /// When it is killed.
    pub(super) deadline: Option<Instant>,
}

/// What the task that follows a process to its end needs.
pub(super) struct Outputs {
    from: Vec<(Source, Arc<Pollable>)>,
    hold: Arc<Hold>,
}

impl Running {
    /// What a process is made of once it runs, with what follows it.
    pub(super) fn new(
        origin: Origin,
        ends: AgentEnds,
        hub: Arc<Hub>,
        reaper: Arc<Reaper>,
        holds: &Holds,
    ) -> (Self, Outputs) {
        let AgentEnds { input, outputs, is_terminal } = ends;
        let from: Vec<_> = outputs.into_iter().map(|(of, fd)| (of, Arc::new(fd))).collect();
        let running = Self {
            origin,
            hub,
            input: Input::new(input, is_terminal, Arc::clone(&holds.input)),
            outputs: from.iter().map(|(of, fd)| (*of, Arc::downgrade(fd))).collect(),
            reaper,
            was_told_to_end: AtomicBool::new(false),
            abandon_output: CancellationToken::new(),
        };
        (running, Outputs { from, hold: Arc::clone(&holds.output) })
    }

    /// The process id as it stands on the wire.
    pub(super) fn wire_pid(&self) -> u32 {
        self.origin.pid.as_raw_nonzero().get().unsigned_abs()
    }

    pub(super) fn tag(&self) -> Option<&String> {
        self.origin.tag.as_ref()
    }

    pub(super) fn was_told_to_end(&self) -> bool {
        self.was_told_to_end.load(Ordering::SeqCst)
    }

    /// Notes that a signal to end it was sent: its output is not waited for once it has exited.
    pub(super) fn note_told_to_end(&self) {
        self.was_told_to_end.store(true, Ordering::SeqCst);
        if self.origin.ending.initialized() {
            self.abandon_output.cancel();
        }
    }

    /// Sends a signal to this one process, not to its children.
    ///
    /// # Errors
    /// When it has ended already.
    pub(super) fn signal(&self, signal: Signal) -> io::Result<()> {
        self.note_told_to_end();
        self.reaper.signal(self.origin.pid, signal)
    }

    /// Follows the process until it has exited and its output is handed out, then notes and publishes
    /// the end. When its time is over before that, the process is killed.
    pub(super) async fn follow(&self, outputs: Outputs, journal: &Journal) {
        let all_output = self.pump_all(outputs);
        let mut all_output = std::pin::pin!(all_output);
        let deadline = self.origin.deadline;
        let mut time_is_left = deadline.is_some();
        let time_over = tokio::time::sleep_until(deadline.unwrap_or_else(Instant::now));
        let mut time_over = std::pin::pin!(time_over);
        let (mut output_done, mut outcome) = (false, None);
        let exit = loop {
            if let Some(exit) = outcome.filter(|_exit| output_done) {
                break exit;
            }
            tokio::select! {
                biased;
                () = &mut time_over, if time_is_left => {
                    time_is_left = false;
                    // One that exited a moment ago is dead as well.
                    drop(self.signal(Signal::KILL));
                }
                // The reaper lives as long as the agent, so the exit always comes.
                exit = self.origin.ending.wait(), if outcome.is_none() => {
                    outcome = Some(*exit);
                    if self.was_told_to_end() {
                        self.abandon_output.cancel();
                    }
                }
                () = &mut all_output, if !output_done => output_done = true,
            }
        };
        self.input.close();
        let end = end_event(exit);
        // Whoever hears of the end finds it noted.
        notes::ended(journal, self.wire_pid(), &end, self.hub.written());
        self.hub.end(end);
    }

    async fn pump_all(&self, outputs: Outputs) {
        let Outputs { from, hold } = outputs;
        let pumps = from.into_iter().map(|(source, fd)| {
            let mut worker: Worker = hold.worker();
            async move {
                pump(&fd, source, &self.hub, &self.abandon_output, &mut worker).await;
            }
        });
        futures::future::join_all(pumps).await;
    }
}
