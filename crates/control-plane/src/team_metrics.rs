//! How many sandboxes a team had over time, out of the records of its sandboxes.

use std::time::Duration;

use e2b_wire::{MaxTeamMetric, TeamMetric, Timestamp};

use crate::app::now;
use crate::http::ApiError;
use crate::samples::bucket;

/// From when to when a team's past is asked about. Seconds since 1970.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Window {
    pub(crate) start: i64,
    pub(crate) end: i64,
}

/// When the sandboxes of a team came and went. Seconds since 1970.
#[derive(Debug)]
pub(crate) struct Activity {
    /// Sorted.
    starts: Vec<i64>,
    /// Sorted.
    ends: Vec<i64>,
}

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Measure {
    Concurrent,
    StartRate,
}

impl Measure {
    pub(crate) fn parse(text: &str) -> Option<Self> {
        match text {
            "concurrent_sandboxes" => Some(Self::Concurrent),
            "sandbox_start_rate" => Some(Self::StartRate),
            _ => None,
        }
    }
}

impl Window {
    /// Never more than what records are kept of; the last of it when nothing is said.
    ///
    /// # Errors
    /// 400 when it ends before it starts.
    pub(crate) fn new(
        start: Option<i64>,
        end: Option<i64>,
        kept: Duration,
    ) -> Result<Self, ApiError> {
        let now = now().seconds();
        let kept = i64::try_from(kept.as_secs()).unwrap_or(i64::MAX);
        let oldest = now.saturating_sub(kept);
        if let (Some(start), Some(end)) = (start, end)
            && start > end
        {
            return Err(ApiError::validation("start must not be after end"));
        }
        let end = end.unwrap_or(now).clamp(oldest, now);
        let start = start.unwrap_or(oldest).clamp(oldest, end);
        Ok(Self { start, end })
    }

    fn step(self) -> i64 {
        let length = u64::try_from(self.end.saturating_sub(self.start)).unwrap_or(0);
        bucket(Duration::from_secs(length))
    }
}

impl Activity {
    /// Out of pairs of a start and, of one that is over, an end.
    pub(crate) fn new(runs: Vec<(i64, Option<i64>)>) -> Self {
        let (mut starts, mut ends) = (Vec::with_capacity(runs.len()), Vec::new());
        for (start, end) in runs {
            starts.push(start);
            ends.extend(end);
        }
        starts.sort_unstable();
        ends.sort_unstable();
        Self { starts, ends }
    }

    /// One point for each bucket of time.
    pub(crate) fn points(&self, window: Window) -> Vec<TeamMetric> {
        let step = window.step();
        let mut points = Vec::new();
        let mut from = window.start.div_euclid(step).saturating_mul(step);
        while from <= window.end {
            let to = from.saturating_add(step);
            let Ok(timestamp) = Timestamp::from_micros(from.saturating_mul(1_000_000)) else {
                break;
            };
            let started = before(&self.starts, to).saturating_sub(before(&self.starts, from));
            points.push(TeamMetric {
                timestamp,
                timestamp_unix: from,
                concurrent_sandboxes: u32::try_from(self.most_within(from, to)).unwrap_or(u32::MAX),
                sandbox_start_rate: ratio(started, step),
            });
            from = to;
        }
        points
    }

    /// The first of the points with the most; one of the beginning when there is nothing.
    pub(crate) fn most(&self, window: Window, measure: Measure) -> MaxTeamMetric {
        let value = |point: &TeamMetric| match measure {
            Measure::Concurrent => f64::from(point.concurrent_sandboxes),
            Measure::StartRate => point.sandbox_start_rate,
        };
        let points = self.points(window);
        let most = points.iter().reduce(|a, b| if value(b) > value(a) { b } else { a });
        let start = window.start.saturating_mul(1_000_000);
        MaxTeamMetric {
            timestamp: most
                .map(|point| point.timestamp)
                .or_else(|| Timestamp::from_micros(start).ok())
                .unwrap_or_else(now),
            timestamp_unix: most.map_or(window.start, |point| point.timestamp_unix),
            value: most.map_or(0.0, value),
        }
    }

    /// The most sandboxes at one time between the two.
    fn most_within(&self, from: i64, to: i64) -> usize {
        let at = |second: i64| {
            // Whoever ends in a second is there until then.
            let begun = before(&self.starts, second.saturating_add(1));
            begun.saturating_sub(before(&self.ends, second))
        };
        let begun = self.starts.get(before(&self.starts, from)..before(&self.starts, to));
        // It only ever grows at a start.
        begun.unwrap_or_default().iter().map(|start| at(*start)).fold(at(from), usize::max)
    }
}

/// How many are before a time.
fn before(sorted: &[i64], time: i64) -> usize {
    sorted.partition_point(|moment| *moment < time)
}

#[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
fn ratio(count: usize, seconds: i64) -> f64 {
    count as f64 / seconds as f64
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{Activity, Measure, Window};

    #[test]
    fn a_bucket_has_the_most_at_one_time_and_the_starts_per_second() {
        let activity = Activity::new(vec![(100, Some(104)), (101, Some(120)), (103, None)]);
        let window = Window { start: 95, end: 124 };
        let points = activity.points(window);
        let seen: Vec<_> = points
            .iter()
            .map(|p| (p.timestamp_unix, p.concurrent_sandboxes, p.sandbox_start_rate))
            .collect();
        let expected = [
            (95, 0, 0.0),
            (100, 3, 0.6),
            (105, 2, 0.0),
            (110, 2, 0.0),
            (115, 2, 0.0),
            (120, 2, 0.0),
        ];
        assert_eq!(seen, expected);
        let most = activity.most(window, Measure::Concurrent);
        assert_eq!((most.timestamp_unix, most.value), (100, 3.0));
        assert_eq!(activity.most(window, Measure::StartRate).value, 0.6);
    }

    #[test]
    fn a_team_that_did_nothing_has_zeros() {
        let window = Window { start: 100, end: 104 };
        assert_eq!(Activity::new(Vec::new()).points(window).len(), 1);
        assert_eq!(Activity::new(Vec::new()).most(window, Measure::Concurrent).value, 0.0);
    }

    #[test]
    fn a_window_is_within_what_is_kept() {
        let kept = Duration::from_secs(1000);
        let all = Window::new(None, None, kept).unwrap();
        assert_eq!(all.end - all.start, 1000);
        let wide = Window::new(Some(i64::MIN), Some(i64::MAX), kept).unwrap();
        assert!(wide.end - wide.start <= 1000);
        let past = Window::new(Some(1), Some(2), kept).unwrap();
        assert_eq!(past.start, past.end);
        assert_eq!(Window::new(Some(2), Some(1), kept).unwrap_err().parts().0, 400);
    }
}
