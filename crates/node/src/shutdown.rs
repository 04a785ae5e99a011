//! Stopping a node: no new work, every sandbox ended, everything released, and a census to prove it.

use std::time::{Duration, Instant};

use host::census::{Item, census};
use lifecycle::{Budget, close_in};
use model::{EndReason, NodePhase};

use crate::start::Node;

/// What is left of a node that was shut down.
#[derive(Debug)]
pub struct ShutdownReport {
    /// Sandboxes that were ended.
    pub ended: usize,
    /// Objects that are still on the host. Empty is the proof of a clean stop.
    pub left: Vec<Item>,
    /// What went wrong on the way, in order.
    pub errors: Vec<String>,
    pub took: Duration,
}

impl ShutdownReport {
    /// Whether nothing is left and nothing failed.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.left.is_empty() && self.errors.is_empty()
    }
}

/// The least time each of the last steps has, whatever the sandboxes took.
const RESERVE: Duration = Duration::from_secs(10);

impl Node {
    /// Ends every sandbox and releases everything the node has. Every step runs whatever failed
    /// before. The node cannot be used again.
    ///
    /// Cancel safety: no.
    pub async fn shutdown(&self, budget: Budget) -> ShutdownReport {
        let began = Instant::now();
        let inner = &self.inner;
        let mut errors = Vec::new();
        let mut note = |what: &str, failed: Option<String>| {
            errors.extend(failed.map(|error| format!("{what}: {error}")));
        };
        // Admission closes before the status changes.
        inner.gate.shut();
        inner.set_phase(NodePhase::Draining);
        let entries = inner.registry.all();
        let ended = entries.len();
        for entry in &entries {
            entry.end(EndReason::NodeStop);
        }
        // Starts that were in flight have cancelled themselves: their entries were in the list, and
        // nobody enters any more.
        let gone = inner.registry.wait_empty(budget).await;
        note("sandboxes", gone.err().map(|e| e.to_string()));
        let reserve = Budget::within(RESERVE);
        let upkeep = inner.upkeep.close(reserve).await;
        note("upkeep", upkeep.err().map(|e| e.to_string()));
        inner.pool.close().await;
        let unlinked = inner.pool.wait_unlinked(reserve).await;
        note("slots", unlinked.err().map(|e| e.to_string()));
        let mut firewall = inner.firewall.lock().take();
        let closed = close_in(&mut firewall, reserve).await;
        note("firewall", closed.err().map(|e| observe::chain(&e).to_string()));
        *inner.firewall.lock() = firewall;
        let helpers = inner.close_helpers(reserve).await;
        note("helpers", helpers.err().map(|e| observe::chain(&e).to_string()));
        let roots = inner.cgroups.close();
        note("cgroups", roots.err().map(|e| observe::chain(&e).to_string()));
        let left = self.census(reserve).await.unwrap_or_else(|error| {
            errors.push(format!("census: {}", observe::chain(&error)));
            Vec::new()
        });
        if left.is_empty() && errors.is_empty() {
            if let Err(error) = inner.claim.give_back() {
                errors.push(format!("claim: {}", observe::chain(&error)));
            }
            inner.set_phase(NodePhase::Stopped);
        }
        ShutdownReport { ended, left, errors, took: began.elapsed() }
    }

    /// Everything on the host that carries this node's mark.
    ///
    /// # Errors
    /// When a part of it cannot be read.
    pub async fn census(&self, budget: Budget) -> Result<Vec<Item>, host::census::CensusError> {
        let inner = &self.inner;
        let lifecycles = inner.config.lifecycles();
        census(inner.mark(), &inner.cgroups, &inner.firewall_name, &lifecycles, budget).await
    }
}
