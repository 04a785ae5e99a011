//! One process from its start until everything it said is handed out.

use std::future::Future;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use guest_wire::proto::process::ProcessConfig;
use rustix::process::{Pid, Signal};
use tokio::sync::oneshot;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::end::end_event;
use super::hub::{Held, Hub, Source, Subscription};
use super::input::Input;
use super::notes;
use super::output::pump;
use super::stdio::AgentEnds;
use crate::journal::Journal;
use crate::pollable::Pollable;
use crate::reaper::{Exit, Reaper};

/// A process that was started by a request, as other requests find it.
pub(super) struct Running {
    pub(super) pid: Pid,
    pub(super) tag: Option<String>,
    /// As the client asked for it.
    pub(super) config: ProcessConfig,
    pub(super) hub: Arc<Hub>,
    pub(super) input: Input,
    reaper: Arc<Reaper>,
    /// A signal that is meant to end it was sent.
    was_told_to_end: AtomicBool,
    exited: AtomicBool,
    /// Set when both are true: a killed process's children, which may hold its output open for
    /// ever, are not waited for.
    abandon_output: CancellationToken,
}

/// What the task that follows a process to its end needs.
pub(super) struct Outputs {
    pub(super) stdout: Option<Pollable>,
    pub(super) stderr: Option<Pollable>,
    pub(super) terminal: Option<Pollable>,
}

impl Running {
    /// What a process is made of once it runs, with what follows it and its first subscriber.
    pub(super) fn new(
        pid: Pid,
        tag: Option<String>,
        config: ProcessConfig,
        ends: AgentEnds,
        reaper: Arc<Reaper>,
        held: &Held,
    ) -> (Self, Outputs, Subscription) {
        let (input, outputs) = match ends {
            AgentEnds::Pipes { input, output, error } => (
                Input::pipe(input),
                Outputs { stdout: Some(output), stderr: Some(error), terminal: None },
            ),
            AgentEnds::Terminal { input, output } => (
                Input::terminal(input),
                Outputs { stdout: None, stderr: None, terminal: Some(output) },
            ),
        };
        let (hub, subscription) = Hub::new(held);
        let running = Self {
            pid,
            tag,
            config,
            hub,
            input,
            reaper,
            was_told_to_end: AtomicBool::new(false),
            exited: AtomicBool::new(false),
            abandon_output: CancellationToken::new(),
        };
        (running, outputs, subscription)
    }

    /// The process id as it stands on the wire.
    pub(super) fn wire_pid(&self) -> u32 {
        self.pid.as_raw_nonzero().get().unsigned_abs()
    }

    /// Sends a signal to this one process, not to its children.
    ///
    /// # Errors
    /// When it has ended already.
    pub(super) fn signal(&self, signal: Signal) -> io::Result<()> {
        self.was_told_to_end.store(true, Ordering::SeqCst);
        if self.exited.load(Ordering::SeqCst) {
            self.abandon_output.cancel();
        }
        self.reaper.signal(self.pid, signal)
    }

    /// Follows the process until it has exited and its output is handed out, then notes and publishes
    /// the end. When `limit` is over before that, the process is killed.
    pub(super) async fn follow(
        &self,
        outputs: Outputs,
        exit: oneshot::Receiver<Exit>,
        limit: Option<Duration>,
        journal: &Journal,
    ) {
        let all_output = self.pump_all(outputs);
        let mut all_output = std::pin::pin!(all_output);
        let mut exit = std::pin::pin!(exit);
        let deadline = limit.and_then(|limit| Instant::now().checked_add(limit));
        let mut time_is_left = deadline.is_some();
        let time_over = tokio::time::sleep_until(deadline.unwrap_or_else(Instant::now));
        let mut time_over = std::pin::pin!(time_over);
        let (mut output_done, mut outcome) = (false, None);
        while !output_done || outcome.is_none() {
            tokio::select! {
                biased;
                () = &mut time_over, if time_is_left => {
                    time_is_left = false;
                    // One that exited a moment ago is dead as well.
                    drop(self.signal(Signal::KILL));
                }
                ended = &mut exit, if outcome.is_none() => {
                    // The reaper lives as long as the agent, so the exit always comes.
                    outcome = Some(ended.unwrap_or(Exit::Code(-1)));
                    self.exited.store(true, Ordering::SeqCst);
                    if self.was_told_to_end.load(Ordering::SeqCst) {
                        self.abandon_output.cancel();
                    }
                }
                () = &mut all_output, if !output_done => output_done = true,
            }
        }
        self.input.close();
        let end = end_event(outcome.unwrap_or(Exit::Code(-1)));
        // Whoever hears of the end finds it noted.
        notes::ended(journal, self.wire_pid(), &end, self.hub.written());
        self.hub.end(end);
    }

    fn pump_all(&self, outputs: Outputs) -> impl Future<Output = ()> + Send {
        let pump_one = |fd: Option<Pollable>, source| async move {
            if let Some(fd) = fd {
                pump(fd, source, &self.hub, &self.abandon_output).await;
            }
        };
        let stdout = pump_one(outputs.stdout, Source::Stdout);
        let stderr = pump_one(outputs.stderr, Source::Stderr);
        let terminal = pump_one(outputs.terminal, Source::Terminal);
        async move {
            futures::join!(stdout, stderr, terminal);
        }
    }
}
