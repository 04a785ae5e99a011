use std::time::Duration;

/// The times of one series.
#[derive(Debug, Default)]
pub(crate) struct Series {
    samples: Vec<Duration>,
}

impl Series {
    pub(crate) fn push(&mut self, sample: Duration) {
        self.samples.push(sample);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.samples.is_empty()
    }

    pub(crate) fn len(&self) -> usize {
        self.samples.len()
    }

    /// Milliseconds below which `percent` of the samples are.
    pub(crate) fn percentile(&self, percent: usize) -> f64 {
        let mut sorted = self.samples.clone();
        sorted.sort();
        let at = sorted.len().saturating_sub(1) * percent / 100;
        sorted.get(at).map_or(0.0, Duration::as_secs_f64) * 1000.0
    }

    pub(crate) fn p50(&self) -> f64 {
        self.percentile(50)
    }

    pub(crate) fn summary(&self) -> String {
        format!(
            "p10 {:.1}  p50 {:.1}  p95 {:.1} ms (n={})",
            self.percentile(10),
            self.p50(),
            self.percentile(95),
            self.samples.len()
        )
    }
}

/// One line of the report: a promise, what was measured, and whether it is kept.
pub(crate) fn line(what: &str, measured: &str, target: &str, kept: bool) {
    let verdict = if kept { "ok" } else { "MISSED" };
    println!("{what:<46} {measured:<44} {target:<26} {verdict}");
}

/// One line of the report that promises nothing.
pub(crate) fn told(what: &str, measured: &str) {
    println!("{what:<46} {measured}");
}
