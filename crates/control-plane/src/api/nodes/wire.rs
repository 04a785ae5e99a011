//! What nodes say, in the words of the wire.

use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime};

use e2b_wire::{
    Enforcement, MachineInfo, Node, NodeDetail, NodeDrain, NodeDrainAttempt, NodeDrainBlocker,
    NodeDrainCounts, NodeLeaks, NodeMetrics, NodeObject, NodeStatus,
};
use model::NodePhase;
use node_wire::{AttemptStatus, Blocker, Class, ClassCount, DrainStatus, LeakItem, Leaks};
use uuid::Uuid;

use crate::nodes::{Link, Session};

/// A node as it last said it is; `None` until it has said so once.
pub(super) fn row(session: &Session) -> Option<Node> {
    let report = session.report()?;
    let (info, drain_status) = (&report.info, &report.drain);
    let link = session.link();
    let (status, since) = shown(link, drain_status);
    let counts = &session.creates;
    let detail = NodeDetail {
        id: info.id.to_string(),
        service_instance_id: drain_status.service_instance.clone(),
        cluster_id: Uuid::nil().to_string(),
        version: info.version.clone(),
        // Releases of Cofferdam are told by their version.
        commit: String::new(),
        status,
        status_changed_at: since.into(),
        sandbox_count: info.sandboxes,
        create_successes: counts.successes.load(Ordering::Relaxed),
        create_fails: counts.fails.load(Ordering::Relaxed),
        machine_info: machine_info(&info.processor),
        metrics: metrics(&info.metrics),
        enforcement: info.enforcement.iter().map(enforcement).collect(),
        drain: drain(drain_status),
        unreachable_since: match link {
            Link::Up | Link::Connecting { .. } => None,
            Link::Unreachable { since } => Some(since.into()),
        },
    };
    Some(Node { detail, sandbox_starting_count: info.starting })
}

/// The status to show, and since when. That a node does not answer only changes a good status:
/// what an operator asked for stays visible.
fn shown(link: Link, drain: &DrainStatus) -> (NodeStatus, SystemTime) {
    let told = match drain.phase {
        NodePhase::Starting => NodeStatus::Connecting,
        NodePhase::Healthy => NodeStatus::Ready,
        NodePhase::Standby => NodeStatus::Standby,
        NodePhase::Unhealthy => NodeStatus::Unhealthy,
        NodePhase::Draining | NodePhase::Forcing | NodePhase::ForceFailed | NodePhase::Stopped => {
            NodeStatus::Draining
        }
    };
    match (told, link) {
        (NodeStatus::Ready, Link::Connecting { since, .. }) => (NodeStatus::Connecting, since),
        (NodeStatus::Ready, Link::Unreachable { since }) => (NodeStatus::Unhealthy, since),
        (told, _) => (told, drain.changed_at),
    }
}

pub(super) fn drain(status: &DrainStatus) -> NodeDrain {
    NodeDrain {
        node_id: status.node.to_string(),
        service_instance_id: status.service_instance.clone(),
        phase: status.phase.as_str().to_owned(),
        changed_at: status.changed_at.into(),
        epoch: status.epoch,
        accepting: status.accepting,
        draining_since: status.draining_since.map(Into::into),
        force_at: status.force_at.map(Into::into),
        remaining: status.remaining(),
        counts: counts(&status.counts),
        blockers: status.blockers.iter().map(blocker).collect(),
        attempt: status.attempt.as_ref().map(attempt),
        eta_ms: status.eta.map(millis),
        leaked: status.leaked,
    }
}

fn counts(counts: &[ClassCount]) -> NodeDrainCounts {
    let mut told = NodeDrainCounts::default();
    for &ClassCount { class, count } in counts {
        let field = match class {
            Class::Starting => &mut told.starting,
            Class::Live => &mut told.live,
            Class::Stopping => &mut told.stopping,
            Class::Stuck => &mut told.stuck,
            Class::Build => &mut told.build,
            Class::Upload => &mut told.upload,
        };
        *field = field.saturating_add(count);
    }
    told
}

fn blocker(blocker: &Blocker) -> NodeDrainBlocker {
    NodeDrainBlocker {
        class: blocker.class.as_str().to_owned(),
        id: blocker.id.clone(),
        state: blocker.state.clone(),
        age_ms: millis(blocker.age),
        ends_at: blocker.ends_at.map(Into::into),
        last_error: blocker.last_error.clone(),
    }
}

fn attempt(attempt: &AttemptStatus) -> NodeDrainAttempt {
    NodeDrainAttempt {
        number: attempt.number,
        started_at: attempt.started_at.into(),
        running: attempt.running,
        stopped: attempt.stopped,
        late: attempt.late,
        failed: attempt.failed.clone(),
    }
}

pub(super) fn leaks(leaks: Leaks) -> NodeLeaks {
    let objects = |items: Vec<LeakItem>| items.into_iter().map(object).collect();
    NodeLeaks { owned: objects(leaks.owned), leaked: objects(leaks.leaked) }
}

fn object(LeakItem { kind, name, owner }: LeakItem) -> NodeObject {
    NodeObject { kind, name, owner }
}

fn enforcement(limit: &node_wire::Enforcement) -> Enforcement {
    let node_wire::Enforcement { what, enforced, detail } = limit;
    Enforcement { what: (*what).to_owned(), enforced: *enforced, detail: detail.clone() }
}

fn machine_info(processor: &node_wire::Processor) -> MachineInfo {
    let node_wire::Processor { family, model, model_name, architecture } = processor.clone();
    MachineInfo {
        cpu_family: family,
        cpu_model: model,
        cpu_model_name: model_name,
        cpu_architecture: architecture,
    }
}

fn metrics(metrics: &node_wire::NodeMetrics) -> NodeMetrics {
    NodeMetrics {
        allocated_cpu: metrics.allocated_vcpus,
        cpu_percent: whole_percent(metrics.cpu_percent),
        cpu_count: metrics.cpu_count,
        allocated_memory_bytes: metrics.allocated_memory_bytes,
        memory_used_bytes: metrics.memory_used_bytes,
        memory_total_bytes: metrics.memory_total_bytes,
        // Nodes do not use huge pages, and do not tell where their disk is mounted.
        ..NodeMetrics::default()
    }
}

/// Rounds down; at most 100.
fn whole_percent(percent: f64) -> u32 {
    (1_u32..=100).take_while(|&whole| f64::from(whole) <= percent).last().unwrap_or(0)
}

fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use e2b_wire::NodeStatus;
    use model::{NodeId, NodePhase};
    use node_wire::DrainStatus;

    use super::{Link, shown, whole_percent};

    #[test]
    fn a_percentage_is_cut_to_a_whole_one() {
        for (percent, whole) in
            [(-1.0, 0), (0.9, 0), (1.0, 1), (99.99, 99), (250.0, 100), (f64::NAN, 0)]
        {
            assert_eq!(whole_percent(percent), whole);
        }
    }

    /// Every phase over every state of the link: rows are phases, columns up, connecting and
    /// unreachable.
    #[test]
    fn a_node_that_does_not_answer_is_not_ready_and_otherwise_as_it_said() {
        use NodeStatus::{Connecting, Draining, Ready, Standby, Unhealthy};
        let told = SystemTime::UNIX_EPOCH;
        let since = told + Duration::from_secs(9);
        let links =
            [Link::Up, Link::Connecting { since, failures: 1 }, Link::Unreachable { since }];
        for (phase, columns) in NodePhase::ALL.into_iter().zip([
            [Connecting; 3],
            [Ready, Connecting, Unhealthy],
            [Standby; 3],
            [Unhealthy; 3],
            [Draining; 3],
            [Draining; 3],
            [Draining; 3],
            [Draining; 3],
        ]) {
            let drain = DrainStatus {
                node: NodeId::parse("n").unwrap(),
                service_instance: String::new(),
                phase,
                epoch: 1,
                changed_at: told,
                accepting: false,
                draining_since: None,
                force_at: None,
                counts: Vec::new(),
                blockers: Vec::new(),
                attempt: None,
                eta: None,
                leaked: None,
            };
            for (link, status) in links.into_iter().zip(columns) {
                let derived = phase == NodePhase::Healthy && link != Link::Up;
                let expected = (status, if derived { since } else { told });
                assert_eq!(shown(link, &drain), expected, "{phase:?} {link:?}");
            }
        }
    }
}
