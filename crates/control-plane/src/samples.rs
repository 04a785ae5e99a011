mod collect;

pub(crate) use collect::collect;

use std::time::Duration;

use e2b_wire::{SandboxMetric, Timestamp};
use node_wire::Sample;

use crate::http::ApiError;

const MINUTE: u64 = 60;
const HOUR: u64 = 60 * MINUTE;

/// The span of time samples are asked for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Span {
    /// Seconds since 1970; open when `None`.
    pub(crate) start: Option<i64>,
    pub(crate) end: Option<i64>,
}

impl Span {
    /// # Errors
    /// 400 when it ends before it starts.
    pub(crate) fn new(start: Option<i64>, end: Option<i64>) -> Result<Self, ApiError> {
        match (start, end) {
            (Some(start), Some(end)) if start > end => {
                Err(ApiError::validation("start must not be after end"))
            }
            (start, end) => Ok(Self { start, end }),
        }
    }

    /// The samples inside, thinned to the last of each bucket of time.
    pub(crate) fn pick(self, samples: &[Sample]) -> Vec<SandboxMetric> {
        let inside: Vec<SandboxMetric> =
            samples.iter().map(metric).filter(|metric| self.has(metric.timestamp_unix)).collect();
        let (Some(first), Some(last)) = (inside.first(), inside.last()) else { return inside };
        let from = self.start.unwrap_or(first.timestamp_unix);
        let to = self.end.unwrap_or(last.timestamp_unix);
        let step = bucket(Duration::from_secs(u64::try_from(to.saturating_sub(from)).unwrap_or(0)));
        let mut picked: Vec<SandboxMetric> = Vec::new();
        for metric in inside {
            let same = |before: &SandboxMetric| {
                before.timestamp_unix.div_euclid(step) == metric.timestamp_unix.div_euclid(step)
            };
            match picked.last_mut() {
                Some(before) if same(before) => *before = metric,
                Some(_) | None => picked.push(metric),
            }
        }
        picked
    }

    fn has(self, second: i64) -> bool {
        self.start.is_none_or(|start| start <= second) && self.end.is_none_or(|end| second <= end)
    }
}

/// Seconds per bucket, as E2B has them for a span of this length.
pub(crate) fn bucket(span: Duration) -> i64 {
    match span.as_secs() {
        seconds if seconds < HOUR => 5,
        seconds if seconds < 6 * HOUR => 30,
        seconds if seconds < 12 * HOUR => 60,
        seconds if seconds < 24 * HOUR => 120,
        seconds if seconds < 7 * 24 * HOUR => 300,
        _ => 900,
    }
}

/// A sample as the wire has it.
pub(crate) fn metric(sample: &Sample) -> SandboxMetric {
    let timestamp = Timestamp::from(sample.at);
    SandboxMetric {
        timestamp,
        timestamp_unix: timestamp.seconds(),
        cpu_count: sample.cpu_count,
        cpu_used_pct: sample.cpu_used_pct,
        mem_used: sample.mem_used_bytes,
        mem_total: sample.mem_total_bytes,
        mem_cache: sample.mem_cache_bytes,
        disk_used: sample.disk_used_bytes,
        disk_total: sample.disk_total_bytes,
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::time::{Duration, SystemTime};

    use node_wire::Sample;

    use super::Span;

    /// A sample of that second; all samples are alike otherwise.
    pub(crate) fn at(second: u64) -> Sample {
        Sample {
            at: SystemTime::UNIX_EPOCH + Duration::from_secs(second),
            cpu_count: 2,
            cpu_used_pct: 1.5,
            mem_total_bytes: 4,
            mem_used_bytes: 3,
            mem_cache_bytes: 2,
            disk_total_bytes: 9,
            disk_used_bytes: 8,
        }
    }

    fn seconds(span: Span, samples: &[Sample]) -> Vec<i64> {
        span.pick(samples).into_iter().map(|metric| metric.timestamp_unix).collect()
    }

    #[test]
    fn short_spans_keep_one_sample_in_five_seconds() {
        let samples: Vec<Sample> = (100..112).map(at).collect();
        assert_eq!(seconds(Span::new(None, None).unwrap(), &samples), [104, 109, 111]);
        assert_eq!(seconds(Span::new(Some(103), Some(106)).unwrap(), &samples), [104, 106]);
        assert_eq!(seconds(Span::new(Some(200), None).unwrap(), &samples), [0_i64; 0]);
    }

    #[test]
    fn longer_spans_are_thinned_more() {
        for (hours, step) in [(1, 30), (6, 60), (12, 120), (24, 300), (24 * 7, 900)] {
            let samples: Vec<Sample> = (0..=hours * 3600).step_by(5).map(at).collect();
            let picked = seconds(Span::new(None, None).unwrap(), &samples);
            assert_eq!(picked.get(1).unwrap() - picked.first().unwrap(), step, "{hours} h");
        }
    }

    #[test]
    fn a_span_that_ends_before_it_starts_is_refused() {
        assert_eq!(Span::new(Some(2), Some(1)).unwrap_err().parts().0, 400);
    }
}
