//! Requests for sandboxes to which there is no route: one that is paused may be woken by them.

use std::sync::Arc;

use e2b_wire::host_name::{ENVD_PORT, Target};
use e2b_wire::proxy_error::ProxyError;
use http::{HeaderMap, HeaderName};
use model::Secret;
use node_wire::{Knock, WakeError, Waker};

use crate::Edge;
use crate::private::TRAFFIC_TOKEN;
use crate::upstream::Upstream;

const AGENT_TOKEN: HeaderName = HeaderName::from_static("x-access-token");

impl Edge {
    /// Who is asked to wake paused sandboxes from now on; the first one stays. Without one they
    /// sleep on.
    pub fn set_waker(&self, waker: Arc<dyn Waker>) {
        self.waker.get_or_init(|| waker);
    }

    /// The sandbox of `target` after it was woken.
    ///
    /// Cancel safety: yes; a start that was begun goes on.
    pub(crate) async fn wake<'a>(
        &self,
        target: &'a Target,
        knock: Knock,
    ) -> Result<Arc<Upstream>, ProxyError<'a>> {
        let sandbox = &target.sandbox;
        let not_found = ProxyError::SandboxNotFound { sandbox };
        let Some(waker) = self.waker.get() else { return Err(not_found) };
        // Whoever waits here counts as one whose request is under way.
        let Some(_pass) = self.exchanges.take() else {
            return Err(ProxyError::ProxyBusy { sandbox });
        };
        match self.at_home(waker.wake(sandbox, knock)).await {
            // It may have ended again since.
            Ok(()) => self.upstream(sandbox).ok_or(not_found),
            Err(WakeError::NotFound | WakeError::Failed) => Err(not_found),
            Err(WakeError::Denied) => Err(ProxyError::ResumeDenied { sandbox }),
            Err(WakeError::Transitioning) => Err(ProxyError::StillTransitioning { sandbox }),
            Err(WakeError::AtLimit) => Err(ProxyError::SandboxLimit { sandbox }),
        }
    }
}

/// What a request with `headers` shows of who sent it.
pub(crate) fn knock(target: &Target, headers: &HeaderMap) -> Knock {
    Knock {
        for_agent: target.port == ENVD_PORT,
        agent_token: only(headers, &AGENT_TOKEN),
        traffic_token: only(headers, &TRAFFIC_TOKEN),
    }
}

/// Of two values, the program inside might look at the other one.
fn only(headers: &HeaderMap, name: &HeaderName) -> Option<Secret> {
    let mut shown = headers.get_all(name).iter();
    let first = shown.next()?.to_str().ok()?;
    shown.next().is_none().then(|| Secret::new(first.to_owned()))
}
