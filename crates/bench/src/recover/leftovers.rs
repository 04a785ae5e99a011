//! What a killed daemon leaves, by the names it gives: found without its help.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use crate::service::{Launch, leaks};

/// For processes that were killed to be gone.
const LIMIT: Duration = Duration::from_secs(30);

/// Objects of sandboxes whose daemon is dead. What the next daemon itself holds is none of them.
#[derive(Debug)]
pub(super) struct Left {
    directories: Vec<PathBuf>,
    cgroups: Vec<PathBuf>,
    /// With its number: the next daemon's links have the same names.
    links: Vec<(PathBuf, String)>,
}

impl Left {
    pub(super) fn objects(&self) -> usize {
        self.directories.len() + self.cgroups.len() + self.links.len()
    }

    /// Whether not one is there any more.
    pub(super) fn is_gone(&self) -> bool {
        let is_other = |(path, index): &(PathBuf, String)| index_of(path) != Some(index.clone());
        self.directories.iter().chain(&self.cgroups).all(|path| !path.exists())
            && self.links.iter().all(is_other)
    }
}

/// A word of every item of `kind` that `cofferdam leaks` knows of.
fn named(launch: &Launch, kind: &str) -> anyhow::Result<BTreeSet<String>> {
    let report = leaks(launch)?;
    let lists = ["owned", "waiting", "unfinished", "leaked"];
    let items = lists.map(|list| report[list].as_array().cloned().unwrap_or_default());
    let items = items.into_iter().flatten().filter(|item| item["kind"] == kind);
    Ok(items.filter_map(|item| Some(item["name"].as_str()?.to_owned())).collect())
}

/// The first processes of all sandboxes.
fn processes(launch: &Launch) -> anyhow::Result<Vec<Pid>> {
    let names = named(launch, "process")?;
    let pid = |name: &String| Pid::from_raw(name.split(' ').next()?.parse().ok()?);
    Ok(names.iter().filter_map(pid).collect())
}

fn lifecycles(launch: &Launch) -> Vec<PathBuf> {
    let entries = fs::read_dir(launch.data.join("node/lifecycles")).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).collect()
}

/// What nobody can take sandboxes over without: a descriptor of each one's process, and a look at
/// its record. How long that takes.
pub(super) fn bare_look(launch: &Launch) -> anyhow::Result<Duration> {
    let (pids, directories) = (processes(launch)?, lifecycles(launch));
    let began = Instant::now();
    let mut held = Vec::new();
    for pid in pids {
        held.push(pidfd_open(pid, PidfdFlags::empty())?);
    }
    let mut records = 0;
    for directory in directories {
        for entry in fs::read_dir(&directory)?.flatten() {
            if entry.file_name().to_string_lossy().starts_with("lifecycle.json") {
                records += fs::read(entry.path())?.len();
            }
        }
    }
    ensure!(records > 0 && !held.is_empty(), "there is no sandbox to look at");
    Ok(began.elapsed())
}

/// Kills the processes of all sandboxes, with no daemon there to see it, and waits for their end.
pub(super) fn end_sandboxes(launch: &Launch) -> anyhow::Result<Left> {
    let left = Left {
        directories: lifecycles(launch),
        cgroups: cgroups(&named(launch, "cgroup")?),
        links: links(&named(launch, "link")?),
    };
    let held = processes(launch)?
        .into_iter()
        .filter_map(|pid| pidfd_open(pid, PidfdFlags::empty()).ok())
        .collect::<Vec<_>>();
    for process in &held {
        // One that has ended with its parent is what is wanted.
        match pidfd_send_signal(process, Signal::KILL) {
            Ok(()) | Err(rustix::io::Errno::SRCH) => {}
            Err(error) => return Err(error).context("kill a process of a sandbox"),
        }
    }
    let began = Instant::now();
    for process in &held {
        let mut ready = [rustix::event::PollFd::new(process, rustix::event::PollFlags::IN)];
        let spent = LIMIT.saturating_sub(began.elapsed());
        let spent = rustix::event::Timespec::try_from(spent).context("a time to wait")?;
        ensure!(rustix::event::poll(&mut ready, Some(&spent))? == 1, "a sandbox does not die");
    }
    Ok(left)
}

/// The number the kernel has given a link.
fn index_of(link: &Path) -> Option<String> {
    fs::read_to_string(link.join("ifindex")).ok()
}

fn links(names: &BTreeSet<String>) -> Vec<(PathBuf, String)> {
    let paths = names.iter().map(|name| Path::new("/sys/class/net").join(name));
    paths.filter_map(|path| index_of(&path).map(|index| (path, index))).collect()
}

/// The groups called one of `names`, in every hierarchy.
fn cgroups(names: &BTreeSet<String>) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for root in names.iter().filter(|name| name.starts_with('/')) {
        let below = names.iter().filter(|name| name.starts_with('l'));
        found.extend(below.map(|name| Path::new(root).join(name)).filter(|path| path.exists()));
    }
    found
}
