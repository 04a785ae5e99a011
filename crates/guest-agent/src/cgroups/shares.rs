//! What each control group gets of the machine, where the machine can divide it.

use std::fs::File;
use std::io::Write as _;
use std::path::Path;

use super::{FORWARDERS, TERMINALS, USER};

const MIB: u64 = 1024 * 1024;
/// Users' processes leave this much of the memory to the rest of the machine, and less on a small
/// one.
const RESERVED_BYTES: u64 = 128 * MIB;

/// Writes what belongs to the group called `name`. A file that is not there is of a controller that
/// this machine does not have or does not hand on, and then nothing is divided.
pub(super) fn give(group: &Path, name: &str) {
    let memory = crate::rest::memory_total().map(for_users);
    for (file, value) in shares(name, memory) {
        if let Ok(mut file) = File::options().write(true).open(group.join(file)) {
            let _not_taken = file.write_all(value.as_bytes());
        }
    }
}

fn for_users(total: u64) -> u64 {
    total - (total / 8).min(RESERVED_BYTES)
}

/// Names of files and what is written to them. `memory` is for users' processes, in bytes.
fn shares(name: &str, memory: Option<u64>) -> Vec<(&'static str, String)> {
    let (cpu, io) = match name {
        USER => ("50", "default 10"),
        TERMINALS => ("200", "default 50"),
        FORWARDERS => ("150", "default 50"),
        _ => return Vec::new(),
    };
    let mut all = vec![("cpu.weight", cpu.to_owned()), ("io.weight", io.to_owned())];
    if name == FORWARDERS {
        all.push(("memory.min", (5 * MIB).to_string()));
        all.push(("memory.low", (8 * MIB).to_string()));
    } else if let Some(most) = memory {
        all.push(("memory.high", most.to_string()));
        all.push(("memory.max", most.to_string()));
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_processes_never_get_all_of_the_memory() {
        assert_eq!(for_users(512 * MIB), 448 * MIB);
        assert_eq!(for_users(1024 * MIB), 896 * MIB);
        assert_eq!(for_users(8192 * MIB), 8064 * MIB);
    }

    #[test]
    fn a_share_is_written_only_where_the_machine_has_a_place_for_it() {
        let dir = tempfile::tempdir().unwrap();
        for file in ["cpu.weight", "memory.max"] {
            std::fs::write(dir.path().join(file), "").unwrap();
        }
        give(dir.path(), TERMINALS);
        let read = |file| std::fs::read_to_string(dir.path().join(file)).unwrap();
        assert_eq!(read("cpu.weight"), "200");
        assert!(read("memory.max").parse::<u64>().unwrap() > 0);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 2);
    }
}
