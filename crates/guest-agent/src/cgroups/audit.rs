//! Whether a freeze of the whole hierarchy has held until its end.

use std::collections::BTreeSet;
use std::path::PathBuf;

use super::group;
use super::walk::Walk;

/// Counts of control groups, as the host is told them.
#[derive(Debug, PartialEq, Eq, serde::Serialize)]
pub(crate) struct Audit {
    /// Looked at.
    visited: usize,
    /// Stand still.
    frozen: usize,
    /// Were asked to stand still and do not: somebody else has thawed them.
    escaped: usize,
    /// Have running processes and were never asked: they came after the freeze, or could not be
    /// asked.
    violations: usize,
    /// There are more than were looked at.
    truncated: bool,
}

/// Looks at all that `walk` found; `held` are those that were asked.
pub(super) fn audit(walk: Walk, held: &BTreeSet<PathBuf>) -> Audit {
    let mut audit = Audit {
        visited: walk.visited,
        frozen: 0,
        escaped: 0,
        violations: 0,
        truncated: walk.truncated,
    };
    for target in walk.targets {
        // One that is gone has nothing that runs.
        let Ok(events) = group::events(&target) else { continue };
        if events.frozen {
            audit.frozen += 1;
        } else if held.contains(&target) {
            audit.escaped += 1;
        } else if events.populated {
            audit.violations += 1;
        }
    }
    audit
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_group_counts_once_and_empty_or_gone_ones_do_no_harm() {
        let dir = tempfile::tempdir().unwrap();
        let group = |name: &str, events: &str| {
            let group = dir.path().join(name);
            std::fs::create_dir(&group).unwrap();
            std::fs::write(group.join("cgroup.events"), events).unwrap();
            group
        };
        let held = [
            group("still", "populated 1\nfrozen 1\n"),
            group("thawed", "populated 1\nfrozen 0\n"),
            dir.path().join("gone"),
        ];
        let others = [
            group("by itself", "populated 1\nfrozen 1\n"),
            group("new", "populated 1\nfrozen 0\n"),
            group("empty", "populated 0\nfrozen 0\n"),
        ];
        let targets = held.iter().chain(&others).cloned().collect();
        let walk = Walk { targets, visited: 9, left_alone: 3, truncated: true };
        let found = audit(walk, &held.into_iter().collect());
        let expected = r#"{"visited":9,"frozen":2,"escaped":1,"violations":1,"truncated":true}"#;
        assert_eq!(serde_json::to_string(&found).unwrap(), expected);
    }
}
