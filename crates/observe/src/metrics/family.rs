use std::collections::BTreeMap;
use std::time::Duration;

use parking_lot::Mutex;

use super::Exposition;

/// Upper bounds of the buckets, in milliseconds: a warm start takes tens, a release that hangs
/// tens of thousands.
const BOUNDS_MS: [u64; 14] = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000, 30_000];

/// How often something has happened, by `LABELS` labels. Values of labels are words of the
/// program, so there are only so many.
#[derive(Debug)]
pub struct Counts<const LABELS: usize> {
    name: &'static str,
    help: &'static str,
    labels: [&'static str; LABELS],
    series: Mutex<BTreeMap<[&'static str; LABELS], u64>>,
}

/// How long something took, by `LABELS` labels.
#[derive(Debug)]
pub struct Durations<const LABELS: usize> {
    name: &'static str,
    help: &'static str,
    labels: [&'static str; LABELS],
    series: Mutex<BTreeMap<[&'static str; LABELS], Distribution>>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Distribution {
    /// Those that took at most the bound of the same place, and longer than the one before.
    within: [u64; BOUNDS_MS.len()],
    count: u64,
    sum: Duration,
}

impl<const LABELS: usize> Counts<LABELS> {
    #[must_use]
    pub const fn new(
        name: &'static str,
        help: &'static str,
        labels: [&'static str; LABELS],
    ) -> Self {
        Self { name, help, labels, series: Mutex::new(BTreeMap::new()) }
    }

    /// One more.
    pub fn count(&self, values: [&'static str; LABELS]) {
        self.add(values, 1);
    }

    /// So many more.
    pub fn add(&self, values: [&'static str; LABELS], more: u64) {
        let mut series = self.series.lock();
        let count = series.entry(values).or_default();
        *count = count.saturating_add(more);
    }

    /// How often it has happened with these labels.
    #[must_use]
    pub fn of(&self, values: [&'static str; LABELS]) -> u64 {
        self.series.lock().get(&values).copied().unwrap_or_default()
    }

    /// Adds the family to `text`.
    pub fn expose(&self, text: &mut Exposition) {
        let series = self.series.lock().clone();
        text.family(self.name, self.help, "counter");
        for (values, count) in series {
            text.whole(self.name, &pairs(self.labels, values), count);
        }
    }
}

impl<const LABELS: usize> Durations<LABELS> {
    #[must_use]
    pub const fn new(
        name: &'static str,
        help: &'static str,
        labels: [&'static str; LABELS],
    ) -> Self {
        Self { name, help, labels, series: Mutex::new(BTreeMap::new()) }
    }

    /// One more, that took `took`.
    pub fn record(&self, values: [&'static str; LABELS], took: Duration) {
        let mut series = self.series.lock();
        let distribution = series.entry(values).or_default();
        let bound = BOUNDS_MS.iter().position(|ms| took <= Duration::from_millis(*ms));
        if let Some(within) = bound.and_then(|at| distribution.within.get_mut(at)) {
            *within += 1;
        }
        distribution.count += 1;
        distribution.sum += took;
    }

    /// Adds the family to `text`.
    pub fn expose(&self, text: &mut Exposition) {
        let series = self.series.lock().clone();
        text.family(self.name, self.help, "histogram");
        let bucket = format!("{}_bucket", self.name);
        for (values, distribution) in series {
            let labels = pairs(self.labels, values);
            let mut so_far = 0;
            for (ms, within) in BOUNDS_MS.iter().zip(distribution.within) {
                so_far += within;
                let bound = Duration::from_millis(*ms).as_secs_f64().to_string();
                let mut labels = labels.clone();
                labels.push(("le", &bound));
                text.whole(&bucket, &labels, so_far);
            }
            let mut all = labels.clone();
            all.push(("le", "+Inf"));
            text.whole(&bucket, &all, distribution.count);
            text.real(&format!("{}_sum", self.name), &labels, distribution.sum.as_secs_f64());
            text.whole(&format!("{}_count", self.name), &labels, distribution.count);
        }
    }
}

fn pairs<const LABELS: usize>(
    names: [&'static str; LABELS],
    values: [&'static str; LABELS],
) -> Vec<(&'static str, &'static str)> {
    names.into_iter().zip(values).collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{Counts, Durations};
    use crate::metrics::Exposition;

    #[test]
    fn counts_are_kept_apart_by_their_labels() {
        static TRIES: Counts<1> = Counts::new("tries_total", "Tries.", ["result"]);
        TRIES.count(["ok"]);
        TRIES.count(["ok"]);
        TRIES.add(["failed"], 1);
        assert_eq!((TRIES.of(["ok"]), TRIES.of(["never"])), (2, 0));
        let mut text = Exposition::default();
        TRIES.expose(&mut text);
        assert_eq!(
            text.into_text(),
            "# HELP tries_total Tries.\n# TYPE tries_total counter\n\
             tries_total{result=\"failed\"} 1\ntries_total{result=\"ok\"} 2\n"
        );
    }

    #[test]
    fn buckets_add_up_and_the_last_has_all() {
        static STEPS: Durations<1> = Durations::new("step_seconds", "Steps.", ["step"]);
        for ms in [1, 3, 40_000] {
            STEPS.record(["kill"], Duration::from_millis(ms));
        }
        let mut text = Exposition::default();
        STEPS.expose(&mut text);
        let text = text.into_text();
        for line in [
            "step_seconds_bucket{step=\"kill\",le=\"0.001\"} 1",
            "step_seconds_bucket{step=\"kill\",le=\"0.002\"} 1",
            "step_seconds_bucket{step=\"kill\",le=\"0.005\"} 2",
            "step_seconds_bucket{step=\"kill\",le=\"30\"} 2",
            "step_seconds_bucket{step=\"kill\",le=\"+Inf\"} 3",
            "step_seconds_sum{step=\"kill\"} 40.004",
            "step_seconds_count{step=\"kill\"} 3",
        ] {
            assert!(text.lines().any(|l| l == line), "{line:?} in\n{text}");
        }
    }
}
