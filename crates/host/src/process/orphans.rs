//! Children that nobody waits for: what a dropped call killed, and what fell to us because its own
//! parent ended.

use std::collections::BTreeMap;

use parking_lot::Mutex;
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use super::{ProcessIdentity, reap};
use crate::proc::{children, stat};

/// How many [`super::Process`] values hold each process number.
static HELD: Mutex<BTreeMap<i32, usize>> = Mutex::new(BTreeMap::new());

pub(super) fn hold(pid: i32) {
    *HELD.lock().entry(pid).or_insert(0) += 1;
}

pub(super) fn let_go(pid: i32) {
    let mut held = HELD.lock();
    if let Some(count) = held.get_mut(&pid) {
        *count -= 1;
        if *count == 0 {
            held.remove(&pid);
        }
    }
}

/// Reaps zombies of this process that no [`super::Process`] holds. A zombie keeps its number, and
/// its sandbox's cgroup a process.
///
/// One is only taken when two sweeps in a row have seen it: who else waits for it, such as tokio
/// for its own children, has had the time between them. So sweeps should be seconds apart, and one
/// value should make them all.
#[derive(Debug, Default)]
pub struct Orphans {
    seen: Vec<ProcessIdentity>,
}

impl Orphans {
    /// Reaps what the last sweep saw already and says how many that were.
    pub fn sweep(&mut self) -> usize {
        let zombies = match zombies() {
            Ok(zombies) => zombies,
            Err(error) => {
                tracing::warn!(%error, "orphans cannot be listed; the next sweep tries again");
                return 0;
            }
        };
        let unheld = |zombie: &ProcessIdentity| !HELD.lock().contains_key(&zombie.pid);
        let zombies: Vec<_> = zombies.into_iter().filter(unheld).collect();
        let (old, new): (Vec<_>, Vec<_>) =
            zombies.into_iter().partition(|zombie| self.seen.contains(zombie));
        self.seen = new;
        old.into_iter().filter(|zombie| take(*zombie)).count()
    }
}

/// The process numbers of all zombies among this process's children, held or not.
#[must_use]
pub fn zombie_children() -> Vec<i32> {
    zombies().unwrap_or_default().into_iter().map(|zombie| zombie.pid).collect()
}

fn zombies() -> std::io::Result<Vec<ProcessIdentity>> {
    let zombie = |pid| {
        let stat = stat(pid).filter(|stat| stat.is_zombie)?;
        Some(ProcessIdentity { pid, start_time: stat.start_time })
    };
    Ok(children()?.into_iter().filter_map(zombie).collect())
}

/// Whether its status was taken. The number is looked at again once it is held by descriptor: it
/// may have been reaped and given to somebody else.
fn take(zombie: ProcessIdentity) -> bool {
    let Some(pid) = Pid::from_raw(zombie.pid) else { return false };
    let Ok(pidfd) = pidfd_open(pid, PidfdFlags::empty()) else { return false };
    let is_same = stat(zombie.pid).is_some_and(|stat| stat.start_time == zombie.start_time);
    is_same && matches!(reap(std::os::fd::AsFd::as_fd(&pidfd)), Ok(Some(Some(_status))))
}

#[cfg(test)]
mod tests {
    use super::{Orphans, zombie_children};
    use crate::process::Spawn;
    use crate::thread::testing::wait_until;

    #[test]
    fn a_zombie_nobody_holds_is_reaped_by_the_second_sweep_and_a_held_one_never() {
        let held = Spawn::new("/bin/true").start().unwrap();
        let dropped = Spawn::new("/bin/true").start().unwrap();
        let (held_pid, dropped_pid) = (held.identity().pid, dropped.identity().pid);
        drop(dropped);
        wait_until("both to end", || {
            let zombies = zombie_children();
            zombies.contains(&held_pid) && zombies.contains(&dropped_pid)
        });
        let mut orphans = Orphans::default();
        orphans.sweep();
        assert!(zombie_children().contains(&dropped_pid), "others have time to wait for it");
        assert!(orphans.sweep() >= 1);
        let zombies = zombie_children();
        assert!(!zombies.contains(&dropped_pid));
        assert!(zombies.contains(&held_pid), "its holder wants the status");
        drop(held);
        orphans.sweep();
        orphans.sweep();
        assert!(!zombie_children().contains(&held_pid));
    }
}
