use std::time::Duration;

use e2b_wire::NodeDrain;
use futures::stream::{Stream, unfold};
use model::NodeId;

use super::{drain_path, known};
use crate::client::{Api, CallError, Lines};

/// Tries to follow a node again, and the pause before each.
const RETRIES: u32 = 10;
const PAUSE: Duration = Duration::from_millis(500);

/// What a node says of its drain, now and whenever it changes. A stream that breaks is begun
/// again a few times: the API may be restarted while the node goes on.
///
/// It fails when the service refuses, or cannot be reached any more, and has no other end.
pub(super) fn follow<'a>(
    api: &'a Api,
    node: &'a NodeId,
) -> impl Stream<Item = anyhow::Result<NodeDrain>> + 'a {
    let documents = Documents { api, node, lines: None, failures: 0 };
    // What a stream is waiting for is kept when its reader looks elsewhere meanwhile.
    unfold(documents, |mut documents| async move {
        let next = documents.next().await;
        Some((next, documents))
    })
}

#[derive(Debug)]
struct Documents<'a> {
    api: &'a Api,
    node: &'a NodeId,
    lines: Option<Lines<'a>>,
    failures: u32,
}

impl Documents<'_> {
    async fn next(&mut self) -> anyhow::Result<NodeDrain> {
        loop {
            match self.try_next().await {
                Ok(Some(document)) => {
                    self.failures = 0;
                    return Ok(document);
                }
                // The end of the stream is the end of the service, or of the connection.
                Ok(None) if self.failures < RETRIES => {}
                Err(CallError::Unreachable { .. }) if self.failures < RETRIES => {}
                Ok(None) => anyhow::bail!("node {} cannot be followed any more", self.node),
                Err(error) => return known(self.node, Err(error)),
            }
            self.lines = None;
            self.failures += 1;
            tokio::time::sleep(PAUSE).await;
        }
    }

    async fn try_next(&mut self) -> Result<Option<NodeDrain>, CallError> {
        let lines = match &mut self.lines {
            Some(lines) => lines,
            None => {
                let path = format!("{}?watch=true", drain_path(self.node));
                let lines = self.api.lines(&path).await?;
                self.lines.insert(lines)
            }
        };
        lines.next().await
    }
}
