//! A drain in words.

use std::time::{Duration, SystemTime};

use e2b_wire::{NodeDrain, NodeDrainAttempt, NodeDrainCounts, Timestamp};

use crate::say::{self, span};

/// Blockers shown to a person; the others are counted.
const SHOWN: usize = 10;

/// Everything, over several lines. `since` has passed since the node said it.
pub(super) fn block(document: &NodeDrain, now: SystemTime, since: Duration) -> String {
    let mut lines = vec![head(document, now)];
    lines.push(format!("  {}", all_counts(&document.counts)));
    lines.extend(document.attempt.as_ref().map(|tried| format!("  {}", attempt(tried, now))));
    if !document.blockers.is_empty() {
        let mut rows =
            vec![["  CLASS", "ID", "STATE", "FOR", "ENDS IN", "LAST ERROR"].map(str::to_owned)];
        rows.extend(document.blockers.iter().take(SHOWN).map(|blocker| {
            [
                format!("  {}", blocker.class),
                blocker.id.clone(),
                blocker.state.clone(),
                span(Duration::from_millis(blocker.age_ms) + since),
                blocker.ends_at.map_or_else(|| "-".to_owned(), |at| span(left(at, now))),
                blocker.last_error.clone().unwrap_or_default(),
            ]
        }));
        lines.push(say::table(&rows));
    }
    let shown = document.blockers.len().min(SHOWN);
    let more = usize::try_from(document.remaining).unwrap_or(usize::MAX).saturating_sub(shown);
    if more > 0 {
        lines.push(format!("  and {more} more"));
    }
    lines.join("\n")
}

/// The same on one line.
pub(super) fn line(document: &NodeDrain, now: SystemTime) -> String {
    let mut parts = vec![head(document, now)];
    if document.remaining > 0 {
        parts.push(some_counts(&document.counts));
    }
    if let Some(oldest) = document.blockers.first() {
        let age = span(Duration::from_millis(oldest.age_ms));
        let error = oldest.last_error.as_ref().map_or(String::new(), |error| format!(" ({error})"));
        parts.push(format!("oldest {} {} for {age}{error}", oldest.id, oldest.state));
    }
    parts.extend(document.attempt.as_ref().map(|tried| attempt(tried, now)));
    parts.join("; ")
}

fn head(document: &NodeDrain, now: SystemTime) -> String {
    let since = document.draining_since.unwrap_or(document.changed_at);
    let mut head = format!(
        "node {} {} for {}, {} left",
        document.node_id,
        document.phase,
        span(passed(since, now)),
        document.remaining
    );
    if document.draining_since.is_some() && document.remaining > 0 {
        if let Some(at) = document.force_at {
            head.push_str(&format!(", forced in {}", span(left(at, now))));
        }
        match document.eta_ms {
            Some(ms) => {
                head.push_str(&format!(", empty within {}", span(Duration::from_millis(ms))));
            }
            None => head.push_str(", no end known"),
        }
    }
    head
}

fn attempt(tried: &NodeDrainAttempt, now: SystemTime) -> String {
    let NodeDrainAttempt { number, stopped, .. } = tried;
    if tried.running {
        return format!(
            "attempt {number} to force has run for {}",
            span(passed(tried.started_at, now))
        );
    }
    format!("attempt {number} to force ended {stopped}, left {}", tried.failed.len())
}

fn counts(counts: &NodeDrainCounts) -> [(&'static str, u32); 6] {
    let NodeDrainCounts { starting, live, stopping, stuck, build, upload } = *counts;
    [
        ("starting", starting),
        ("live", live),
        ("stopping", stopping),
        ("stuck", stuck),
        ("build", build),
        ("upload", upload),
    ]
}

fn all_counts(of: &NodeDrainCounts) -> String {
    counts(of).map(|(class, count)| format!("{class} {count}")).join("  ")
}

fn some_counts(of: &NodeDrainCounts) -> String {
    let some = counts(of).into_iter().filter(|(_, count)| *count > 0);
    Vec::from_iter(some.map(|(class, count)| format!("{class} {count}"))).join(", ")
}

fn passed(at: Timestamp, now: SystemTime) -> Duration {
    now.duration_since(at.to_system_time()).unwrap_or_default()
}

fn left(at: Timestamp, now: SystemTime) -> Duration {
    at.to_system_time().duration_since(now).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use e2b_wire::{NodeDrain, NodeDrainAttempt, NodeDrainBlocker, NodeDrainCounts};

    use super::{block, line};

    const S: Duration = Duration::from_secs(1);

    fn document(now: SystemTime) -> NodeDrain {
        let blocker = |id: &str, age_ms| NodeDrainBlocker {
            class: "live".into(),
            id: id.into(),
            state: "live".into(),
            age_ms,
            ends_at: Some((now + 90 * S).into()),
            last_error: None,
        };
        let mut stuck = blocker("old", 3_600_000);
        stuck.class = "stuck".into();
        stuck.state = "stuck".into();
        stuck.ends_at = None;
        stuck.last_error = Some("mounts: busy".into());
        NodeDrain {
            node_id: "n".into(),
            service_instance_id: "1".into(),
            phase: "draining".into(),
            changed_at: (now - 5 * S).into(),
            epoch: 2,
            accepting: false,
            draining_since: Some((now - 65 * S).into()),
            force_at: Some((now + 600 * S).into()),
            remaining: 3,
            counts: NodeDrainCounts { live: 2, stuck: 1, ..NodeDrainCounts::default() },
            blockers: vec![stuck, blocker("new", 1000)],
            attempt: Some(NodeDrainAttempt {
                number: 2,
                started_at: (now - 3 * S).into(),
                running: false,
                stopped: 7,
                late: 0,
                failed: vec!["old: mounts: busy".into()],
            }),
            eta_ms: Some(600_000),
            leaked: None,
        }
    }

    #[test]
    fn a_person_sees_counts_blockers_attempt_and_estimate() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000);
        let expected = "\
node n draining for 1m05s, 3 left, forced in 10m00s, empty within 10m00s
  starting 0  live 2  stopping 0  stuck 1  build 0  upload 0
  attempt 2 to force ended 7, left 1
  CLASS  ID   STATE  FOR    ENDS IN  LAST ERROR
  stuck  old  stuck  1h00m  -        mounts: busy
  live   new  live   3s     1m30s
  and 1 more";
        assert_eq!(block(&document(now), now, 2 * S), expected);
    }

    #[test]
    fn a_log_sees_the_same_on_one_line() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000);
        let expected = "node n draining for 1m05s, 3 left, forced in 10m00s, empty within 10m00s; \
                        live 2, stuck 1; oldest old stuck for 1h00m (mounts: busy); attempt 2 to \
                        force ended 7, left 1";
        assert_eq!(line(&document(now), now), expected);
    }
}
