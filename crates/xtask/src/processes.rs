//! The processes of this host, as `/proc` shows them.

/// The processes of this host, by id.
pub(crate) fn pids() -> impl Iterator<Item = u32> {
    let folder = std::fs::read_dir("/proc");
    let entries = folder.into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

/// The processes whose parent is `parent`, and the state of each, such as `S` or `Z`.
pub(crate) fn children(parent: u32) -> Vec<(u32, char)> {
    all().into_iter().filter(|(_, of, _)| *of == parent).map(|(pid, _, s)| (pid, s)).collect()
}

/// Every process of this host with its parent and its state, from `/proc/*/stat`.
fn all() -> Vec<(u32, u32, char)> {
    pids()
        .filter_map(|pid| {
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
            // The second field is a name in brackets and may itself contain spaces and brackets.
            let (_, rest) = stat.rsplit_once(") ")?;
            let mut fields = rest.split(' ');
            let state = fields.next()?.chars().next()?;
            Some((pid, fields.next()?.parse().ok()?, state))
        })
        .collect()
}

/// The processes below `root`.
pub(crate) fn descendants(root: u32) -> Vec<u32> {
    let known = all();
    let mut found = vec![root];
    let mut next = 0;
    while let Some(parent) = found.get(next).copied() {
        found.extend(known.iter().filter(|(_, of, _)| *of == parent).map(|(pid, _, _)| *pid));
        next += 1;
    }
    found.remove(0);
    found
}

#[cfg(test)]
mod tests {
    use super::{children, pids};

    #[test]
    fn this_process_is_among_the_processes() {
        assert!(pids().any(|pid| pid == std::process::id()));
    }

    #[test]
    fn a_child_is_known_by_its_parent() {
        let mut child = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
        let listed = children(std::process::id());
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(listed.iter().any(|(pid, state)| *pid == child.id() && *state != 'Z'));
    }
}
