//! The policy as a classic BPF program (seccomp(2), `struct sock_filter`, 8 bytes each).

use super::calls::ALLOWED;
use super::{CLONE_NAMESPACES, FAMILIES};

const LOAD: u16 = 0x20; // BPF_LD | BPF_W | BPF_ABS
const JUMP_EQUAL: u16 = 0x15; // BPF_JMP | BPF_JEQ | BPF_K
const JUMP_ABOVE: u16 = 0x25; // BPF_JMP | BPF_JGT | BPF_K
const JUMP_FROM: u16 = 0x35; // BPF_JMP | BPF_JGE | BPF_K
const JUMP_ANY_BIT: u16 = 0x45; // BPF_JMP | BPF_JSET | BPF_K
const RETURN: u16 = 0x06; // BPF_RET | BPF_K

const ALLOW: u32 = 0x7FFF_0000;
const ERRNO: u32 = 0x0005_0000;
const KILL_PROCESS: u32 = 0x8000_0000;

// Offsets in `struct seccomp_data`.
const NUMBER: u32 = 0;
const ARCH: u32 = 4;
const FIRST_ARGUMENT: u32 = 16;

const AUDIT_ARCH_X86_64: u32 = 0xC000_003E;
/// Numbers from here on are the x32 entry: other calls under other numbers.
const X32: u32 = 0x4000_0000;

const EPERM: u32 = ERRNO | 1;
const ENOSYS: u32 = ERRNO | 38;

#[derive(Default)]
struct Program(Vec<u8>);

impl Program {
    fn op(&mut self, code: u16, yes: u8, no: u8, value: u32) {
        self.0.extend(code.to_le_bytes());
        self.0.extend([yes, no]);
        self.0.extend(value.to_le_bytes());
    }
}

/// The program. Calls without a condition on arguments come as ranges of numbers in rising order;
/// the kernel remembers the answer for those and does not run the program again.
pub(super) fn compile() -> Vec<u8> {
    let mut p = Program::default();
    p.op(LOAD, 0, 0, ARCH);
    p.op(JUMP_EQUAL, 1, 0, AUDIT_ARCH_X86_64);
    p.op(RETURN, 0, 0, KILL_PROCESS);
    p.op(LOAD, 0, 0, NUMBER);
    p.op(JUMP_FROM, 0, 1, X32);
    p.op(RETURN, 0, 0, KILL_PROCESS);
    p.op(JUMP_EQUAL, 0, 1, number(libc::SYS_clone3));
    // Not EPERM: the C library falls back to clone only when the call does not exist.
    p.op(RETURN, 0, 0, ENOSYS);
    p.op(JUMP_EQUAL, 0, 4, number(libc::SYS_clone));
    p.op(LOAD, 0, 0, FIRST_ARGUMENT);
    p.op(JUMP_ANY_BIT, 0, 1, CLONE_NAMESPACES);
    p.op(RETURN, 0, 0, EPERM);
    p.op(RETURN, 0, 0, ALLOW);
    p.op(JUMP_EQUAL, 1, 0, number(libc::SYS_socket));
    p.op(JUMP_EQUAL, 0, 7, number(libc::SYS_socketpair));
    p.op(LOAD, 0, 0, FIRST_ARGUMENT);
    for (left, family) in (1..=4).rev().zip(FAMILIES) {
        p.op(JUMP_EQUAL, left, 0, family);
    }
    p.op(RETURN, 0, 0, EPERM);
    p.op(RETURN, 0, 0, ALLOW);
    for (first, last) in ranges() {
        p.op(JUMP_FROM, 0, 2, first);
        p.op(JUMP_ABOVE, 2, 0, last);
        p.op(RETURN, 0, 0, ALLOW);
        p.op(RETURN, 0, 0, EPERM);
    }
    p.op(RETURN, 0, 0, EPERM);
    p.0
}

fn number(call: libc::c_long) -> u32 {
    u32::try_from(call).unwrap_or(u32::MAX)
}

fn ranges() -> Vec<(u32, u32)> {
    let mut numbers: Vec<u32> = ALLOWED.iter().map(|(_, call)| number(*call)).collect();
    numbers.sort_unstable();
    numbers.dedup();
    let mut ranges: Vec<(u32, u32)> = Vec::new();
    for n in numbers {
        match ranges.last_mut() {
            Some((_, last)) if *last + 1 == n => *last = n,
            _ => ranges.push((n, n)),
        }
    }
    ranges
}

#[cfg(test)]
mod tests {
    use super::{
        ALLOW, AUDIT_ARCH_X86_64, ENOSYS, EPERM, JUMP_ABOVE, JUMP_ANY_BIT, JUMP_EQUAL, JUMP_FROM,
        KILL_PROCESS, LOAD, RETURN, compile,
    };
    use crate::container::seccomp::calls::ALLOWED;

    /// Runs the program as the kernel would.
    fn verdict(arch: u32, number: u32, argument: u32) -> u32 {
        let program = compile();
        let op = |at: usize| program.get(at * 8..at * 8 + 8).unwrap();
        let (mut at, mut a) = (0, 0);
        loop {
            let i = op(at);
            let code = u16::from_le_bytes([i[0], i[1]]);
            let k = u32::from_le_bytes([i[4], i[5], i[6], i[7]]);
            let jump = |hit: bool| usize::from(if hit { i[2] } else { i[3] });
            at += 1;
            match code {
                LOAD => {
                    a = match k {
                        0 => number,
                        4 => arch,
                        16 => argument,
                        other => panic!("loads {other}"),
                    }
                }
                JUMP_EQUAL => at += jump(a == k),
                JUMP_ABOVE => at += jump(a > k),
                JUMP_FROM => at += jump(a >= k),
                JUMP_ANY_BIT => at += jump(a & k != 0),
                RETURN => return k,
                other => panic!("unknown code {other}"),
            }
        }
    }

    fn here(call: i64, argument: u32) -> u32 {
        verdict(AUDIT_ARCH_X86_64, u32::try_from(call).unwrap(), argument)
    }

    #[test]
    fn every_number_is_decided_as_the_list_says() {
        for call in 0..600 {
            let listed = ALLOWED.iter().any(|(_, number)| *number == call);
            let special =
                [libc::SYS_clone, libc::SYS_clone3, libc::SYS_socket, libc::SYS_socketpair];
            if !special.contains(&call) {
                let expected = if listed { ALLOW } else { EPERM };
                assert_eq!(here(call, 0), expected, "call {call}");
            }
        }
    }

    #[test]
    fn conditions_on_arguments_hold() {
        assert_eq!(here(libc::SYS_clone3, 0), ENOSYS);
        assert_eq!(here(libc::SYS_clone, 0x0001_1200), ALLOW);
        for namespace in [0x0002_0000, 0x0200_0000, 0x1000_0000, 0x2000_0000, 0x4000_0000] {
            assert_eq!(here(libc::SYS_clone, namespace), EPERM);
        }
        for family in 0..50 {
            let expected = if [1, 2, 10, 16].contains(&family) { ALLOW } else { EPERM };
            assert_eq!(here(libc::SYS_socket, family), expected, "family {family}");
            assert_eq!(here(libc::SYS_socketpair, family), expected, "family {family}");
        }
    }

    #[test]
    fn other_entries_to_the_kernel_kill() {
        assert_eq!(verdict(0x4000_0003, 20, 0), KILL_PROCESS);
        assert_eq!(here(0x4000_0000, 0), KILL_PROCESS);
    }

    #[test]
    fn the_dangerous_calls_are_not_listed() {
        let dangerous = [
            "mount",
            "umount2",
            "pivot_root",
            "setns",
            "unshare",
            "keyctl",
            "add_key",
            "request_key",
            "io_uring_setup",
            "userfaultfd",
            "bpf",
            "perf_event_open",
            "open_by_handle_at",
            "name_to_handle_at",
            "kcmp",
            "process_vm_readv",
            "process_vm_writev",
            "init_module",
            "finit_module",
            "kexec_load",
            "reboot",
            "swapon",
            "acct",
            "settimeofday",
            "clock_settime",
            "move_mount",
            "open_tree",
            "fsopen",
            "fsmount",
            "mount_setattr",
            "iopl",
            "ioperm",
            "clone",
            "clone3",
            "socket",
            "socketpair",
        ];
        for name in dangerous {
            assert!(!ALLOWED.iter().any(|(listed, _)| *listed == name), "{name}");
        }
    }
}
