//! Which control groups a freeze is for.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};

use super::{FORWARDERS, TERMINALS, USER, own};

/// How far a freeze goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Mode {
    /// Processes started by clients.
    Legacy,
    /// Everything the machine can do without.
    Hierarchy,
}

/// Never frozen: what starts everything else, what the other services write their logs to, and
/// what a mounted network file system needs to answer.
const LEFT_ALONE: [&str; 6] = [
    "init.scope",
    FORWARDERS,
    "systemd-journald.service",
    "rpcbind.service",
    "rpcbind.socket",
    "rpc-statd.service",
];
/// Where systemd puts services; the only group besides the root where names are looked at. What a
/// user calls a group of their own does not keep it from being frozen.
const SERVICES: &str = "system.slice";

/// What was found.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Walk {
    /// To be frozen, each with all that is below, which is not looked at.
    pub(super) targets: Vec<PathBuf>,
    /// How many groups were looked at.
    pub(super) visited: usize,
    /// How many of them must go on.
    pub(super) left_alone: usize,
    /// There are more than may be looked at.
    pub(super) truncated: bool,
}

/// Looks at up to `most` groups below `root`; those of users' processes come first.
pub(super) fn walk(root: &Path, mode: Mode, most: usize) -> Walk {
    let own = own::chain(root);
    let is_own = |group: &Path| own.iter().any(|own| own == group);
    let users = [USER, TERMINALS].map(|name| root.join(name));
    let mut walk = Walk::default();
    for group in users.iter().filter(|group| group.is_dir()) {
        walk.visit(group, is_own(group));
    }
    if mode == Mode::Legacy {
        return walk;
    }
    let mut inside = VecDeque::from([root.to_owned()]);
    while let Some(parent) = inside.pop_front() {
        for group in children(&parent).filter(|group| !users.contains(group)) {
            if walk.visited >= most {
                walk.truncated = true;
                return walk;
            }
            let is_own = is_own(&group);
            let by_name = is_left_alone(root, &parent, &group);
            let goes_on = is_own || by_name || holds_left_alone(root, &group);
            walk.visit(&group, goes_on);
            if goes_on && !by_name {
                inside.push_back(group);
            }
        }
    }
    walk
}

impl Walk {
    fn visit(&mut self, group: &Path, goes_on: bool) {
        self.visited += 1;
        if goes_on {
            self.left_alone += 1;
        } else {
            self.targets.push(group.to_owned());
        }
    }
}

/// One that is removed meanwhile has none.
fn children(parent: &Path) -> impl Iterator<Item = PathBuf> {
    let all = std::fs::read_dir(parent).into_iter().flatten().flatten();
    all.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())).map(|entry| entry.path())
}

fn is_left_alone(root: &Path, parent: &Path, group: &Path) -> bool {
    let name = group.file_name();
    (parent == root || parent == root.join(SERVICES))
        && LEFT_ALONE.iter().any(|left_alone| name == Some(left_alone.as_ref()))
}

/// A group stands still with all that is below. So one that holds another that must go on cannot.
fn holds_left_alone(root: &Path, group: &Path) -> bool {
    group == root.join(SERVICES) && LEFT_ALONE.iter().any(|name| group.join(name).is_dir())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Directories are all that is looked at.
    fn tree(groups: &[&str]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for group in groups {
            std::fs::create_dir_all(dir.path().join(group)).unwrap();
        }
        std::fs::write(dir.path().join("cgroup.procs"), "").unwrap();
        dir
    }

    fn targets(dir: &tempfile::TempDir, walk: &Walk) -> Vec<String> {
        let relative = |group: &PathBuf| group.strip_prefix(dir.path()).unwrap().to_owned();
        let mut all: Vec<String> =
            walk.targets.iter().map(|group| relative(group).to_str().unwrap().to_owned()).collect();
        all.sort();
        all
    }

    const MACHINE: [&str; 11] = [
        "user/a",
        "ptys",
        "socats",
        "init.scope",
        "user.slice/user-0.slice",
        "docker/socats",
        "system.slice/cron.service/below",
        "system.slice/systemd-journald.service",
        "system.slice/rpcbind.service",
        "system.slice/rpcbind.socket",
        "system.slice/rpc-statd.service",
    ];

    #[test]
    fn by_default_only_users_processes_are_meant() {
        let dir = tree(&MACHINE);
        let walk = walk(dir.path(), Mode::Legacy, 1);
        assert_eq!(targets(&dir, &walk), ["ptys", "user"]);
        assert_eq!((walk.visited, walk.left_alone, walk.truncated), (2, 0, false));
        let none = super::walk(&dir.path().join("none"), Mode::Legacy, 1);
        assert_eq!(none, Walk::default());
    }

    #[test]
    fn of_the_whole_machine_what_others_need_goes_on() {
        let dir = tree(&MACHINE);
        let walk = walk(dir.path(), Mode::Hierarchy, 512);
        let expected = ["docker", "ptys", "system.slice/cron.service", "user", "user.slice"];
        assert_eq!(targets(&dir, &walk), expected);
        // Besides the six of the list: the one that holds four of them.
        assert_eq!((walk.visited, walk.left_alone, walk.truncated), (12, 7, false));
    }

    #[test]
    fn services_without_any_that_must_go_on_are_one_group() {
        let dir = tree(&["system.slice/cron.service"]);
        let walk = walk(dir.path(), Mode::Hierarchy, 512);
        assert_eq!((targets(&dir, &walk), walk.visited), (vec!["system.slice".to_owned()], 1));
    }

    #[test]
    fn users_processes_come_first_when_there_are_too_many_groups() {
        let dir = tree(&["a", "b", "c", "ptys", "user", "z"]);
        let walk = walk(dir.path(), Mode::Hierarchy, 2);
        assert_eq!(targets(&dir, &walk), ["ptys", "user"]);
        assert_eq!((walk.visited, walk.truncated), (2, true));
        let all = super::walk(dir.path(), Mode::Hierarchy, 6);
        assert_eq!((all.visited, all.truncated), (6, false));
    }
}
