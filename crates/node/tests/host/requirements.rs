//! What LIMITS.md asks of a node and no other test shows.

mod admission;
mod alone;
mod drain;
mod firewall;
mod force;
mod log;
mod machines;
mod reclaim;
mod stop;
mod table;
mod teardown;
mod tenants;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use host::census::{Item, Owner};
use host::{Faults, Mark};
use lifecycle::Budget;
use model::SandboxId;
use node::Config;
use node_wire::{AttemptStatus, Class, DrainStatus, NodeApi};
use testkit::{TestNode, wait_for};

pub(crate) const LIMIT: Duration = Duration::from_secs(60);
/// Fails until it is disarmed.
pub(crate) const EVERY: u32 = u32::MAX;

pub(crate) fn id(text: &str) -> SandboxId {
    SandboxId::parse(text).unwrap()
}

pub(crate) async fn status(test: &TestNode) -> DrainStatus {
    test.node.drain_status().await.unwrap()
}

pub(crate) async fn census(test: &TestNode) -> Vec<Item> {
    test.node.census(Budget::within(LIMIT)).await.unwrap()
}

pub(crate) fn count(status: &DrainStatus, class: Class) -> u32 {
    status.counts.iter().find(|c| c.class == class).unwrap().count
}

/// The lifecycles that anything on the host is for.
pub(crate) fn lifecycles(items: &[Item]) -> BTreeSet<String> {
    let of = |item: &Item| match &item.owner {
        Owner::Lifecycle(id) => Some(id.clone()),
        Owner::Slot(_) | Owner::Node => None,
    };
    items.iter().filter_map(of).collect()
}

/// Waits until the attempt to force that runs has ended.
async fn attempt_ended(test: &TestNode) -> AttemptStatus {
    wait_for("an attempt to end", LIMIT, || async {
        status(test).await.attempt.is_some_and(|attempt| !attempt.running)
    })
    .await;
    status(test).await.attempt.unwrap()
}

/// Steps whose delay does not make a test slow.
fn with_limits(config: &mut Config, faults: &Faults, teardown_ms: u64, force_ms: u64) {
    config.faults = faults.clone();
    config.teardown_limit = Duration::from_millis(teardown_ms);
    config.force_limit = Duration::from_millis(force_ms);
}

pub(crate) fn mark(test: &TestNode) -> Mark {
    host::identity::mark_of(&test.data_dir(), Config::new(PathBuf::new(), PathBuf::new()).network)
        .unwrap()
}
