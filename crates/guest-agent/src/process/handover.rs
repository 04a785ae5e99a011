//! Processes that outlive the agent: what it hands on of them, and how the next takes them over.

use std::io;
use std::os::fd::{AsFd, RawFd};
use std::sync::Arc;
use std::time::Duration;

use guest_wire::proto::process::ProcessConfig;
use guest_wire::proto::process::process_event::EndEvent;
use rustix::process::{Pid, Signal};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::hub::{Hub, Piece, Source};
use super::notes::Written;
use super::registry::{Ended, Processes};
use super::running::{Origin, Running};
use super::stdio::AgentEnds;
use crate::reaper::{Ending, Exit};
use crate::upgrade::{Arrived, Leaving};

/// A process that is not over yet.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct HandedProcess {
    pid: u32,
    tag: Option<String>,
    config: ProcessConfig,
    /// How it ended, if only its output is not over.
    exit: Option<Exit>,
    /// Until it is killed.
    left: Option<Duration>,
    was_told_to_end: bool,
    is_terminal: bool,
    input: Option<RawFd>,
    outputs: Vec<(Source, RawFd)>,
    kept: Vec<HandedPiece>,
    written: Written,
}

/// A process that ended a moment ago.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct HandedEnd {
    pid: u32,
    tag: Option<String>,
    age: Duration,
    end: Option<EndEvent>,
    kept: Vec<HandedPiece>,
}

/// Where a piece of output came from, and its length.
type HandedPiece = (Source, usize);

/// As long as this exists, nobody takes what was said.
#[derive(Default)]
pub(crate) struct Frozen {
    hubs: Vec<Arc<Hub>>,
}

impl Drop for Frozen {
    fn drop(&mut self) {
        for hub in &self.hubs {
            hub.thaw();
        }
    }
}

impl Frozen {
    fn freeze(&mut self, hub: &Arc<Hub>, to: &mut Leaving) -> (Vec<HandedPiece>, Option<EndEvent>) {
        let (kept, end) = hub.freeze();
        self.hubs.push(Arc::clone(hub));
        (kept.into_iter().map(|piece| (piece.source, to.put(piece.data))).collect(), end)
    }
}

impl Processes {
    /// What the next agent has to know. All readers must be parked, and the reaper paused.
    pub(crate) fn hand_over(
        &self,
        to: &mut Leaving,
    ) -> (Vec<HandedProcess>, Vec<HandedEnd>, Frozen) {
        let mut frozen = Frozen::default();
        let (running, ended) = self.all();
        let processes = running.iter().map(|process| hand_over(process, &mut frozen, to)).collect();
        let ends = ended.into_iter().map(|ended| {
            let (kept, end) = frozen.freeze(&ended.hub, to);
            let age = ended.at.elapsed();
            HandedEnd { pid: ended.pid, tag: ended.tag, age, end, kept }
        });
        let ends = ends.collect();
        (processes, ends, frozen)
    }

    /// Goes on with a process; one that cannot be gone on with is killed. The reaper must be
    /// paused.
    ///
    /// # Errors
    /// When something of it is missing.
    pub(crate) fn take_over(
        self: &Arc<Self>,
        handed: HandedProcess,
        from: &mut Arrived,
    ) -> io::Result<()> {
        let kept = take(&handed.kept, from);
        let number = i32::try_from(handed.pid).ok().and_then(Pid::from_raw);
        let pid = number.ok_or_else(|| io::Error::other("it has no number"))?;
        // One whose exit is known has no number any more.
        let ending = match handed.exit {
            Some(exit) => Ending::new(tokio::sync::SetOnce::new_with(Some(exit))),
            None => self.reaper.adopt(pid),
        };
        let ends = ends(&handed, from).inspect_err(|_missing| {
            let _ended_meanwhile = self.reaper.signal(pid, Signal::KILL);
        })?;
        let deadline = handed.left.and_then(|left| Instant::now().checked_add(left));
        let hub = Hub::resumed(&self.held, kept, handed.written, None);
        let HandedProcess { tag, config, was_told_to_end, .. } = handed;
        let running = self.follow(Origin { pid, ending, tag, config, deadline }, ends, hub);
        if was_told_to_end {
            running.note_told_to_end();
        }
        Ok(())
    }

    /// Keeps an end for what is left of its time. To be called after all processes were taken over:
    /// one that is entered makes the ends forgotten that go by its tag.
    pub(crate) fn take_over_end(&self, handed: HandedEnd, from: &mut Arrived) {
        let kept = take(&handed.kept, from);
        let HandedEnd { pid, tag, age, end, .. } = handed;
        let now = Instant::now();
        let at = now.checked_sub(age).unwrap_or(now);
        self.remember(Ended {
            at,
            pid,
            tag,
            hub: Hub::resumed(&self.held, kept, Written::default(), end),
        });
    }
}

fn hand_over(process: &Running, frozen: &mut Frozen, to: &mut Leaving) -> HandedProcess {
    let (kept, _end_comes_again) = frozen.freeze(&process.hub, to);
    let outputs = process.outputs.iter().filter_map(|(source, fd)| {
        let fd: Arc<dyn AsFd + Send + Sync> = fd.upgrade()?;
        Some((*source, to.keep(fd)))
    });
    let outputs = outputs.collect();
    let Origin { ending, tag, config, deadline, .. } = &process.origin;
    HandedProcess {
        pid: process.wire_pid(),
        tag: tag.clone(),
        config: config.clone(),
        exit: ending.get().copied(),
        left: deadline.map(|deadline| deadline.saturating_duration_since(Instant::now())),
        was_told_to_end: process.was_told_to_end(),
        is_terminal: process.input.is_terminal,
        input: process.input.open().ok().map(|fd| to.keep(fd)),
        outputs,
        kept,
        written: process.hub.written(),
    }
}

fn ends(handed: &HandedProcess, from: &mut Arrived) -> io::Result<AgentEnds> {
    let input = handed.input.map(|fd| from.descriptor(fd)).transpose()?;
    let outputs = handed.outputs.iter().map(|(source, fd)| Ok((*source, from.descriptor(*fd)?)));
    let outputs = outputs.collect::<io::Result<_>>()?;
    Ok(AgentEnds { input, outputs, is_terminal: handed.is_terminal })
}

fn take(kept: &[HandedPiece], from: &mut Arrived) -> Vec<Piece> {
    let pieces = kept.iter().map(|(source, length)| {
        let data = from.take(*length);
        Piece { source: *source, data }
    });
    pieces.collect()
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::reaper::Reaper;

    fn processes() -> Arc<Processes> {
        Arc::new(Processes::new(Arc::new(Reaper::default()), Arc::default()))
    }

    fn ended(processes: &Processes, pid: u32, age: Duration, said: &'static str) {
        let end = EndEvent { exit_code: 7, ..EndEvent::default() };
        let kept =
            vec![Piece { source: Source::Stderr, data: Bytes::from_static(said.as_bytes()) }];
        let hub = Hub::resumed(&processes.held, kept, Written::default(), Some(end));
        let at = Instant::now().checked_sub(age).unwrap();
        processes.remember(Ended { at, pid, tag: Some("t".into()), hub });
    }

    #[tokio::test]
    async fn ends_are_handed_on_with_what_was_said_and_in_the_order_of_their_age() {
        let old = processes();
        for (pid, seconds, said) in [(1, 3, "one"), (2, 20, "two"), (3, 10, "three")] {
            ended(&old, pid, Duration::from_secs(seconds), said);
        }
        // Nobody remembers that one any more.
        ended(&old, 4, Duration::from_secs(31), "four");
        let mut leaving = Leaving::default();
        let (running, ends, frozen) = old.hand_over(&mut leaving);
        drop(frozen);
        assert!(running.is_empty());
        let mut arrived = leaving.arrive();
        let new = processes();
        for handed in ends {
            let text = serde_json::to_string(&handed).unwrap();
            new.take_over_end(serde_json::from_str(&text).unwrap(), &mut arrived);
        }
        let (_running, all) = new.all();
        let mut told = Vec::new();
        for ended in all {
            let mut late = ended.hub.subscribe().unwrap();
            told.push((ended.pid, late.next().await.unwrap().data));
            assert_eq!(late.next().await.unwrap_err().exit_code, 7);
        }
        let expected = [(2, "two"), (3, "three"), (1, "one")];
        assert_eq!(told, expected.map(|(pid, said)| (pid, Bytes::from(said))));
    }
}
