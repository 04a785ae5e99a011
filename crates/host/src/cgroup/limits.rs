use super::layout::Layout;

/// What one cgroup may use. `None` leaves a resource unlimited.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Limits {
    /// Bytes, page cache included.
    pub memory_bytes: Option<u64>,
    pub pids: Option<u64>,
    /// Thousandths of a processor.
    pub cpu_millis: Option<u64>,
}

/// Whether the host can enforce a limit, and by what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Support {
    pub what: &'static str,
    pub enforced: bool,
    pub detail: String,
}

/// The period over which processor time is counted, microseconds: the kernel's own default.
pub(super) const CPU_PERIOD_US: u64 = 100_000;

/// The devices every program expects, and nothing else (OCI runtime spec, default devices).
pub(super) const DEVICES: [&str; 9] = [
    "c 1:3 rwm",
    "c 1:5 rwm",
    "c 1:7 rwm",
    "c 1:8 rwm",
    "c 1:9 rwm",
    "c 5:0 rwm",
    "c 5:1 rwm",
    "c 5:2 rwm",
    "c 136:* rwm",
];

impl Layout {
    /// Which limits this host can enforce. The order is fixed.
    #[must_use]
    pub fn support(&self) -> Vec<Support> {
        let by = |what, controller: &'static str| match (
            self.v2_has(controller),
            self.v1_with(controller),
        ) {
            (true, _) => {
                Support { what, enforced: true, detail: format!("cgroup v2 {controller}") }
            }
            (false, Some(h)) => Support {
                what,
                enforced: true,
                detail: format!("cgroup v1 {controller} at {}", h.path.display()),
            },
            (false, None) => Support {
                what,
                enforced: false,
                detail: format!("no {controller} controller; boot with it enabled"),
            },
        };
        vec![by("memory", "memory"), self.swap_support(), by("pids", "pids"), by("cpu", "cpu")]
    }

    fn swap_support(&self) -> Support {
        let v1 = self.v1_with("memory").filter(|_| !self.v2_has("memory"));
        let enforced = self.v2_has("memory")
            || v1.is_some_and(|h| h.path.join("memory.memsw.limit_in_bytes").exists());
        let no_swap = std::fs::read_to_string("/proc/swaps").is_ok_and(|s| s.lines().count() <= 1);
        let detail = match (enforced, no_swap) {
            (true, _) => "swap counts against the memory limit".to_owned(),
            (false, true) => "the host has no swap, so there is nothing to limit".to_owned(),
            (false, false) => {
                "swap is not counted; boot with swapaccount=1 or turn swap off".to_owned()
            }
        };
        Support { what: "swap", enforced: enforced || no_swap, detail }
    }
}
