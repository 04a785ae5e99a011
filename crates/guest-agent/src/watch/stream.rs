//! A watch as the answer of one request.

use std::collections::VecDeque;
use std::time::Duration;

use connectrpc::{ConnectError, ServiceStream};
use guest_wire::proto::filesystem::watch_dir_response::{Event, KeepAlive, StartEvent};
use guest_wire::proto::filesystem::{FilesystemEvent, WatchDirResponse};
use tokio::sync::mpsc;

use super::error::WatchError;
use super::inotify::Watch;
use crate::filesystem::trim;
use crate::streams::StreamPlace;
use crate::tasks;

/// How many batches of events may wait for a client that reads slowly; then they wait in the
/// kernel, whose own limit ends the watch.
const WAITING_MAX: usize = 4;

type Batch = Result<Vec<FilesystemEvent>, WatchError>;

struct Feed {
    batches: mpsc::Receiver<Batch>,
    /// Of a batch that was received, what was not sent yet.
    waiting: VecDeque<FilesystemEvent>,
    keepalive: Duration,
    is_legacy: bool,
    stage: Stage,
    _place: StreamPlace,
}

#[derive(Clone, Copy)]
enum Stage {
    Start,
    Events,
    Done,
}

/// First `start`, then events as they come, and signs of life between them. The watch ends with
/// the stream.
pub(crate) fn stream(
    watch: Watch,
    keepalive: Duration,
    is_legacy: bool,
    place: StreamPlace,
) -> ServiceStream<WatchDirResponse> {
    let (sender, batches) = mpsc::channel(WAITING_MAX);
    tasks::spawn(forward(watch, sender));
    let (waiting, stage) = (VecDeque::new(), Stage::Start);
    let feed = Feed { batches, waiting, keepalive, is_legacy, stage, _place: place };
    Box::pin(futures::stream::unfold(feed, |mut feed| async move {
        let event = match feed.next().await? {
            Ok(event) => event,
            Err(error) => {
                feed.stage = Stage::Done;
                let error = ConnectError::new(error.code(), error.to_string());
                return Some((Err(error), feed));
            }
        };
        let response = WatchDirResponse { event: Some(event), ..WatchDirResponse::default() };
        Some((Ok(response), feed))
    }))
}

/// Reads the watch in a task of its own: a read must not be dropped half-way, and a stream that
/// waits for a sign of life would do that.
async fn forward(mut watch: Watch, sender: mpsc::Sender<Batch>) {
    loop {
        let batch = tokio::select! {
            biased;
            () = sender.closed() => return,
            batch = watch.next() => batch,
        };
        let failed = batch.is_err();
        if sender.send(batch).await.is_err() || failed {
            return;
        }
    }
}

impl Feed {
    async fn next(&mut self) -> Option<Result<Event, WatchError>> {
        match self.stage {
            Stage::Start => {
                self.stage = Stage::Events;
                return Some(Ok(StartEvent::default().into()));
            }
            Stage::Events => {}
            Stage::Done => return None,
        }
        loop {
            if let Some(event) = self.waiting.pop_front() {
                return Some(Ok(event.into()));
            }
            let batch = tokio::select! {
                biased;
                batch = self.batches.recv() => batch,
                () = tokio::time::sleep(self.keepalive) => {
                    return Some(Ok(KeepAlive::default().into()));
                }
            };
            match batch? {
                Ok(mut events) => {
                    if self.is_legacy {
                        trim_events(&mut events);
                    }
                    self.waiting.extend(events);
                }
                Err(error) => return Some(Err(error)),
            }
        }
    }
}

/// Leaves in each event what the first clients know.
pub(crate) fn trim_events(events: &mut [FilesystemEvent]) {
    for event in events {
        if let Some(entry) = event.entry.as_option_mut() {
            trim(entry);
        }
    }
}
