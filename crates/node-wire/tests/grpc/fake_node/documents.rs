//! What the node says of itself and of what was.

use std::time::Duration;

use model::{EndReason, NodePhase, Resources};
use node_wire::{
    AttemptStatus, Blocker, Class, ClassCount, DrainStatus, Ending, ExplainedStep, Explanation,
    Journal, JournalLevel, JournalLine, JournalMark, LeakItem, Leaks, Sample, TemplateInfo,
};

use super::{FakeNode, GIB, moment};

impl FakeNode {
    pub(crate) fn template() -> TemplateInfo {
        TemplateInfo {
            id: "base".parse().unwrap(),
            build: "b-1".parse().unwrap(),
            aliases: vec!["base".into(), "default".into()],
            resources: Resources { vcpus: 2, memory_mib: 512, disk_mib: 1024 },
            envd_version: "0.6.4".into(),
            created_at: moment(5),
            snapshot: false,
        }
    }

    pub(crate) fn document(&self) -> DrainStatus {
        let phase = self.phase();
        let live = u32::try_from(self.sandboxes.lock().len()).unwrap();
        let count =
            |class| ClassCount { class, count: if class == Class::Live { live } else { 0 } };
        let draining = phase.is_draining();
        DrainStatus {
            node: "node-1".parse().unwrap(),
            service_instance: "instance-1".into(),
            phase,
            changed_at: moment(20),
            epoch: 7,
            accepting: !draining,
            draining_since: draining.then(|| moment(20)),
            force_at: draining.then(|| moment(80)),
            counts: Class::ALL.map(count).to_vec(),
            blockers: self
                .sandboxes
                .lock()
                .keys()
                .map(|id| Blocker {
                    class: Class::Live,
                    id: id.to_string(),
                    state: "live".into(),
                    age: Duration::from_millis(1500),
                    ends_at: Some(moment(60)),
                    last_error: Some("busy".into()),
                })
                .collect(),
            attempt: (phase == NodePhase::Forcing).then(|| AttemptStatus {
                number: 2,
                started_at: moment(30),
                running: true,
                stopped: 3,
                late: 1,
                failed: vec!["slot: busy".into()],
            }),
            eta: draining.then(|| Duration::from_secs(9)),
            leaked: draining.then_some(0),
        }
    }

    pub(crate) fn census() -> Leaks {
        let item = |name: &str| LeakItem {
            kind: "cgroup".into(),
            name: name.into(),
            owner: "slot 3".into(),
        };
        Leaks { owned: vec![item("a"), item("b")], leaked: vec![item("c")] }
    }

    /// One of each reason, of two sandboxes.
    pub(crate) fn endings() -> Vec<Ending> {
        use EndReason as R;
        let reasons =
            [R::Request, R::Timeout, R::Crashed, R::StartFailed, R::NodeStop, R::Reclaimed];
        let ending = |(at, reason): (u64, EndReason)| Ending {
            id: format!("i{}", at % 2).parse().unwrap(),
            lifecycle: format!("l{at}").parse().unwrap(),
            reason,
            at: moment(at),
            detail: if at == 0 { String::new() } else { format!("\u{e9} {at}") },
        };
        (0..).zip(reasons).map(ending).collect()
    }

    pub(crate) fn explanation() -> Explanation {
        let step = |name: &str, took, error: Option<&str>| ExplainedStep {
            at: moment(50),
            name: name.into(),
            took,
            error: error.map(Into::into),
        };
        Explanation {
            lifecycle: "l5".parse().unwrap(),
            steps: vec![
                step("slot", Some(Duration::from_micros(1234)), None),
                step("live", None, None),
                step("mounts", Some(Duration::ZERO), Some("busy")),
            ],
            failed_step: Some("mounts".into()),
            output: vec!["one".into(), "t\u{e9}o".into()],
            memory_peak_bytes: Some(3 * GIB),
            cpu_time: Some(Duration::from_micros(77)),
            reclaimed: vec!["a cgroup".into()],
        }
    }

    /// A line of every level, with what was asked for in it.
    pub(crate) fn journal_after(mark: &JournalMark) -> Journal {
        let line = |(number, level): (u64, JournalLevel)| JournalLine {
            number,
            at: moment(number),
            level,
            message: format!("\u{e9} {number}"),
            fields: [("after".to_owned(), mark.number.to_string())].into(),
        };
        let lines = (mark.number + 1..).zip(JournalLevel::ALL).map(line).collect();
        Journal { run: mark.run.clone(), lines, more: true, lost: 3 }
    }

    pub(crate) fn sample() -> Sample {
        Sample {
            at: moment(33),
            cpu_count: 2,
            cpu_used_pct: 12.5,
            mem_total_bytes: GIB,
            mem_used_bytes: 7,
            mem_cache_bytes: 8,
            disk_total_bytes: 9,
            disk_used_bytes: 10,
        }
    }
}
