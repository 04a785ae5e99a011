//! What this host offers and lacks, found out by trying where trying leaves nothing behind.
//!
//! A device that is present is not a device that works: where only use would prove something, the
//! finding says so.

mod capacity;
mod files;
mod kernel;
mod network;
mod overlay;
mod tools;

use std::path::Path;

use lifecycle::Budget;

pub use capacity::{Capacity, Fit, Sizes, capacity, least};

/// What a sandbox can run in, and so what a finding matters to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Driver {
    Container,
    Firecracker,
    Qemu,
}

/// How it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Level {
    Ok,
    /// It works, with a promise that is not kept.
    Degraded,
    /// The drivers it matters to cannot run.
    Missing,
}

/// One thing a driver needs, and whether this host has it.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Finding {
    pub name: &'static str,
    pub drivers: &'static [Driver],
    pub level: Level,
    /// What was found.
    pub detail: String,
    /// A command or a sentence that changes it, where something is lacking.
    pub fix: Option<String>,
}

const ALL: &[Driver] = &[Driver::Container, Driver::Firecracker, Driver::Qemu];
const CONTAINER: &[Driver] = &[Driver::Container];
const FIRECRACKER: &[Driver] = &[Driver::Firecracker];

impl Driver {
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Container => "container",
            Self::Firecracker => "firecracker",
            Self::Qemu => "qemu",
        }
    }

    /// Whether nothing it needs is missing among `findings`.
    #[must_use]
    pub fn can_run(self, findings: &[Finding]) -> bool {
        !findings.iter().any(|f| f.level == Level::Missing && f.drivers.contains(&self))
    }
}

impl Finding {
    const fn ok(name: &'static str, drivers: &'static [Driver], detail: String) -> Self {
        Self { name, drivers, level: Level::Ok, detail, fix: None }
    }

    fn lack(
        name: &'static str,
        drivers: &'static [Driver],
        level: Level,
        detail: impl Into<String>,
        fix: impl Into<String>,
    ) -> Self {
        Self { name, drivers, level, detail: detail.into(), fix: Some(fix.into()) }
    }
}

/// Looks at everything. Files and mounts are tried below `data_dir`, or where it would be made;
/// nothing of a try is left on the host.
///
/// Cancel safety: yes; a try that is under way cleans up after itself.
pub async fn probe(data_dir: &Path, budget: Budget) -> Vec<Finding> {
    let mut findings = kernel::probe();
    findings.extend(files::limits());
    findings.extend(tools::probe(budget).await);
    findings.extend(network::probe(budget).await);
    findings.extend(overlay::probe(data_dir).await);
    findings.extend(files::room(data_dir));
    findings
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::time::Duration;

    use lifecycle::Budget;

    use super::{CONTAINER, Driver, Finding, Level, capacity, probe};

    /// Everything on the host that a probe could leave: mounts, tables, links, files.
    async fn traces(dir: &Path) -> Vec<String> {
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        let ours = |line: &&str| line.contains("probe") || line.contains(dir.to_str().unwrap());
        let mut traces: Vec<String> = mounts.lines().filter(ours).map(str::to_owned).collect();
        for entry in std::fs::read_dir(dir).unwrap() {
            traces.push(entry.unwrap().path().display().to_string());
        }
        let budget = Budget::within(Duration::from_secs(60));
        let nft = Path::new("/usr/sbin/nft");
        let tables = crate::process::run(nft, &["list", "tables"], None, budget).await.unwrap();
        // Other nodes of this host come and go; the probe's table has a name of its own.
        traces
            .extend(tables.output.lines().filter(|line| line.contains("probe")).map(str::to_owned));
        traces
    }

    #[tokio::test]
    #[expect(clippy::print_stdout, reason = "a skipped test says so")]
    async fn a_probe_leaves_nothing_on_the_host() {
        if !rustix::process::geteuid().is_root() {
            println!("skipped, because only root may list the firewall's tables");
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let before = traces(dir.path()).await;
        let findings = probe(dir.path(), Budget::within(Duration::from_secs(60))).await;
        assert_eq!(traces(dir.path()).await, before);
        let named = |name: &str| findings.iter().any(|finding| finding.name == name);
        for name in ["kernel", "kvm", "cgroups", "overlay", "idmapped overlay", "nftables"] {
            assert!(named(name), "{name} in {findings:#?}");
        }
        let without_fix = findings.iter().find(|f| f.level != Level::Ok && f.fix.is_none());
        assert_eq!(without_fix, None, "every lack has a fix");
    }

    #[tokio::test]
    async fn a_data_directory_that_is_not_there_is_not_made() {
        let dir = tempfile::tempdir().unwrap();
        let missing = dir.path().join("not/there/yet");
        let _findings = probe(&missing, Budget::within(Duration::from_secs(60))).await;
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_driver_can_run_when_nothing_it_needs_is_missing() {
        let missing = Finding::lack("x", CONTAINER, Level::Missing, "none", "get one");
        let degraded = Finding { level: Level::Degraded, ..missing.clone() };
        assert!(!Driver::Container.can_run(&[missing.clone(), degraded.clone()]));
        assert!(Driver::Container.can_run(&[degraded]));
        assert!(Driver::Firecracker.can_run(&[missing]));
    }

    #[test]
    fn the_scarcest_thing_is_the_limit() {
        let fits = [("memory", 10), ("disk", 3), ("slots", 4096)];
        let least = capacity::least(&fits.map(|(what, count)| capacity::Fit { what, count }));
        assert_eq!(least.map(|fit| (fit.what, fit.count)), Some(("disk", 3)));
    }
}
