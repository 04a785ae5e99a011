//! Which node is asked for a sandbox.

use std::cmp::Ordering;

use model::{NodeId, NodePhase};

/// What a node is to placement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Standing {
    /// It answers, and is in this phase.
    Phase(NodePhase),
    /// Healthy, but it turned the last sandbox away because it had no room.
    Full,
    Unreachable,
}

/// A node as placement sees it.
#[derive(Debug, Clone)]
pub(crate) struct Candidate {
    pub(crate) node: NodeId,
    pub(crate) standing: Standing,
    /// Whether it said that it has the template; it may have got it since.
    pub(crate) has_template: bool,
    /// Sandboxes it has, and those it was given since it said so.
    pub(crate) load: u32,
    pub(crate) cpus: u32,
}

/// The nodes to ask, the best first: those with room before those that had none, those with the
/// template before those without, then the fewest sandboxes for each processor.
///
/// Only nodes that are healthy and answer. One that had no room comes last and is not left out:
/// its room may be free again before it says so.
pub(crate) fn pick(mut candidates: Vec<Candidate>) -> Vec<NodeId> {
    candidates.retain(|candidate| candidate.standing.may_be_asked());
    candidates.sort_by(compare);
    candidates.into_iter().map(|candidate| candidate.node).collect()
}

fn compare(a: &Candidate, b: &Candidate) -> Ordering {
    let last =
        |candidate: &Candidate| (candidate.standing == Standing::Full, !candidate.has_template);
    let load = |a: &Candidate, b: &Candidate| u64::from(a.load) * u64::from(b.cpus);
    last(a)
        .cmp(&last(b))
        .then_with(|| load(a, b).cmp(&load(b, a)))
        .then_with(|| a.node.cmp(&b.node))
}

impl Standing {
    const fn may_be_asked(self) -> bool {
        match self {
            Self::Phase(phase) => phase.is_eligible(),
            Self::Full => true,
            Self::Unreachable => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use model::{NodeId, NodePhase};

    use super::{Candidate, Standing, pick};

    const HEALTHY: Standing = Standing::Phase(NodePhase::Healthy);

    fn node(name: &str, standing: Standing, load: u32) -> Candidate {
        let node = NodeId::parse(name).unwrap();
        Candidate { node, standing, has_template: true, load, cpus: 4 }
    }

    fn picked(candidates: Vec<Candidate>) -> Vec<String> {
        pick(candidates).into_iter().map(|id| id.to_string()).collect()
    }

    #[test]
    fn only_healthy_nodes_that_answer_are_asked() {
        let mut candidates = vec![node("gone", Standing::Unreachable, 0)];
        for phase in NodePhase::ALL {
            candidates.push(node(&format!("n-{}", phase.as_str()), Standing::Phase(phase), 0));
        }
        assert_eq!(picked(candidates), ["n-healthy"]);
        assert_eq!(picked(Vec::new()), [""; 0]);
    }

    #[test]
    fn the_node_with_the_fewest_sandboxes_for_each_processor_comes_first() {
        let small = Candidate { cpus: 2, ..node("small", HEALTHY, 3) };
        let large = Candidate { cpus: 64, ..node("large", HEALTHY, 20) };
        let same = Candidate { cpus: 64, ..node("also-large", HEALTHY, 20) };
        assert_eq!(picked(vec![small, large, same]), ["also-large", "large", "small"]);
    }

    #[test]
    fn a_node_without_room_or_without_the_template_is_asked_after_the_others() {
        let bare = Candidate { has_template: false, ..node("bare", HEALTHY, 0) };
        let full = node("full", Standing::Full, 0);
        let busy = node("busy", HEALTHY, 900);
        assert_eq!(picked(vec![full, bare, busy]), ["busy", "bare", "full"]);
    }
}
