use std::time::Duration;

use e2b_wire::NodeDrain;
use model::NodeId;

use super::{drain_path, known};
use crate::client::{Api, CallError, Lines};

/// Tries to follow a node again, and the pause before each.
const RETRIES: u32 = 10;
const PAUSE: Duration = Duration::from_millis(500);

/// What a node says of its drain, now and whenever it changes. A stream that breaks is begun
/// again a few times: the API may be restarted while the node goes on.
#[derive(Debug)]
pub(super) struct Documents<'a> {
    api: &'a Api,
    node: &'a NodeId,
    lines: Option<Lines<'a>>,
    failures: u32,
}

impl<'a> Documents<'a> {
    pub(super) fn of(api: &'a Api, node: &'a NodeId) -> Self {
        Self { api, node, lines: None, failures: 0 }
    }

    /// The next document.
    ///
    /// Cancel safety: yes; at most the connection is made anew.
    ///
    /// # Errors
    /// The service refuses, or cannot be reached any more.
    pub(super) async fn next(&mut self) -> anyhow::Result<NodeDrain> {
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
