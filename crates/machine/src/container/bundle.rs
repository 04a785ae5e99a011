//! The OCI configuration of one sandbox (runtime-spec 1.0.2).

use std::os::fd::AsRawFd;
use std::path::Path;

use serde_json::{Value, json};

use super::capabilities::CAPABILITIES;
use super::seccomp::Policy;
use crate::driver::BootSpec;

/// When the host's memory is out, programs of sandboxes go before those of the host, 0 by default.
/// The guest agent puts what it starts 100 above itself.
const OOM_SCORE_ADJ: i32 = 400;
/// Where the guest agent is inside.
const AGENT: &str = "/usr/bin/envd";

pub(super) struct Bundle<'a> {
    pub spec: &'a BootSpec<'a>,
    pub root: &'a Path,
    pub agent: &'a Path,
    pub seccomp: &'a Policy,
    /// The file that is the id of its boot, for runtimes that can show one.
    pub boot_id: Option<&'a Path>,
    /// Set for runtimes that move the machine into a cgroup themselves.
    pub cgroup_path: Option<String>,
}

impl Bundle<'_> {
    pub(super) fn to_json(&self) -> Value {
        let spec = self.spec;
        let mut env = vec![
            "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".to_owned(),
            "HOME=/root".to_owned(),
        ];
        env.extend(spec.env.iter().map(|(name, value)| format!("{name}={value}")));
        json!({
            "ociVersion": "1.0.2",
            "hostname": spec.hostname,
            "root": { "path": self.root, "readonly": false },
            "process": {
                "terminal": false,
                "user": { "uid": 0, "gid": 0 },
                "args": [AGENT, "--listen-fd", "3"],
                "cwd": "/",
                // sudo needs it off; what it could gain ends at the user namespace.
                "noNewPrivileges": false,
                "env": env,
                "oomScoreAdj": OOM_SCORE_ADJ,
                "capabilities": {
                    "bounding": CAPABILITIES,
                    "effective": CAPABILITIES,
                    "permitted": CAPABILITIES,
                },
            },
            "mounts": self.mounts(),
            "annotations": self.seccomp.annotations(),
            "linux": self.linux(),
        })
    }

    fn mounts(&self) -> Value {
        let shm = format!("size={}k", (self.spec.memory_bytes / 2 / 1024).max(1024));
        let mut mounts = json!([
            { "destination": "/proc", "type": "proc", "source": "proc",
              "options": ["nosuid", "noexec", "nodev"] },
            { "destination": "/dev", "type": "tmpfs", "source": "tmpfs",
              "options": ["nosuid", "strictatime", "mode=755", "size=65536k"] },
            { "destination": "/dev/pts", "type": "devpts", "source": "devpts",
              "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"] },
            { "destination": "/dev/shm", "type": "tmpfs", "source": "shm",
              "options": ["nosuid", "noexec", "nodev", "mode=1777", shm] },
            { "destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue",
              "options": ["nosuid", "noexec", "nodev"] },
            { "destination": "/sys", "type": "sysfs", "source": "sysfs",
              "options": ["nosuid", "noexec", "nodev", "ro"] },
            { "destination": AGENT, "type": "bind", "source": self.agent,
              "options": ["bind", "ro", "nosuid", "nodev"] },
        ]);
        if let (Some(boot_id), Some(mounts)) = (self.boot_id, mounts.as_array_mut()) {
            mounts.push(json!({
                "destination": "/proc/sys/kernel/random/boot_id", "type": "bind", "source": boot_id,
                "options": ["bind", "ro", "nosuid", "nodev", "noexec"],
            }));
        }
        mounts
    }

    fn linux(&self) -> Value {
        let slot = &self.spec.slot;
        let by_fd = |fd: i32| format!("/proc/{}/fd/{fd}", std::process::id());
        let map = json!([{
            "containerID": 0,
            "hostID": slot.net().uid_base,
            "size": host::identity::UIDS_PER_SLOT,
        }]);
        let mut linux = json!({
            "namespaces": [
                { "type": "pid" }, { "type": "ipc" }, { "type": "uts" }, { "type": "mount" },
                { "type": "cgroup" },
                { "type": "network", "path": by_fd(slot.netns().as_raw_fd()) },
                { "type": "user", "path": by_fd(slot.userns().as_raw_fd()) },
            ],
            "uidMappings": map,
            "gidMappings": map,
            "maskedPaths": MASKED,
            "readonlyPaths": READ_ONLY,
            "seccomp": self.seccomp.to_json(),
        });
        if let (Some(path), Some(object)) = (&self.cgroup_path, linux.as_object_mut()) {
            object.insert("cgroupsPath".into(), path.as_str().into());
        }
        linux
    }
}

const MASKED: [&str; 13] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/config.gz",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
];

const READ_ONLY: [&str; 5] =
    ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];
