//! What a daemon without sandboxes takes, before and after.

use std::fs;
use std::path::Path;

use anyhow::Context;

use super::model::Violation;

/// How deep below the cgroup file system the product makes its groups, at most.
const CGROUP_DEPTH: usize = 5;

/// Taken while no sandbox runs and the node does nothing by itself.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Footprint {
    pub resident_mib: f64,
    pub threads: u64,
    pub descriptors: u64,
    /// Of those, namespaces.
    pub namespaces: u64,
    /// In the daemon's view, and its own: at its start it takes over whatever the host has.
    pub mounts: u64,
    pub cgroups: u64,
    pub links: u64,
    pub tables: u64,
    /// Templates, which are no matter of sandboxes, left out.
    pub data_kib: u64,
}

/// Of the whole host, whoever it belongs to: told, not judged.
#[derive(Debug, Clone)]
pub(crate) struct Host {
    pub open_files: u64,
    pub links: u64,
    pub mounts: u64,
    /// Of the memory hierarchy. The kernel counts one until the last page charged to it is gone,
    /// which may be long after it was removed.
    pub memory_cgroups: u64,
    pub connections: u64,
}

/// What the processors had done when something began, in ticks of the kernel.
#[derive(Debug)]
pub(crate) struct Rest {
    idle: u64,
    all: u64,
}

impl Footprint {
    /// Resident memory of a process, MiB.
    pub(crate) fn of_process(pid: u32) -> anyhow::Result<f64> {
        Ok(status(pid, "VmRSS:")? / 1024.0)
    }

    /// Of the daemon `pid` with the data directory `data` and the node's `block` of names.
    pub(crate) fn take(pid: u32, data: &Path, block: u8) -> anyhow::Result<Self> {
        let descriptors: Vec<_> = fs::read_dir(format!("/proc/{pid}/fd"))?
            .flatten()
            .map(|entry| fs::read_link(entry.path()).unwrap_or_default())
            .collect();
        let is_namespace = |path: &&std::path::PathBuf| {
            let name = path.to_string_lossy();
            name.starts_with("net:") || name.starts_with("user:") || name.starts_with("mnt:")
        };
        let prefix = format!("cd{block}-");
        let root = format!("cofferdam-{block}");
        let table = format!("cofferdam_{block}");
        #[expect(clippy::disallowed_methods, reason = "a short command, waited for here")]
        let listed = std::process::Command::new("nft").args(["list", "tables"]).output()?.stdout;
        let listed = String::from_utf8_lossy(&listed).into_owned();
        let tables = listed.lines().filter(|line| line.ends_with(&table)).count();
        Ok(Self {
            resident_mib: Self::of_process(pid)?,
            threads: number(status(pid, "Threads:")?),
            namespaces: count(descriptors.iter().filter(is_namespace)),
            descriptors: count(descriptors.iter()),
            mounts: mounts(&fs::read_to_string(format!("/proc/{pid}/mountinfo"))?, data),
            cgroups: cgroups(Path::new("/sys/fs/cgroup"), &root, CGROUP_DEPTH, false),
            links: count(
                names(Path::new("/sys/class/net")).filter(|name| name.starts_with(&prefix)),
            ),
            tables: tables as u64,
            data_kib: kib(data, Some("images")),
        })
    }

    /// What has grown since `before`, over `churned` sandboxes.
    pub(crate) fn grown(&self, before: &Self, churned: u64) -> Vec<Violation> {
        let mut found = Vec::new();
        let mut judge = |what: &str, now: u64, before: u64, tolerance: u64| {
            if now > before + tolerance {
                let what = format!("{what}: {now}, was {before}, tolerance {tolerance}");
                found.push(Violation::Grown { what });
            }
        };
        // What has a name of ours is all there or not.
        judge("cgroups", self.cgroups, before.cgroups, 0);
        judge("links", self.links, before.links, 0);
        judge("firewall tables", self.tables, before.tables, 0);
        judge("mounts of the daemon", self.mounts, before.mounts, 0);
        judge("namespaces held", self.namespaces, before.namespaces, 0);
        // Connections to clients come and go; a descriptor per sandbox would be thousands.
        judge("file descriptors", self.descriptors, before.descriptors, 8);
        // Threads for work that blocks end after ten idle seconds.
        judge("threads", self.threads, before.threads, 4);
        // The allocator keeps what the busiest moment took; 1 KiB kept per sandbox would show.
        let mib = number(before.resident_mib);
        judge("resident memory, MiB", number(self.resident_mib), mib, 16 + mib / 2);
        // Rows and post-mortems have limits of their own; until they are reached each sandbox
        // costs one of both.
        let rows = 16 * 1024 + churned.min(10_000) * 8;
        judge("data directory, KiB", self.data_kib, before.data_kib, rows);
        found
    }
}

impl Host {
    pub(crate) fn take() -> Self {
        let first = |path: &str| {
            let text = fs::read_to_string(path).unwrap_or_default();
            text.split_whitespace().next().and_then(|word| word.parse().ok()).unwrap_or(0)
        };
        let groups = fs::read_to_string("/proc/cgroups").unwrap_or_default();
        let memory = groups.lines().find_map(|line| line.strip_prefix("memory"));
        let memory = memory.and_then(|line| line.split_whitespace().nth(1)?.parse().ok());
        Self {
            open_files: first("/proc/sys/fs/file-nr"),
            links: count(names(Path::new("/sys/class/net"))),
            mounts: lines("/proc/1/mountinfo"),
            memory_cgroups: memory.unwrap_or(0),
            connections: first("/proc/sys/net/netfilter/nf_conntrack_count"),
        }
    }
}

impl Rest {
    pub(crate) fn begin() -> Self {
        let text = fs::read_to_string("/proc/stat").unwrap_or_default();
        // The first line is the sum of all processors; its fourth number is the idle time (proc(5)).
        let line = text.lines().next().unwrap_or_default();
        let numbers: Vec<u64> =
            line.split_whitespace().skip(1).filter_map(|word| word.parse().ok()).collect();
        Self { idle: numbers.get(3).copied().unwrap_or(0), all: numbers.iter().take(8).sum() }
    }

    /// How much of the time since then they were idle, in percent. `None` when nobody can say.
    pub(crate) fn share(&self) -> Option<f64> {
        let now = Self::begin();
        let (idle, all) = (now.idle.checked_sub(self.idle)?, now.all.checked_sub(self.all)?);
        #[expect(clippy::cast_precision_loss, reason = "ticks of a run")]
        let share = idle as f64 / all as f64 * 100.0;
        share.is_finite().then_some(share)
    }
}

/// Mounts that a daemon makes: in its view, in its directory, and of cgroups. The fifth word of a line
/// is where it is (proc_pid_mountinfo(5)).
fn mounts(mountinfo: &str, data: &Path) -> u64 {
    let ours = [Path::new(host::view::DIR), data, Path::new("/sys/fs/cgroup")];
    let is_ours = |line: &&str| {
        let at = line.split(' ').nth(4).map(Path::new);
        at.is_some_and(|at| ours.iter().any(|dir| at.starts_with(dir)))
    };
    count(mountinfo.lines().filter(is_ours))
}

/// A number of `/proc/PID/status`.
fn status(pid: u32, name: &str) -> anyhow::Result<f64> {
    let text = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    let word = line.and_then(|line| line.split_whitespace().next());
    Ok(word.with_context(|| format!("no {name} of process {pid}"))?.parse()?)
}

fn number(value: f64) -> u64 {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a small count")]
    let number = value as u64;
    number
}

fn count(items: impl Iterator) -> u64 {
    items.count() as u64
}

fn lines(path: &str) -> u64 {
    count(fs::read_to_string(path).unwrap_or_default().lines())
}

fn names(dir: &Path) -> impl Iterator<Item = String> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned())
}

/// Directories called `root`, and all below them.
fn cgroups(dir: &Path, root: &str, depth: usize, inside: bool) -> u64 {
    let Some(depth) = depth.checked_sub(1) else { return 0 };
    let mut sum = 0;
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            let inside = inside || entry.file_name() == *root;
            sum += u64::from(inside) + cgroups(&entry.path(), root, depth, inside);
        }
    }
    sum
}

/// Blocks of all files below, without the entry `but`.
fn kib(dir: &Path, but: Option<&str>) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let mut sum = 0;
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        if but.is_some_and(|but| entry.file_name() == *but) {
            continue;
        }
        sum += entry.metadata().map_or(0, |file| file.blocks() / 2);
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            sum += kib(&entry.path(), None);
        }
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::{Footprint, cgroups, kib};

    fn footprint() -> Footprint {
        Footprint {
            resident_mib: 20.0,
            threads: 5,
            descriptors: 100,
            namespaces: 32,
            mounts: 30,
            cgroups: 14,
            links: 16,
            tables: 1,
            data_kib: 300,
        }
    }

    #[test]
    fn one_object_more_is_growth_and_one_descriptor_more_is_not() {
        let before = footprint();
        assert_eq!(before.grown(&before, 10), []);
        let planted: [fn(&mut Footprint); 9] = [
            |now| now.links += 1,
            |now| now.cgroups += 1,
            |now| now.tables += 1,
            |now| now.mounts += 1,
            |now| now.namespaces += 1,
            |now| now.descriptors += 9,
            |now| now.threads += 5,
            |now| now.resident_mib += 27.0,
            |now| now.data_kib += 17_000,
        ];
        for plant in planted {
            let mut now = before.clone();
            plant(&mut now);
            assert_eq!(now.grown(&before, 10).len(), 1, "{now:?}");
        }
        let little = Footprint { descriptors: 104, threads: 7, resident_mib: 30.0, ..footprint() };
        assert_eq!(little.grown(&before, 10), []);
    }

    #[test]
    fn only_groups_below_the_mark_are_counted() {
        let dir = tempfile::tempdir().unwrap();
        for path in ["cpu/cofferdam-1/la", "unified/cofferdam-1", "cpu/cofferdam-2/lb", "cpu/x"] {
            std::fs::create_dir_all(dir.path().join(path)).unwrap();
        }
        assert_eq!(cgroups(dir.path(), "cofferdam-1", 5, false), 3);
    }

    #[test]
    fn disk_is_counted_without_the_templates() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["images", "node"] {
            std::fs::create_dir(dir.path().join(name)).unwrap();
            std::fs::write(dir.path().join(name).join("file"), vec![1; 100_000]).unwrap();
        }
        let kib = kib(dir.path(), Some("images"));
        assert!((98..160).contains(&kib), "{kib}");
    }

    #[test]
    fn mounts_of_others_are_not_counted() {
        let line = |at: &str| format!("36 35 0:3 / {at} rw,relatime - tmpfs none rw\n");
        let text: String = [
            "/",
            "/run/netns/other",
            "/sys/fs/cgroup",
            "/run/cofferdam/view",
            "/run/cofferdam/view/l1",
            "/data/node/x",
        ]
        .map(line)
        .concat();
        assert_eq!(super::mounts(&text, std::path::Path::new("/data")), 4);
    }
}
