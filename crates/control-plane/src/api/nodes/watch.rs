use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::response::{IntoResponse as _, Response};
use bytes::Bytes;
use futures::StreamExt as _;
use futures::stream::{BoxStream, unfold};
use http::header;
use lifecycle::TaskGroup;
use model::{NodeId, NodePhase};
use node_wire::DrainStatus;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::sleep;

use super::{CALL_LIMIT, ask, wire};
use crate::app::App;
use crate::http::ApiError;
use crate::nodes::Session;

const RETRY_BUSY: Duration = Duration::from_secs(5);

/// A stream that is open; dropped when the client goes.
struct Watch {
    updates: BoxStream<'static, DrainStatus>,
    keep_alive: Duration,
    /// Closing the control plane ends it.
    tasks: TaskGroup,
    /// What was told last.
    told: Option<DrainStatus>,
    _room: OwnedSemaphorePermit,
}

/// One document per line, now and whenever it changes, and an empty line when nothing does. Ends
/// with a node that has stopped, or does not tell any more.
pub(super) async fn drain(app: &App, id: &NodeId, session: &Session) -> Result<Response, ApiError> {
    let room = Arc::clone(&app.watchers).try_acquire_owned().map_err(|_none_left| {
        let limit = app.config.limits.watchers;
        let message = format!("{limit} streams are open already; close one, or ask without watch");
        ApiError::unavailable(message, RETRY_BUSY)
    })?;
    let updates = ask(id, session, CALL_LIMIT, session.api().drain_updates()).await?;
    let watch = Watch {
        updates,
        keep_alive: app.config.limits.keep_alive,
        tasks: app.tasks.clone(),
        told: None,
        _room: room,
    };
    let lines = unfold(watch, |mut watch| async move {
        let line = watch.next().await?;
        Some((Ok::<_, std::convert::Infallible>(line), watch))
    });
    let kind = [(header::CONTENT_TYPE, "application/x-ndjson")];
    Ok((kind, Body::from_stream(lines)).into_response())
}

impl Watch {
    async fn next(&mut self) -> Option<Bytes> {
        // Nothing comes after it.
        if self.told.as_ref().is_some_and(|told| told.phase == NodePhase::Stopped) {
            return None;
        }
        let alive = sleep(self.keep_alive);
        tokio::pin!(alive);
        let document = loop {
            let document = tokio::select! {
                biased;
                () = self.tasks.stop_token().cancelled() => return None,
                document = self.updates.next() => document?,
                () = &mut alive => return Some(Bytes::from_static(b"\n")),
            };
            // Something changed and changed back.
            if self.told.as_ref() != Some(&document) {
                break document;
            }
        };
        let line = serde_json::to_vec(&wire::drain(&document));
        self.told = Some(document);
        let mut line = line.ok()?;
        line.push(b'\n');
        Some(line.into())
    }
}
