//! Makes everything stand still where nothing is half done, and copies what is known there.

use std::io;
use std::os::fd::RawFd;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::FORMAT;
use super::state::{Leaving, State};
use crate::agent::Agent;
use crate::hold::Held;
use crate::process::{Frozen, Processes};
use crate::reaper::Reaper;
use crate::unread::Unread;
use crate::{control, tasks};

/// For which clients have to wait at most.
const ALL_LIMIT: Duration = Duration::from_secs(2);
/// All of these together leave some of it.
const REQUESTS_LIMIT: Duration = Duration::from_millis(800);
const OUTPUT_LIMIT: Duration = Duration::from_millis(300);
/// What takes longer is given up: a write to a process that does not read, ...
const INPUT_LIMIT: Duration = Duration::from_millis(200);
/// ... events that are told from a file system that hangs, ...
const WATCHERS_LIMIT: Duration = Duration::from_millis(200);
/// ... and what was taken for a client that does not read.
const STALLED_LIMIT: Duration = Duration::from_millis(400);
/// Between two looks at what is sent: too much would have to tell of every byte.
const SENT_CADENCE: Duration = Duration::from_millis(1);

/// Why it does not stand still.
#[derive(Debug, thiserror::Error)]
pub(super) enum QuiesceError {
    #[error("requests that change something were not over within {REQUESTS_LIMIT:?}")]
    Requests,
    #[error("output of processes was not passed on within {OUTPUT_LIMIT:?}")]
    Output,
    #[error("cannot keep in memory what is to be handed on: {0}")]
    State(#[source] io::Error),
}

/// As long as this exists, nothing changes but what the kernel keeps. When it is dropped,
/// everything goes on.
pub(super) struct Quiet {
    pub(super) leaving: Leaving,
    /// The number of the file with all that is known.
    pub(super) state: RawFd,
    pub(super) listener: RawFd,
    // In this order: what was said may be taken before more is said.
    _frozen: Frozen,
    _reaping: Paused,
    _held: [Held; 4],
}

/// The reaper, which goes on when this is dropped.
struct Paused(Arc<Reaper>);

impl Paused {
    fn pause(reaper: &Arc<Reaper>) -> Self {
        reaper.pause();
        Self(Arc::clone(reaper))
    }
}

impl Drop for Paused {
    fn drop(&mut self) {
        self.0.go_on();
    }
}

/// Cancel safety: yes, everything goes on.
///
/// # Errors
/// When that takes too long, or there is no memory.
pub(super) async fn quiesce(agent: &Agent) -> Result<Quiet, QuiesceError> {
    let processes: &Processes = &agent.processes;
    let end = Instant::now() + ALL_LIMIT;
    // First, so that nothing new begins. This also waits for starts under way.
    let requests = agent.upgrades.requests.hold();
    let parked = tasks::within(REQUESTS_LIMIT, requests.all_parked()).await;
    parked.ok_or(QuiesceError::Requests)?;

    let input = processes.input_hold().hold();
    let _given_up = tasks::within(INPUT_LIMIT, input.all_parked()).await;

    let output = processes.output_hold().hold();
    let parked = tasks::within(OUTPUT_LIMIT, output.all_parked()).await;
    parked.ok_or(QuiesceError::Output)?;

    let watchers = agent.watchers.hold.hold();
    let _given_up = tasks::within(WATCHERS_LIMIT, watchers.all_parked()).await;

    // Who ends from now on is reaped by the next agent.
    let reaping = Paused::pause(&processes.reaper);
    let mut leaving = Leaving::default();
    let (handed, ends, frozen) = processes.hand_over(&mut leaving);
    // What was taken until now is not in the copy.
    all_sent(processes.unread(), end).await;
    let (handed_watchers, watchers_failed) = agent.watchers.hand_over(&mut leaving);
    let mut state = State {
        format: FORMAT,
        descriptors: Vec::new(),
        settings: agent.settings.hand_over(),
        open_files: agent.open_files.inherited.current,
        processes: handed,
        ends,
        watchers: handed_watchers,
        frozen: control::hand_over(agent),
        journal: Some(agent.journal.hand_over()),
        watchers_failed,
    };
    let state = leaving.write(&mut state).map_err(QuiesceError::State)?;
    // Not among what is written: it is taken over before that is read.
    let listener = leaving.keep(Arc::clone(&agent.upgrades.listener) as _);
    let _held = [requests, input, output, watchers];
    Ok(Quiet { leaving, state, listener, _frozen: frozen, _reaping: reaping, _held })
}

/// Waits until the kernel has all that was taken for clients, as long as any of them reads on,
/// and not beyond `end`.
async fn all_sent(unread: &Unread, end: Instant) {
    let (mut left, mut changed_at) = (unread.in_hands(), Instant::now());
    while left > 0 && changed_at.elapsed() < STALLED_LIMIT && Instant::now() < end {
        tokio::time::sleep(SENT_CADENCE).await;
        let still_left = unread.in_hands();
        if still_left != left {
            (left, changed_at) = (still_left, Instant::now());
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;
    use rustix::process::{Resource, getrlimit};

    use super::*;
    use crate::cgroups::Cgroups;
    use crate::cli::Environment;
    use crate::open_files::OpenFiles;
    use crate::upgrade::Upgrades;

    async fn agent() -> Agent {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let upgrades = Upgrades::new(Arc::new(listener), Vec::new());
        let open_files = OpenFiles { most: 100, inherited: getrlimit(Resource::Nofile) };
        let reaper = Arc::new(Reaper::default());
        let cgroups = Cgroups::new(None);
        Agent::new(Environment::default(), open_files, reaper, cgroups, upgrades)
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_that_is_not_over_in_time_ends_the_upgrade_and_nothing_else() {
        let agent = agent().await;
        let under_way = agent.upgrades.requests.worker();
        let refused = quiesce(&agent).await.err().unwrap();
        let text = "requests that change something were not over within 800ms";
        assert_eq!(refused.to_string(), text);
        assert!(agent.upgrades.requests.worker().park().now_or_never().is_some());
        drop(under_way);
        assert!(quiesce(&agent).await.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn while_it_is_quiet_requests_wait_and_then_go_on() {
        let agent = agent().await;
        // What nobody reads is waited for a moment, and not longer.
        agent.processes.unread().take_in_hand(1);
        let begun = Instant::now();
        let quiet = quiesce(&agent).await.unwrap();
        assert!(begun.elapsed() >= STALLED_LIMIT && begun.elapsed() < ALL_LIMIT);
        let mut request = agent.upgrades.requests.worker();
        let mut parked = Box::pin(request.park());
        assert!(futures::poll!(&mut parked).is_pending());
        drop(quiet);
        parked.await;
    }
}
