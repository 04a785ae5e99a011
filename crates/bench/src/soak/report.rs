//! The summary.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::course::Course;
use super::daemon::Counts;
use super::footprint::{Footprint, Host};
use super::model::Violation;
use super::probe::Times;
use crate::numbers::{Series, line, told};

/// How much slower the service may be during and after the run.
const SLOWER: f64 = 1.2;
/// A machine is mostly idle from here on, percent.
const MOSTLY: f64 = 60.0;

#[derive(Debug)]
pub(super) struct Report {
    seed: u64,
    journal: PathBuf,
    log: PathBuf,
    host: Host,
    pub took: Duration,
    pub violation: Option<Violation>,
    pub before: Times,
    pub during: Times,
    pub after: Times,
    /// How much of the run the machine was idle, in percent.
    pub idle: Option<f64>,
    pub baseline: Option<Footprint>,
    pub end: Option<Footprint>,
    /// Sandboxes that lived from the first minute to the end.
    pub kept: usize,
    counts: BTreeMap<&'static str, u64>,
    /// What has become of pauses.
    outcomes: BTreeMap<&'static str, u64>,
    daemon: Counts,
    churned: u64,
    checks: u64,
    resident_mib: Vec<f64>,
    newest: Vec<String>,
}

impl Report {
    pub(super) fn new(seed: u64, journal: PathBuf, log: PathBuf, host: Host) -> Self {
        Self {
            seed,
            journal,
            log,
            host,
            took: Duration::ZERO,
            violation: None,
            before: Times::default(),
            during: Times::default(),
            after: Times::default(),
            idle: None,
            baseline: None,
            end: None,
            kept: 0,
            counts: BTreeMap::new(),
            outcomes: BTreeMap::new(),
            daemon: Counts::default(),
            churned: 0,
            checks: 0,
            resident_mib: Vec::new(),
            newest: Vec::new(),
        }
    }

    /// Takes over what was counted on the way.
    pub(super) fn fill(&mut self, course: &Course) {
        self.counts = course.counts();
        self.outcomes = course.outcomes();
        self.daemon = course.daemon.counts();
        self.churned = course.churned();
        self.checks = course.checks.load(Ordering::Relaxed);
        self.resident_mib = course.resident_mib.lock().clone();
        self.newest = course.journal.newest();
        self.during = std::mem::take(&mut *course.during.lock());
    }

    pub(super) fn print(&self) {
        if let Some(violation) = &self.violation {
            println!("FAILED with seed {}: {violation}", self.seed);
            println!("the last operations (all: {}):", self.journal.display());
            for line in &self.newest {
                println!("  {line}");
            }
            println!("what the daemons said: {}", self.log.display());
        }
        self.work();
        self.sizes();
        self.times();
        if self.violation.is_none() {
            let (seed, churned) = (self.seed, self.churned);
            let (kills, own) = (self.daemon.kills + self.daemon.own_kills, self.daemon.own_kills);
            let pauses = self.counts.get("pause").copied().unwrap_or(0);
            println!(
                "passed with seed {seed}: {churned} sandboxes, {pauses} pauses, {kills} kills of \
                 the daemon, {own} of them by faults, lost 0, leaked 0"
            );
        }
    }

    fn work(&self) {
        let operations: u64 = self.counts.values().sum();
        println!(
            "{operations} operations in {:.0} s: {}",
            self.took.as_secs_f64(),
            listed(&self.counts)
        );
        if !self.outcomes.is_empty() {
            println!("paused sandboxes that have {}", listed(&self.outcomes));
        }
        println!(
            "{} sandboxes made, {} of them kept through the whole run; everything compared {} times",
            self.churned, self.kept, self.checks
        );
        println!(
            "daemon killed {} times, by faults {}, handed over {}, left its sandboxes {}; journal {}",
            self.daemon.kills,
            self.daemon.own_kills,
            self.daemon.handovers,
            self.daemon.leaves,
            self.journal.display()
        );
        let mut restarts = Series::default();
        self.daemon.restarts.iter().for_each(|took| restarts.push(*took));
        if !self.daemon.restarts.is_empty() {
            println!("start after a kill to health 200: {}", restarts.summary());
        }
    }

    fn sizes(&self) {
        let fold = |with: fn(f64, f64) -> f64| self.resident_mib.iter().copied().reduce(with);
        if let (Some(least), Some(most)) = (fold(f64::min), fold(f64::max)) {
            println!("daemon's resident memory during the run: {least:.1} to {most:.1} MiB");
        }
        let (Some(before), Some(end)) = (&self.baseline, &self.end) else { return };
        println!("without sandboxes, before -> after:");
        println!("  resident memory     {:.1} -> {:.1} MiB", before.resident_mib, end.resident_mib);
        let pairs = [
            ("threads", before.threads, end.threads),
            ("descriptors", before.descriptors, end.descriptors),
            ("  namespaces of them", before.namespaces, end.namespaces),
            ("mounts", before.mounts, end.mounts),
            ("cgroups", before.cgroups, end.cgroups),
            ("links", before.links, end.links),
            ("firewall tables", before.tables, end.tables),
            ("data, KiB", before.data_kib, end.data_kib),
        ];
        for (what, before, end) in pairs {
            println!("  {what:<20}{before} -> {end}");
        }
        let (first, now) = (&self.host, Host::take());
        println!(
            "the whole host, others included: open files {} -> {}, links {} -> {}, mounts {} -> \
             {}, memory cgroups, dying ones \
             included {} -> {}, connections tracked {} -> {}",
            first.open_files,
            now.open_files,
            first.links,
            now.links,
            first.mounts,
            now.mounts,
            first.memory_cgroups,
            now.memory_cgroups,
            first.connections,
            now.connections
        );
    }

    fn times(&self) {
        if self.after.create.is_empty() {
            return;
        }
        compare("after", &self.before, &self.after);
        if self.during.create.is_empty() {
            return;
        }
        compare("during", &self.before, &self.during);
        if let Some(idle) = self.idle {
            told("the machine's idle time during the run", &format!("{idle:.0}%"));
            if idle < MOSTLY {
                println!("somebody else was busy on this machine: these ratios prove nothing");
            }
        }
        if !self.during.held_up.is_empty() {
            told("create and kill over the end of a daemon", &self.during.held_up.summary());
        }
    }
}

fn listed(counts: &BTreeMap<&'static str, u64>) -> String {
    let words: Vec<String> = counts.iter().map(|(what, count)| format!("{what} {count}")).collect();
    words.join(", ")
}

/// What was measured `when`, against before, and against what a container without the service took at
/// both times.
fn compare(when: &str, before: &Times, then: &Times) {
    let slower = |before: &Series, then: &Series| then.p50() / before.p50();
    let pairs = [
        ("create", [&before.create, &then.create], [&before.bare_create, &then.bare_create]),
        ("kill", [&before.kill, &then.kill], [&before.bare_kill, &then.bare_kill]),
    ];
    for (what, [before, then], [bare_before, bare_then]) in pairs {
        println!("{what} before: {}", before.summary());
        println!("  bare before: {}", bare_before.summary());
        println!("{what} {when}: {}", then.summary());
        println!("  bare {when}: {}", bare_then.summary());
        let (ours, bare) = (slower(before, then), slower(bare_before, bare_then));
        let measured = format!("{ours:.2}x, bare {bare:.2}x: {:.2}x", ours / bare);
        let what = format!("{what} {when} against before");
        line(&format!("{what}, p50"), &measured, "<= 1.2x", ours / bare <= SLOWER);
        // Of two hundred it is the second slowest: told, not judged.
        let (before, then) = (before.percentile(99), then.percentile(99));
        let measured = format!("{then:.1} / {before:.1} ms = {:.2}x", then / before);
        told(&format!("{what}, p99"), &measured);
    }
}
