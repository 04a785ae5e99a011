//! Which system calls a sandbox may make.
//!
//! A list of what programs need, written for this project; everything else is refused with EPERM.
//! Left out on purpose: mounts and namespaces, keys, io_uring, userfaultfd, bpf, perf, file handles,
//! other processes' memory, modules, the clock, and everything that is only for the host. x86_64
//! alone: through the 32-bit entry `socketcall` would get around the socket families.
//!
//! crun is given the finished program (compiling it from names costs 4 ms at every start), runc the
//! same policy as JSON.

mod calls;
mod program;

use base64::Engine;
use serde_json::{Value, json};

use calls::ALLOWED;

/// Namespace flags of clone(2): new mount, cgroup, uts, ipc, user, pid and network namespaces.
const CLONE_NAMESPACES: u32 = 0x7E02_0000;
/// Socket families: UNIX, INET, INET6, NETLINK. Not VSOCK: it leads to the host of the host.
const FAMILIES: [u32; 4] = [1, 2, 10, 16];

/// The policy, compiled once.
#[derive(Debug)]
pub(super) struct Policy {
    program: String,
    json: Value,
}

impl Policy {
    pub(super) fn new() -> Self {
        let program = base64::engine::general_purpose::STANDARD.encode(program::compile());
        Self { program, json: to_json() }
    }

    /// crun reads the finished program from here.
    pub(super) fn annotations(&self) -> Value {
        json!({ "run.oci.seccomp_bpf_data": self.program })
    }

    pub(super) fn to_json(&self) -> &Value {
        &self.json
    }
}

fn to_json() -> Value {
    let names: Vec<&str> = ALLOWED.iter().map(|(name, _)| *name).collect();
    let mut rules = vec![
        json!({ "names": names, "action": "SCMP_ACT_ALLOW" }),
        json!({ "names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": libc::ENOSYS }),
        json!({
            "names": ["clone"], "action": "SCMP_ACT_ALLOW",
            "args": [{ "index": 0, "value": CLONE_NAMESPACES, "valueTwo": 0,
                       "op": "SCMP_CMP_MASKED_EQ" }],
        }),
    ];
    rules.extend(FAMILIES.map(|family| {
        json!({
            "names": ["socket", "socketpair"], "action": "SCMP_ACT_ALLOW",
            "args": [{ "index": 0, "value": family, "op": "SCMP_CMP_EQ" }],
        })
    }));
    json!({
        "defaultAction": "SCMP_ACT_ERRNO",
        "defaultErrnoRet": libc::EPERM,
        "architectures": ["SCMP_ARCH_X86_64"],
        "syscalls": rules,
    })
}

#[cfg(test)]
mod tests {
    use super::{FAMILIES, to_json};

    #[test]
    fn the_json_has_the_conditions_of_the_program() {
        let json = to_json();
        let rules = json["syscalls"].as_array().unwrap();
        for call in ["socket", "socketpair"] {
            let with = |rule: &&serde_json::Value| {
                rule["names"].as_array().unwrap().iter().any(|name| name == call)
            };
            let families: Vec<u64> = rules
                .iter()
                .filter(with)
                .map(|rule| rule["args"][0]["value"].as_u64().unwrap())
                .collect();
            assert_eq!(families, FAMILIES.map(u64::from), "{call}");
        }
    }
}
