//! Sandboxes in words.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use e2b_wire::{NodeSandbox, Timestamp};

use crate::say::{self, span};

const LIVE: &str = "live";
/// With its processes, or its files alone.
const PAUSED: &str = "paused";

/// One line each.
pub(super) fn table(sandboxes: &[NodeSandbox], now: SystemTime) -> String {
    let head = ["ID", "STATE", "AGE", "ENDS IN", "NODE", "TEMPLATE", "LEFT"].map(str::to_owned);
    let rows = sandboxes.iter().map(|sandbox| {
        [
            sandbox.sandbox_id.clone(),
            sandbox.state.clone(),
            span(age(sandbox, now)),
            ends_in(sandbox, now).map_or_else(|| "-".to_owned(), span),
            sandbox.node_id.clone(),
            sandbox.template_id.clone(),
            sandbox.left.join("; "),
        ]
    });
    say::table(&Vec::from_iter([head].into_iter().chain(rows)))
}

/// Everything about one, over several lines.
pub(super) fn block(sandbox: &NodeSandbox, now: SystemTime) -> String {
    let row = |name: &str, value: String| [name.to_owned(), value];
    let ends = match ends_in(sandbox, now) {
        Some(left) => format!("{}, in {}", sandbox.end_at, span(left)),
        None => sandbox.end_at.to_string(),
    };
    let ends =
        if sandbox.state.starts_with(PAUSED) { "not while it is paused".to_owned() } else { ends };
    let NodeSandbox { cpu_count, memory_mb, disk_size_mb, .. } = sandbox;
    let mut rows = vec![
        row("id", sandbox.sandbox_id.clone()),
        row("state", sandbox.state.clone()),
        row("node", sandbox.node_id.clone()),
        row("lifecycle", sandbox.lifecycle_id.clone()),
        row("team", sandbox.team_id.clone()),
        row("template", sandbox.template_id.clone()),
        row("started", format!("{}, {} ago", sandbox.started_at, span(age(sandbox, now)))),
        row("ends", ends),
        row("size", format!("{cpu_count} vcpus, {memory_mb} MiB, disk {disk_size_mb} MiB")),
    ];
    rows.extend(metadata(&sandbox.metadata).map(|text| row("metadata", text)));
    rows.extend(sandbox.left.iter().map(|left| row("left", left.clone())));
    say::table(&rows)
}

/// Its user wrote it: escaped, so that it does nothing to a terminal.
fn metadata(metadata: &BTreeMap<String, String>) -> Option<String> {
    let pairs = metadata
        .iter()
        .map(|(key, value)| format!("{}={}", key.escape_debug(), value.escape_debug()));
    (!metadata.is_empty()).then(|| Vec::from_iter(pairs).join(" "))
}

fn age(sandbox: &NodeSandbox, now: SystemTime) -> Duration {
    now.duration_since(sandbox.started_at.to_system_time()).unwrap_or_default()
}

/// One that does not run has no end any more, or not yet.
fn ends_in(sandbox: &NodeSandbox, now: SystemTime) -> Option<Duration> {
    let left = |at: Timestamp| at.to_system_time().duration_since(now).unwrap_or_default();
    (sandbox.state == LIVE).then(|| left(sandbox.end_at))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::time::{Duration, SystemTime};

    use e2b_wire::NodeSandbox;

    use super::{block, table};

    const S: Duration = Duration::from_secs(1);

    fn now() -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000)
    }

    fn live() -> NodeSandbox {
        NodeSandbox {
            sandbox_id: "ione".into(),
            lifecycle_id: "l1".into(),
            node_id: "n".into(),
            team_id: "t".into(),
            template_id: "base".into(),
            state: "live".into(),
            started_at: (now() - 65 * S).into(),
            end_at: (now() + 300 * S).into(),
            cpu_count: 2,
            memory_mb: 512,
            disk_size_mb: 1024,
            metadata: BTreeMap::from([("who".to_owned(), "\u{1b}[31mme".to_owned())]),
            left: Vec::new(),
        }
    }

    fn stuck() -> NodeSandbox {
        NodeSandbox {
            sandbox_id: "itwo".into(),
            state: "stuck".into(),
            metadata: BTreeMap::new(),
            left: vec!["mounts: busy".to_owned(), "files: in the way".to_owned()],
            ..live()
        }
    }

    #[test]
    fn a_list_has_ages_ends_and_what_is_left() {
        let expected = "\
ID    STATE  AGE    ENDS IN  NODE  TEMPLATE  LEFT
ione  live   1m05s  5m00s    n     base
itwo  stuck  1m05s  -        n     base      mounts: busy; files: in the way";
        assert_eq!(table(&[live(), stuck()], now()), expected);
    }

    #[test]
    fn the_time_of_one_that_is_paused_stands_still() {
        for state in ["paused", "paused-files"] {
            let sandbox = NodeSandbox { state: state.into(), ..live() };
            let text = block(&sandbox, now());
            assert!(text.contains("ends       not while it is paused"), "{text}");
            assert!(table(&[sandbox], now()).contains(&format!("{state}  1m05s  -")));
        }
    }

    #[test]
    fn a_description_has_everything_and_no_control_characters() {
        let text = block(&live(), now());
        for line in [
            "ends       2027-01-15T08:05:00Z, in 5m00s",
            "size       2 vcpus, 512 MiB, disk 1024 MiB",
            "metadata   who=\\u{1b}[31mme",
        ] {
            assert!(text.lines().any(|shown| shown == line), "{line:?} in\n{text}");
        }
        let text = block(&stuck(), now());
        let left: Vec<&str> = text.lines().filter(|line| line.starts_with("left")).collect();
        assert_eq!(left, ["left       mounts: busy", "left       files: in the way"]);
        assert!(!text.contains("metadata") && !text.contains(", in "), "{text}");
    }
}
