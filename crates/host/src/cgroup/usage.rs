use std::time::Duration;

use super::group::Cgroup;

/// What a cgroup has used, and uses.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Processor time since the cgroup was made, over all processors.
    pub cpu: Duration,
    /// Bytes, page cache included.
    pub memory_bytes: u64,
    /// Bytes of page cache that the kernel could take back.
    pub cache_bytes: u64,
}

/// The most it had at one time, and what runs in it now; `None` where the kernel does not tell.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Peak {
    pub memory_bytes: Option<u64>,
    pub pids: Option<u64>,
}

impl Cgroup {
    /// Reads what it had and has, for a record of its end.
    #[must_use]
    pub fn peak(&self) -> Peak {
        let memory_bytes = if self.is_on_v2("memory") {
            self.read_v2_number("memory.peak")
        } else {
            self.read_number("memory", "memory.max_usage_in_bytes")
        };
        let pids = if self.is_on_v2("pids") {
            self.read_v2_number("pids.current")
        } else {
            self.read_number("pids", "pids.current")
        };
        Peak { memory_bytes, pids }
    }

    /// Reads what it uses. A controller the host lacks reads as zero.
    #[must_use]
    pub fn usage(&self) -> Usage {
        let cpu = self
            .read_stat("cpu.stat", "usage_usec")
            .filter(|_| self.is_on_v2("cpu"))
            .map(Duration::from_micros)
            .or_else(|| self.read_number("cpuacct", "cpuacct.usage").map(Duration::from_nanos));
        let (memory_bytes, cache) = if self.is_on_v2("memory") {
            (self.read_v2_number("memory.current"), self.read_stat("memory.stat", "file"))
        } else {
            (
                self.read_number("memory", "memory.usage_in_bytes"),
                self.read_v1_stat("memory", "memory.stat", "total_cache"),
            )
        };
        Usage {
            cpu: cpu.unwrap_or_default(),
            memory_bytes: memory_bytes.unwrap_or_default(),
            cache_bytes: cache.unwrap_or_default(),
        }
    }
}

/// The number after `key` in a flat-keyed file.
pub(super) fn keyed(text: &str, key: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(' ')?.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use super::keyed;

    #[test]
    fn a_key_is_matched_whole() {
        let text = "total_cache_x 1\ntotal_cache 42\n";
        assert_eq!(keyed(text, "total_cache"), Some(42));
        assert_eq!(keyed(text, "cache"), None);
    }
}
