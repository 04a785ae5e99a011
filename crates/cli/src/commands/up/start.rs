use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use host::identity::ClaimError;
use lifecycle::Budget;
use node::{Node, StartError};

use super::helm::Helm;
use super::outcome::REFUSED;
use crate::say;
use crate::supervisor::Stage;

/// How the start of a node ended.
pub(super) enum Start {
    Up(Arc<Node>),
    /// It is up, and was asked to stop meanwhile.
    Unwanted(Arc<Node>),
    /// It was asked to stop and did not get done in time, or was asked again.
    GivenUp,
    /// The host is not free for it; the exit code.
    Refused(u8),
}

/// Waits for `starting`. A signal does not cut it off: it takes names on the host, and is over
/// soon. One that comes meanwhile gives the start another `limit`, a second one none at all.
///
/// # Errors
/// The node could not start, for a reason of its own.
pub(super) async fn run(
    mut starting: Pin<Box<impl Future<Output = Result<Arc<Node>, StartError>>>>,
    limit: Duration,
    helm: &mut Helm,
) -> anyhow::Result<Start> {
    let status = || "removing what an earlier service left".to_owned();
    let started = helm.unless_signalled(Stage::Starting, status, starting.as_mut()).await;
    let (started, wanted) = match started {
        Some(started) => (started, true),
        None => {
            say::remark("cofferdam: stopping when the start is over; another signal gives up");
            helm.stopping(&status());
            let rest = helm.unless_signalled(Stage::Stopping, status, starting.as_mut());
            match Budget::within(limit).run("the rest of the start", rest).await {
                Ok(Some(started)) => (started, false),
                Ok(None) | Err(_) => return Ok(Start::GivenUp),
            }
        }
    };
    match started {
        Ok(node) if wanted => Ok(Start::Up(node)),
        Ok(node) => Ok(Start::Unwanted(node)),
        Err(error @ StartError::Claim(ClaimError::InUse { .. } | ClaimError::NoBlock { .. })) => {
            say::remark(&format!("cofferdam: {}", observe::chain(&error)));
            Ok(Start::Refused(REFUSED))
        }
        Err(error) => Err(error.into()),
    }
}
