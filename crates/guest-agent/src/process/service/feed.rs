//! The events of one subscription, in the order clients rely on: start, data, end.

use std::sync::Arc;
use std::time::Duration;

use connectrpc::RequestContext;
use futures::Stream;
use guest_wire::proto::process::ProcessEvent;
use guest_wire::proto::process::process_event::data_event::Output;
use guest_wire::proto::process::process_event::{
    DataEvent, EndEvent, Event, KeepAlive, StartEvent,
};
use tokio::sync::mpsc;

use crate::process::hub::{Piece, Source};
use crate::process::running::Running;

/// Between signs of life on a silent stream, if the client does not say.
const KEEPALIVE_DEFAULT: Duration = Duration::from_secs(90);

/// How long a stream may be silent, as the client asks in whole seconds; at least one.
pub(crate) fn keepalive_interval(context: &RequestContext) -> Duration {
    let asked = context.header("keepalive-ping-interval").and_then(|value| value.to_str().ok());
    match asked.map(|text| text.trim().parse::<i64>()) {
        Some(Ok(seconds)) => Duration::from_secs(seconds.max(1).unsigned_abs()),
        Some(Err(_)) | None => KEEPALIVE_DEFAULT,
    }
}

/// One client's view of one process.
pub(super) struct Feed {
    pid: u32,
    is_started: bool,
    rest: Rest,
}

/// What comes after the start.
enum Rest {
    Live { process: Arc<Running>, pieces: mpsc::Receiver<Piece>, keepalive: Duration },
    End(EndEvent),
    Nothing,
}

impl Feed {
    /// Of a process that runs, or has ended so recently that its end is still to come.
    pub(super) fn live(
        process: Arc<Running>,
        pieces: mpsc::Receiver<Piece>,
        keepalive: Duration,
    ) -> Self {
        let pid = process.wire_pid();
        Self { pid, is_started: false, rest: Rest::Live { process, pieces, keepalive } }
    }

    /// Of a process that has ended.
    pub(super) fn ended(pid: u32, end: EndEvent) -> Self {
        Self { pid, is_started: false, rest: Rest::End(end) }
    }

    pub(super) fn into_stream(self) -> impl Stream<Item = ProcessEvent> + Send {
        futures::stream::unfold(self, |mut feed| async move {
            let event = feed.next().await?;
            let event = ProcessEvent { event: Some(event), ..ProcessEvent::default() };
            Some((event, feed))
        })
    }

    async fn next(&mut self) -> Option<Event> {
        if !self.is_started {
            self.is_started = true;
            return Some(StartEvent { pid: self.pid, ..StartEvent::default() }.into());
        }
        if let Rest::Live { process, pieces, keepalive } = &mut self.rest {
            tokio::select! {
                biased;
                piece = pieces.recv() => match piece {
                    Some(piece) => return Some(data_event(piece).into()),
                    None => self.rest = process.hub.ended().map_or(Rest::Nothing, Rest::End),
                },
                () = tokio::time::sleep(*keepalive) => return Some(KeepAlive::default().into()),
            }
        }
        match std::mem::replace(&mut self.rest, Rest::Nothing) {
            Rest::End(end) => Some(end.into()),
            Rest::Live { .. } | Rest::Nothing => None,
        }
    }
}

fn data_event(piece: Piece) -> DataEvent {
    let data = Vec::from(piece.data);
    let output = match piece.source {
        Source::Stdout => Output::Stdout(data),
        Source::Stderr => Output::Stderr(data),
        Source::Terminal => Output::Pty(data),
    };
    DataEvent { output: Some(output), ..DataEvent::default() }
}

#[cfg(test)]
mod tests {
    use http::HeaderMap;

    use super::*;

    #[test]
    fn an_interval_is_at_least_one_second() {
        for (header, seconds) in
            [(Some("50"), 50), (Some("0"), 1), (Some("-3"), 1), (Some("soon"), 90), (None, 90)]
        {
            let mut headers = HeaderMap::new();
            if let Some(header) = header {
                headers.insert("keepalive-ping-interval", header.parse().unwrap());
            }
            let interval = keepalive_interval(&RequestContext::new(headers));
            assert_eq!(interval, Duration::from_secs(seconds), "{header:?}");
        }
    }
}
