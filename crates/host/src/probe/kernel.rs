//! The kernel: version, virtualisation, namespaces, cgroups.

use std::fs;
use std::io;

use super::{ALL, CONTAINER, FIRECRACKER, Finding, Level};
use crate::cgroup::{Kind, Layout};
use crate::proc::parse_version;

/// Idmapped layers below an overlay came with 5.19, the youngest thing containers need.
const OLDEST: (u32, u32) = (5, 19);

pub(super) fn probe() -> Vec<Finding> {
    let mut findings = vec![root(), version(), user_namespaces(), kvm(), pid_max()];
    match Layout::detect() {
        Ok(layout) => findings.extend(cgroups(&layout)),
        Err(error) => findings.push(Finding::lack(
            "cgroups",
            ALL,
            Level::Missing,
            format!("{error}: {}", error.source),
            "mount cgroup v2: mount -t cgroup2 none /sys/fs/cgroup",
        )),
    }
    findings
}

fn root() -> Finding {
    // capabilities(7): the ones without which no sandbox can be made.
    const NEEDED: [(&str, u32); 6] = [
        ("CAP_CHOWN", 0),
        ("CAP_DAC_OVERRIDE", 1),
        ("CAP_SETUID", 7),
        ("CAP_NET_ADMIN", 12),
        ("CAP_SYS_CHROOT", 18),
        ("CAP_SYS_ADMIN", 21),
    ];
    let status = fs::read_to_string("/proc/thread-self/status").unwrap_or_default();
    let field = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let held = field.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok()).unwrap_or(0);
    let lacks: Vec<&str> =
        NEEDED.iter().filter(|(_, bit)| held >> bit & 1 == 0).map(|(name, _)| *name).collect();
    if lacks.is_empty() {
        return Finding::ok("privileges", ALL, "all that is needed".to_owned());
    }
    let detail = format!("lacks {}", lacks.join(", "));
    Finding::lack("privileges", ALL, Level::Missing, detail, "run it as root, unconfined")
}

fn version() -> Finding {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let release = release.trim().to_owned();
    if parse_version(&release).is_some_and(|version| version >= OLDEST) {
        return Finding::ok("kernel", ALL, release);
    }
    let (major, minor) = OLDEST;
    let fix = format!("boot a kernel of version {major}.{minor} or later");
    Finding::lack("kernel", CONTAINER, Level::Missing, release, fix)
}

fn user_namespaces() -> Finding {
    const NAME: &str = "user namespaces";
    // One per slot; what is counted is all of the host's.
    const ENOUGH: u64 = 4096;
    let Some(max) = number("/proc/sys/user/max_user_namespaces") else {
        let fix = "boot a kernel with CONFIG_USER_NS";
        return Finding::lack(NAME, CONTAINER, Level::Missing, "not in this kernel", fix);
    };
    if max < ENOUGH {
        let level = if max == 0 { Level::Missing } else { Level::Degraded };
        let fix = format!("sysctl -w user.max_user_namespaces={}", ENOUGH * 4);
        return Finding::lack(NAME, CONTAINER, level, format!("at most {max}"), fix);
    }
    // Restricts programs without privileges only; the service makes its namespaces as root.
    let apparmor = number("/proc/sys/kernel/apparmor_restrict_unprivileged_userns") == Some(1);
    let note =
        if apparmor { ", restricted by AppArmor for programs that are not root" } else { "" };
    Finding::ok(NAME, CONTAINER, format!("at most {max}{note}"))
}

/// Opening the device proves little: nested and emulated ones open and then fail to run a guest.
fn kvm() -> Finding {
    const FIX: &str = "use a machine with hardware virtualisation, or the container driver";
    match fs::File::options().read(true).write(true).open("/dev/kvm") {
        Ok(_) => Finding::lack(
            "kvm",
            FIRECRACKER,
            Level::Degraded,
            "present, not proven: no guest was booted",
            "boot a guest to know",
        ),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            Finding::lack("kvm", FIRECRACKER, Level::Missing, "there is no /dev/kvm", FIX)
        }
        Err(error) => {
            let detail = format!("/dev/kvm cannot be opened: {error}");
            Finding::lack("kvm", FIRECRACKER, Level::Missing, detail, FIX)
        }
    }
}

fn pid_max() -> Finding {
    const NAME: &str = "process numbers";
    // The usual default of small machines; a thousand sandboxes with thirty processes each.
    const ENOUGH: u64 = 32_768;
    match number("/proc/sys/kernel/pid_max") {
        Some(max) if max >= ENOUGH => Finding::ok(NAME, ALL, format!("up to {max}")),
        Some(max) => {
            let detail = format!("up to {max}");
            Finding::lack(NAME, ALL, Level::Degraded, detail, "sysctl -w kernel.pid_max=4194304")
        }
        None => Finding::lack(NAME, ALL, Level::Degraded, "unknown", "mount /proc"),
    }
}

fn cgroups(layout: &Layout) -> Vec<Finding> {
    let kind = match layout.kind() {
        Kind::V2 => "version 2",
        Kind::Hybrid => "hybrid: limits by version 1, killing and freezing by version 2",
        Kind::V1 => "version 1; version 2 is mounted for the service alone",
    };
    let mut findings = vec![Finding::ok("cgroups", ALL, kind.to_owned())];
    for support in layout.support() {
        let name = match support.what {
            "memory" => "memory limit",
            "swap" => "swap limit",
            "pids" => "process limit",
            "cpu" => "processor limit",
            other => other,
        };
        findings.push(if support.enforced {
            Finding::ok(name, ALL, support.detail)
        } else {
            let fix = "the detail says what would enforce it; `limits = \"require\"` refuses to \
                       start without";
            Finding::lack(name, ALL, Level::Degraded, support.detail, fix)
        });
    }
    findings
}

pub(super) fn number(path: &str) -> Option<u64> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::OLDEST;
    use crate::proc::parse_version;

    #[test]
    fn kernel_versions_are_compared_as_numbers() {
        assert_eq!(parse_version("6.1.0-18-amd64"), Some((6, 1)));
        assert!(parse_version("5.4.0").unwrap() < OLDEST);
        assert!(parse_version("5.19-rc1").unwrap() >= OLDEST);
        assert!(parse_version("10.0.1").unwrap() >= OLDEST);
        assert_eq!(parse_version("unknown"), None);
    }
}
