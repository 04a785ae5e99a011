//! The events of one subscription, in the order clients rely on: start, data, end.

use std::time::Duration;

use connectrpc::RequestContext;
use futures::Stream;
use guest_wire::proto::process::ProcessEvent;
use guest_wire::proto::process::process_event::data_event::Output;
use guest_wire::proto::process::process_event::{DataEvent, Event, KeepAlive, StartEvent};

use crate::process::hub::{Piece, Source, Subscription};
use crate::streams::StreamPlace;

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
    subscription: Subscription,
    keepalive: Duration,
    stage: Stage,
    _place: StreamPlace,
}

#[derive(Clone, Copy)]
enum Stage {
    Start,
    Output,
    Done,
}

impl Feed {
    pub(super) fn new(
        pid: u32,
        subscription: Subscription,
        keepalive: Duration,
        place: StreamPlace,
    ) -> Self {
        Self { pid, subscription, keepalive, stage: Stage::Start, _place: place }
    }

    pub(super) fn into_stream(self) -> impl Stream<Item = ProcessEvent> + Send {
        futures::stream::unfold(self, |mut feed| async move {
            let event = feed.next().await?;
            let event = ProcessEvent { event: Some(event), ..ProcessEvent::default() };
            Some((event, feed))
        })
    }

    async fn next(&mut self) -> Option<Event> {
        match self.stage {
            Stage::Start => {
                self.stage = Stage::Output;
                return Some(StartEvent { pid: self.pid, ..StartEvent::default() }.into());
            }
            Stage::Output => {}
            Stage::Done => return None,
        }
        tokio::select! {
            biased;
            next = self.subscription.next() => Some(match next {
                Ok(piece) => data_event(piece).into(),
                Err(end) => {
                    self.stage = Stage::Done;
                    end.into()
                }
            }),
            () = tokio::time::sleep(self.keepalive) => Some(KeepAlive::default().into()),
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
