//! Where the agent itself is among the control groups: if it froze itself, nobody could thaw it.

use std::io;
use std::path::{Path, PathBuf};

use rustix::io::Errno;

/// The groups from `root`, exclusive, down to the one the agent is in. None if it is in `root`
/// itself or not below it.
pub(super) fn chain(root: &Path) -> Vec<PathBuf> {
    let own = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    find(root, &own, is_in)
}

/// The path the kernel tells starts at the root of the hierarchy, and `root` may be anywhere below
/// that: so each end of the path is tried, the longest first, until the agent is found there.
fn find(root: &Path, own: &str, is_in: impl Fn(&Path) -> bool) -> Vec<PathBuf> {
    let Some(path) = own.lines().find_map(|line| line.strip_prefix("0::/")) else {
        return Vec::new();
    };
    let names: Vec<&str> = path.split('/').filter(|name| !name.is_empty()).collect();
    let mut left = names.as_slice();
    loop {
        let below = |chain: &mut Vec<PathBuf>, name: &&str| {
            let parent = chain.last().map_or(root, PathBuf::as_path);
            chain.push(parent.join(name));
        };
        let mut chain = Vec::new();
        left.iter().for_each(|name| below(&mut chain, name));
        let Some(group) = chain.last() else { return chain };
        if is_in(group) {
            return chain;
        }
        left = left.split_first().map_or(&[], |(_outermost, rest)| rest);
    }
}

fn is_in(group: &Path) -> bool {
    let own = std::process::id().to_string();
    match std::fs::read_to_string(group.join("cgroup.procs")) {
        Ok(all) => all.lines().any(|pid| pid == own),
        // A group of threads does not tell its processes. One of the right name is taken for the
        // agent's: better one too few is frozen.
        Err(error) => is_group_of_threads(&error),
    }
}

fn is_group_of_threads(error: &io::Error) -> bool {
    Errno::from_io_error(error) == Some(Errno::OPNOTSUPP)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(own: &str, in_group: &str) -> Vec<String> {
        let chain = find(Path::new("/r"), own, |group| group == Path::new(in_group));
        chain.iter().map(|group| group.to_str().unwrap().to_owned()).collect()
    }

    #[test]
    fn the_chain_is_found_wherever_the_root_is() {
        let own = "1:cpu:/x\n0::/a/b/c\n";
        assert_eq!(found(own, "/r/a/b/c"), ["/r/a", "/r/a/b", "/r/a/b/c"]);
        assert_eq!(found(own, "/r/b/c"), ["/r/b", "/r/b/c"]);
        assert_eq!(found(own, "/r/c"), ["/r/c"]);
    }

    #[test]
    fn an_agent_at_the_root_or_elsewhere_has_none() {
        for own in ["0::/\n", "0::/a/b\n", "4:memory:/a\n", ""] {
            assert!(found(own, "/elsewhere").is_empty(), "{own}");
        }
    }
}
