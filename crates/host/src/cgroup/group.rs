use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use lifecycle::{Budget, Owned, Release};
use rustix::fs::{Mode, OFlags, openat};
use rustix::io::Errno;
use tokio::io::Interest;

use super::files::{
    child_dirs, is_gone, make_dir, make_new_dir, open_file, read_at, remove_dir, remove_tree,
    write_at, write_if_there,
};
use super::layout::{Hierarchy, Layout};
use super::limits::{CPU_PERIOD_US, DEVICES, Limits};
use super::usage::keyed;
use crate::HostError;
use crate::error::Tried;
use crate::ready::Ready;

/// The cgroups of one node: a directory of its own in every hierarchy it uses.
#[derive(Debug)]
pub struct Cgroups {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    layout: Layout,
    /// The node's directory, the same name in every hierarchy.
    root: String,
}

/// How many process numbers the host has, and how many of a hundred a node may use.
const PID_MAX: &str = "/proc/sys/kernel/pid_max";
const PERCENT_OF_PIDS: u64 = 80;

/// The v1 controllers a sandbox is put under.
const V1: [&str; 5] = ["memory", "pids", "cpu", "cpuacct", "devices"];
/// The v2 controllers that are switched on for our groups where the host has them there.
const V2: [&str; 3] = ["memory", "pids", "cpu"];

impl Inner {
    fn v2(&self) -> Result<&Hierarchy, HostError> {
        self.layout
            .unified
            .as_ref()
            .ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))
            .tried("find", "a cgroup2 mount")
    }

    /// The v1 hierarchies in use, each once (`cpu` and `cpuacct` are often one).
    fn v1(&self) -> Vec<&Hierarchy> {
        let mut used: Vec<&Hierarchy> = Vec::new();
        for controller in V1 {
            if self.layout.v2_has(controller) {
                continue;
            }
            if let Some(found) = self.layout.v1_with(controller)
                && !used.iter().any(|seen| std::ptr::eq(*seen, found))
            {
                used.push(found);
            }
        }
        used
    }

    /// All sandboxes together never take the last process numbers of the host: the limits of single
    /// ones may well add up to more than there are.
    fn limit_processes(&self) -> Result<(), HostError> {
        let hierarchy = match self.layout.v1_with("pids") {
            _ if self.layout.v2_has("pids") => self.v2()?,
            Some(found) => found,
            None => return Ok(()),
        };
        let text = fs::read_to_string(PID_MAX).tried("read", PID_MAX)?;
        let all: u64 = text.trim().parse().map_err(io::Error::other).tried("read", PID_MAX)?;
        let most = all * PERCENT_OF_PIDS / 100;
        write_at(&hierarchy.dir, &format!("{}/pids.max", self.root), &most.to_string())
    }

    fn all(&self) -> Result<Vec<&Hierarchy>, HostError> {
        let mut all = self.v1();
        // Last: the kill works as long as this one is there.
        all.push(self.v2()?);
        Ok(all)
    }
}

impl Cgroups {
    /// Makes the node's directories, or takes over the ones that are there.
    ///
    /// # Errors
    /// When there is no v2 hierarchy or a directory cannot be made.
    pub fn open(layout: Layout, root: String) -> Result<Self, HostError> {
        let inner = Inner { layout, root };
        for hierarchy in inner.all()? {
            make_dir(hierarchy, &inner.root)?;
        }
        let v2 = inner.v2()?;
        for controller in V2.into_iter().filter(|c| inner.layout.v2_has(c)) {
            let switch = format!("+{controller}");
            write_at(&v2.dir, "cgroup.subtree_control", &switch)?;
            write_at(&v2.dir, &format!("{}/cgroup.subtree_control", inner.root), &switch)?;
        }
        inner.limit_processes()?;
        Ok(Self { inner: Arc::new(inner) })
    }

    /// The node's directories as they are: nothing is made.
    #[must_use]
    pub fn existing(layout: Layout, root: String) -> Self {
        Self { inner: Arc::new(Inner { layout, root }) }
    }

    /// The cgroup of helpers that are the node's and no sandbox's, made if it is not there.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn helpers(&self) -> Result<OwnedFd, HostError> {
        let v2 = self.inner.v2()?;
        let path = format!("{}/{}", self.inner.root, crate::census::HELPERS);
        make_dir(v2, &path)?;
        let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC;
        openat(&v2.dir, &path, flags, Mode::empty()).tried("open cgroup", &path)
    }

    #[must_use]
    pub fn layout(&self) -> &Layout {
        &self.inner.layout
    }

    /// Makes the cgroup `name` with `limits`. On an error nothing of it is left.
    ///
    /// # Errors
    /// The step that failed.
    pub fn create(&self, name: &str, limits: &Limits) -> Result<Owned<Cgroup>, HostError> {
        let mut group = self.named(name);
        let made = group.make(limits);
        match made {
            Ok(()) => Ok(Owned::adopt(group)),
            Err(error) => {
                // Its directories are empty: nothing has been started in them.
                if let Err(left) = group.remove() {
                    tracing::error!(cgroup = name, error = %left, "a half-made cgroup is left");
                }
                Err(error)
            }
        }
    }

    /// The cgroup `name`, whether it exists or not: what a fresh process needs to release it.
    #[must_use]
    pub fn named(&self, name: &str) -> Cgroup {
        Cgroup {
            inner: Arc::clone(&self.inner),
            name: name.to_owned(),
            dir: None,
            tasks: Vec::new(),
        }
    }

    /// The names of every cgroup below ours, in any hierarchy.
    ///
    /// # Errors
    /// When a directory of ours cannot be read.
    pub fn list(&self) -> Result<Vec<String>, HostError> {
        let mut names = std::collections::BTreeSet::new();
        for hierarchy in self.inner.all()? {
            names.extend(child_dirs(hierarchy, &self.inner.root)?);
        }
        Ok(names.into_iter().collect())
    }

    /// Every directory of the node, whether it exists or not.
    ///
    /// # Errors
    /// When there is no v2 hierarchy.
    pub fn roots(&self) -> Result<Vec<PathBuf>, HostError> {
        Ok(self.inner.all()?.iter().map(|h| h.path.join(&self.inner.root)).collect())
    }

    /// Removes the node's own directories. They must be empty.
    ///
    /// # Errors
    /// When one is not.
    pub fn close(&self) -> Result<(), HostError> {
        for hierarchy in self.inner.all()? {
            remove_dir(hierarchy, &self.inner.root)?;
        }
        Ok(())
    }
}

/// The cgroup of one sandbox, in every hierarchy: every process of the sandbox is in it.
#[derive(Debug)]
pub struct Cgroup {
    inner: Arc<Inner>,
    name: String,
    /// The v2 directory; a child can be born in it.
    dir: Option<OwnedFd>,
    /// `tasks` of every v1 hierarchy, open for writing.
    tasks: Vec<OwnedFd>,
}

impl Cgroup {
    fn below(&self, file: &str) -> String {
        format!("{}/{}/{file}", self.inner.root, self.name)
    }

    fn make(&mut self, limits: &Limits) -> Result<(), HostError> {
        let inner = Arc::clone(&self.inner);
        let path = format!("{}/{}", inner.root, self.name);
        for hierarchy in inner.all()? {
            make_new_dir(hierarchy, &path)?;
        }
        let v2 = inner.v2()?;
        self.set_limits(limits)?;
        let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC;
        self.dir = Some(openat(&v2.dir, &path, flags, Mode::empty()).tried("open cgroup", &path)?);
        for hierarchy in inner.v1() {
            self.tasks.push(open_file(&hierarchy.dir, &self.below("tasks"), OFlags::WRONLY)?);
        }
        Ok(())
    }

    fn set_limits(&self, limits: &Limits) -> Result<(), HostError> {
        let layout = &self.inner.layout;
        let v2 = self.inner.v2()?;
        let write =
            |h: &Hierarchy, file: &str, text: &str| write_at(&h.dir, &self.below(file), text);
        if let Some(bytes) = limits.memory_bytes {
            let bytes = bytes.to_string();
            if layout.v2_has("memory") {
                write(v2, "memory.max", &bytes)?;
                write_if_there(&v2.dir, &self.below("memory.swap.max"), "0")?;
            } else if let Some(h) = layout.v1_with("memory") {
                write(h, "memory.limit_in_bytes", &bytes)?;
                write_if_there(&h.dir, &self.below("memory.memsw.limit_in_bytes"), &bytes)?;
            }
        }
        if let Some(pids) = limits.pids {
            let pids = pids.to_string();
            if layout.v2_has("pids") {
                write(v2, "pids.max", &pids)?;
            } else if let Some(h) = layout.v1_with("pids") {
                write(h, "pids.max", &pids)?;
            }
        }
        if let Some(millis) = limits.cpu_millis {
            let quota = millis * CPU_PERIOD_US / 1000;
            if layout.v2_has("cpu") {
                write(v2, "cpu.max", &format!("{quota} {CPU_PERIOD_US}"))?;
            } else if let Some(h) = layout.v1_with("cpu") {
                write(h, "cpu.cfs_period_us", &CPU_PERIOD_US.to_string())?;
                write(h, "cpu.cfs_quota_us", &quota.to_string())?;
            }
        }
        if let Some(h) = layout.v1_with("devices") {
            write(h, "devices.deny", "a")?;
            for device in DEVICES {
                write(h, "devices.allow", device)?;
            }
        }
        Ok(())
    }

    /// The v2 directory, for a child to be born in. `None` for a group that was only named.
    #[must_use]
    pub fn dir(&self) -> Option<BorrowedFd<'_>> {
        self.dir.as_ref().map(AsFd::as_fd)
    }

    /// The v1 `tasks` files a child puts itself into.
    ///
    /// A thread that moves itself needs no lock on all thread groups, which whoever writes to
    /// `cgroup.procs` takes, and waits an RCU grace period for after a rest: 5 to 20 ms
    /// (`cgroup_procs_write_start` in kernel/cgroup/cgroup.c since Linux 5.5, kernel/rcu/sync.c).
    pub fn tasks(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.tasks.iter().map(AsFd::as_fd)
    }

    /// The name below the node's directory.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.name
    }

    /// Whether `pid` is in it.
    #[must_use]
    pub fn contains(&self, pid: i32) -> bool {
        self.read_v2("cgroup.procs").is_some_and(|t| t.lines().any(|l| l.parse() == Ok(pid)))
    }

    /// The processes in it and in the groups below it, as they are now. A group that does not
    /// exist has none.
    ///
    /// # Errors
    /// When one that exists cannot be read.
    pub fn pids(&self) -> Result<Vec<i32>, HostError> {
        let v2 = self.inner.v2()?;
        let mut pids = Vec::new();
        let mut paths = vec![format!("{}/{}", self.inner.root, self.name)];
        while let Some(path) = paths.pop() {
            let listed = match read_at(&v2.dir, &format!("{path}/cgroup.procs")) {
                Err(error) if is_gone(&error) => continue,
                listed => listed?,
            };
            pids.extend(listed.lines().filter_map(|line| line.parse::<i32>().ok()));
            let below = child_dirs(v2, &path)?;
            paths.extend(below.into_iter().map(|name| format!("{path}/{name}")));
        }
        Ok(pids)
    }

    /// Kills every process in it and waits, by event, until there is none. A group that does not
    /// exist is empty.
    ///
    /// Cancel safety: yes; the kill stays in force.
    ///
    /// # Errors
    /// When the kill is refused, or a process is still there at the end of `budget`.
    pub async fn kill(&self, budget: Budget) -> Result<(), HostError> {
        let v2 = self.inner.v2()?;
        match write_at(&v2.dir, &self.below("cgroup.kill"), "1") {
            Ok(()) => {}
            Err(error) if is_gone(&error) => return Ok(()),
            Err(error) => return Err(error),
        }
        self.event("cgroup kill", ("populated", 0), "empty cgroup", budget).await
    }

    /// Halts every process in it, and waits, by event, until all stand still. What a program inside
    /// starts later stands still, too.
    ///
    /// Cancel safety: yes; it stays in force.
    ///
    /// # Errors
    /// When it is refused, there is no such group, or a process does not stand still at the end of
    /// `budget`, as one that waits in the kernel for a device. It stays in force then.
    pub async fn freeze(&self, budget: Budget) -> Result<(), HostError> {
        write_at(&self.inner.v2()?.dir, &self.below("cgroup.freeze"), "1")?;
        self.event("cgroup freeze", ("frozen", 1), "freeze cgroup", budget).await
    }

    /// Lets the processes in it go on. May be repeated.
    ///
    /// # Errors
    /// When it is refused, or there is no such group.
    pub fn thaw(&self) -> Result<(), HostError> {
        write_at(&self.inner.v2()?.dir, &self.below("cgroup.freeze"), "0")
    }

    /// Waits until `cgroup.events` says of a key what is wanted. A group that is gone is empty, and
    /// says nothing else any more.
    async fn event(
        &self,
        step: &'static str,
        (key, wanted): (&'static str, u64),
        what: &'static str,
        budget: Budget,
    ) -> Result<(), HostError> {
        let events = self.below("cgroup.events");
        let file = match open_file(&self.inner.v2()?.dir, &events, OFlags::RDONLY) {
            Ok(file) => file,
            Err(error) if is_gone(&error) => return Ok(()),
            Err(error) => return Err(error),
        };
        let ready = Ready::new(file, Interest::PRIORITY).tried("watch", &events)?;
        let is_so = ready.until(|fd| {
            let mut buffer = [0_u8; 256];
            let len = match rustix::io::pread(fd, &mut buffer, 0) {
                // The group has been removed meanwhile, which only an empty one can be.
                Err(Errno::NODEV) => return Ok(Some(())),
                read => read?,
            };
            let text = String::from_utf8_lossy(buffer.get(..len).unwrap_or_default());
            Ok((keyed(&text, key) == Some(wanted)).then_some(()))
        });
        match budget.run(step, is_so).await {
            Ok(result) => result.tried("watch", &events),
            Err(expired) => {
                Err(io::Error::new(io::ErrorKind::TimedOut, expired)).tried(what, &self.name)
            }
        }
    }

    /// Removes its directories, with what is below them. Already gone is fine.
    ///
    /// # Errors
    /// When a process is still in one.
    pub fn remove(&self) -> Result<(), HostError> {
        let path = format!("{}/{}", self.inner.root, self.name);
        for hierarchy in self.inner.all()? {
            remove_tree(hierarchy, &path)?;
        }
        Ok(())
    }

    pub(super) fn is_on_v2(&self, controller: &str) -> bool {
        self.inner.layout.v2_has(controller)
    }

    pub(super) fn read_v2(&self, file: &str) -> Option<String> {
        read_at(&self.inner.v2().ok()?.dir, &self.below(file)).ok()
    }

    pub(super) fn read_v2_number(&self, file: &str) -> Option<u64> {
        self.read_v2(file)?.trim().parse().ok()
    }

    pub(super) fn read_stat(&self, file: &str, key: &str) -> Option<u64> {
        keyed(&self.read_v2(file)?, key)
    }

    pub(super) fn read_number(&self, controller: &str, file: &str) -> Option<u64> {
        let h = self.inner.layout.v1_with(controller)?;
        read_at(&h.dir, &self.below(file)).ok()?.trim().parse().ok()
    }

    pub(super) fn read_v1_stat(&self, controller: &str, file: &str, key: &str) -> Option<u64> {
        let h = self.inner.layout.v1_with(controller)?;
        keyed(&read_at(&h.dir, &self.below(file)).ok()?, key)
    }
}

impl Release for Cgroup {
    const KIND: &'static str = "cgroup";
    type Error = HostError;

    fn name(&self) -> &str {
        &self.name
    }

    async fn release(&self, budget: Budget) -> Result<(), HostError> {
        self.kill(budget).await?;
        // A killed process may keep its directory busy for the instant between its last event and
        // the end of its exit.
        loop {
            match self.remove() {
                Err(error)
                    if error.errno() == Some(Errno::BUSY) && budget.remaining() > RETRY * 2 =>
                {
                    tokio::time::sleep(RETRY).await;
                }
                done => return done,
            }
        }
    }
}

const RETRY: Duration = Duration::from_millis(2);

#[cfg(test)]
mod tests;
