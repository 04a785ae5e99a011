//! Counting: the results of every runner, added up from what it prints.

use crate::failure::Result;

/// What passed, what failed and what was skipped, so far.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    passed: usize,
    failures: Vec<String>,
    skipped: Vec<String>,
    /// Whose output `cargo test` is showing.
    speaker: Option<String>,
    /// Tests that `cargo test` is about to count as passed, though they did not run.
    skipped_themselves: usize,
}

impl Tally {
    /// Runs one step. A step that cannot do its work counts as one failure; one that can, and
    /// counted nothing itself, as one pass.
    pub(crate) fn step(&mut self, name: &str, run: impl FnOnce(&mut Self) -> Result<()>) {
        let before = self.total();
        match run(self) {
            Ok(()) if self.total() == before => self.passed += 1,
            Ok(()) => {}
            Err(failure) => {
                println!("    {name}: {}", failure.chain());
                self.fail(name);
            }
        }
    }

    pub(crate) fn fail(&mut self, name: impl Into<String>) {
        self.failures.push(name.into());
    }

    pub(crate) fn skip(&mut self, name: impl Into<String>, reason: &str) {
        self.skipped.push(format!("{}: skipped, because {reason}", name.into()));
    }

    pub(crate) fn failed(&self) -> usize {
        self.failures.len()
    }

    pub(crate) fn is_clean(&self) -> bool {
        self.failures.is_empty()
    }

    fn total(&self) -> usize {
        self.passed + self.failures.len() + self.skipped.len()
    }

    /// The reasons, then the counts.
    pub(crate) fn print(&self) {
        for failure in &self.failures {
            println!("failed: {failure}");
        }
        for skipped in &self.skipped {
            println!("{skipped}");
        }
        println!("{}", self.counts());
    }

    fn counts(&self) -> String {
        let (failed, skipped) = (self.failures.len(), self.skipped.len());
        format!("{} passed, {failed} failed, {skipped} skipped", self.passed)
    }

    /// Takes one line of `cargo test -- --show-output`. A test that skips itself prints
    /// `skipped, because ...`; the test runner counts it as passed, we do not.
    pub(crate) fn cargo_line(&mut self, line: &str) {
        if let Some(name) =
            line.strip_prefix("test ").and_then(|rest| rest.strip_suffix(" ... FAILED"))
        {
            self.fail(name);
        } else if let Some(name) = line.strip_prefix("---- ") {
            self.speaker = name.split(' ').next().map(str::to_owned);
        } else if let Some(counts) = line.strip_prefix("test result: ") {
            let counts = counts.split_once(". ").map_or(counts, |(_, counts)| counts);
            let passed = count(counts, ';', "passed");
            self.passed += passed.saturating_sub(self.skipped_themselves);
            self.skipped_themselves = 0;
            self.speaker = None;
        } else if let Some(reason) = line.trim_start().strip_prefix("skipped, because ") {
            let name = self.speaker.clone().unwrap_or_else(|| "a Rust test".to_owned());
            self.skip(name, reason);
            self.skipped_themselves += 1;
        }
    }

    /// Takes one line of `pytest -rfEs --verbosity=0`.
    pub(crate) fn pytest_line(&mut self, suite: &str, line: &str) {
        if let Some(rest) = line.strip_prefix("FAILED ").or_else(|| line.strip_prefix("ERROR ")) {
            let name = rest.split(" - ").next().unwrap_or(rest);
            self.fail(format!("{suite}: {name}"));
        } else if let Some(rest) = line.strip_prefix("SKIPPED [") {
            let (times, rest) = rest.split_once("] ").unwrap_or(("1", rest));
            let (place, reason) = rest.split_once(": ").unwrap_or((rest, "it does not say"));
            for _ in 0..times.parse().unwrap_or(1) {
                self.skip(format!("{suite}: {place}"), without_prefix(reason));
            }
        } else if line.starts_with('=') && line.contains(" in ") {
            let counts = line.trim_matches(['=', ' ']);
            let counts = counts.split_once(" in ").map_or(counts, |(counts, _)| counts);
            self.passed += count(counts, ',', "passed");
        }
    }

    /// Takes one line of `node --test` in the Test Anything Protocol. Some releases of Node.js
    /// report every file as a test of its own around the real ones, which are then indented; a
    /// file that passes is not counted, one that does not even load is a failure.
    pub(crate) fn tap_line(&mut self, suite: &str, line: &str) {
        let line = line.trim_start();
        let (ok, rest) = match (line.strip_prefix("ok "), line.strip_prefix("not ok ")) {
            (Some(rest), _) => (true, rest),
            (_, Some(rest)) => (false, rest),
            _ => return,
        };
        let Some((_, test)) = rest.split_once(" - ") else { return };
        match test.split_once(" # SKIP") {
            Some((name, reason)) => {
                self.skip(format!("{suite}: {name}"), without_prefix(reason.trim()));
            }
            None if ok && test.ends_with(".mjs") => {}
            None if ok => self.passed += 1,
            None => self.fail(format!("{suite}: {test}")),
        }
    }
}

fn without_prefix(reason: &str) -> &str {
    reason.strip_prefix("skipped, because ").unwrap_or(reason)
}

/// The number before `word` in a list such as `3 passed; 0 failed`.
fn count(list: &str, separator: char, word: &str) -> usize {
    list.split(separator)
        .filter_map(|part| part.trim().strip_suffix(word)?.trim().parse::<usize>().ok())
        .sum()
}

#[cfg(test)]
mod tests {
    use super::Tally;
    use crate::failure::Failure;

    #[test]
    fn cargo_tests_are_counted_by_their_result_lines() {
        let mut tally = Tally::default();
        for line in [
            "running 3 tests",
            "test tests::one ... ok",
            "test tests::two ... FAILED",
            "test tests::three ... ok",
            "test result: FAILED. 2 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s",
        ] {
            tally.cargo_line(line);
        }
        assert_eq!(tally.counts(), "2 passed, 1 failed, 0 skipped");
        assert_eq!(tally.failures, ["tests::two"]);
    }

    #[test]
    fn a_rust_test_that_skips_itself_is_not_a_pass() {
        let mut tally = Tally::default();
        for line in [
            "---- cgroup::memory_is_limited stdout ----",
            "skipped, because this host has no memory controller",
            "test result: ok. 4 passed; 0 failed; 0 ignored",
        ] {
            tally.cargo_line(line);
        }
        assert_eq!(tally.counts(), "3 passed, 0 failed, 1 skipped");
        let reason = "skipped, because this host has no memory controller";
        assert_eq!(tally.skipped, [format!("cgroup::memory_is_limited: {reason}")]);
    }

    #[test]
    fn pytest_is_counted_by_its_summary() {
        let mut tally = Tally::default();
        for line in [
            "test_files.py ....s.F",
            "=========================== short test summary info ============================",
            "SKIPPED [2] test_network.py:40: skipped, because the host has no internet",
            "FAILED test_files.py::test_a_file - AssertionError: in 3 passed",
            "============= 1 failed, 5 passed, 2 skipped in 12.30s =============",
        ] {
            tally.pytest_line("python", line);
        }
        assert_eq!(tally.counts(), "5 passed, 1 failed, 2 skipped");
        assert_eq!(tally.failures, ["python: test_files.py::test_a_file"]);
        assert_eq!(
            tally.skipped[0],
            "python: test_network.py:40: skipped, because the host has no internet"
        );
    }

    #[test]
    fn node_tests_are_counted_without_their_files() {
        let mut tally = Tally::default();
        for line in [
            "TAP version 13",
            "    ok 1 - a sandbox starts",
            "    ok 2 - it resolves names # SKIP the host cannot",
            "    not ok 3 - it ends",
            "ok 1 - /somewhere/files.mjs",
            "1..1",
        ] {
            tally.tap_line("js", line);
        }
        assert_eq!(tally.counts(), "1 passed, 1 failed, 1 skipped");
        assert_eq!(tally.skipped, ["js: it resolves names: skipped, because the host cannot"]);
    }

    #[test]
    fn a_step_counts_for_itself_when_nothing_inside_it_does() {
        let mut tally = Tally::default();
        tally.step("lint", |_| Ok(()));
        tally.step("unit", |tally| {
            tally.cargo_line("test result: ok. 4 passed; 0 failed");
            Ok(())
        });
        tally.step("sdk", |_| Err(Failure::new("the service did not start")));
        assert_eq!(tally.counts(), "5 passed, 1 failed, 0 skipped");
        assert!(!tally.is_clean());
    }
}
