//! Named points where a test can make a step fail. Empty in every shipped build (R42).

use std::time::Duration;

use lifecycle::Budget;

/// A failure that a test asked for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("fault injected at {0}")]
pub struct Injected(pub String);

impl From<Injected> for std::io::Error {
    fn from(injected: Injected) -> Self {
        Self::other(injected)
    }
}

/// What happens at an armed point.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The step fails.
    Error,
    /// The step takes all the time it has, and fails.
    Delay,
    /// The step takes so long, but no longer than it has, and fails.
    Late(Duration),
    /// The step panics.
    Panic,
    /// The process is killed, as by `kill -9` at this very point.
    Kill,
}

/// The faults of one node; shared by all its parts, by no other node.
#[derive(Debug, Clone, Default)]
pub struct Faults {
    #[cfg(feature = "fault-injection")]
    armed: std::sync::Arc<parking_lot::Mutex<std::collections::BTreeMap<String, (Fault, u32)>>>,
}

#[cfg(feature = "fault-injection")]
impl Faults {
    /// Makes the next `times` passes of `point` fail.
    pub fn arm(&self, point: &str, fault: Fault, times: u32) {
        self.armed.lock().insert(point.to_owned(), (fault, times));
    }

    /// What `text` says, for a daemon in a process of its own: `POINT=KIND`, or
    /// `POINT=KIND*TIMES`, separated by commas; `KIND` is `error`, `delay`, `delay:MILLISECONDS`,
    /// `panic` or `kill`.
    ///
    /// # Errors
    /// The word that says something else: a test with a fault that is not there proves nothing.
    pub fn from_text(text: &str) -> Result<Self, String> {
        let faults = Self::default();
        for word in text.split(',').filter(|word| !word.is_empty()) {
            let (point, fault, times) = parse(word).ok_or_else(|| word.to_owned())?;
            faults.arm(point, fault, times);
        }
        Ok(faults)
    }

    /// Lets every point pass again.
    pub fn disarm(&self) {
        self.armed.lock().clear();
    }

    /// What is armed and has not fired as often as it should.
    #[must_use]
    pub fn left(&self) -> Vec<String> {
        self.armed.lock().keys().cloned().collect()
    }

    /// Passes `point`.
    ///
    /// Cancel safety: yes; the pass is counted all the same.
    ///
    /// # Errors
    /// [`Injected`] while it is armed.
    ///
    /// # Panics
    /// While it is armed with [`Fault::Panic`].
    #[expect(clippy::panic, reason = "a test asked for it")]
    pub async fn hit(&self, point: &str, budget: Budget) -> Result<(), Injected> {
        let Some(fault) = self.due(point) else { return Ok(()) };
        match fault {
            Fault::Error => {}
            Fault::Delay => tokio::time::sleep(budget.remaining()).await,
            Fault::Late(time) => tokio::time::sleep(time.min(budget.remaining())).await,
            Fault::Panic => panic!("fault injected at {point}"),
            Fault::Kill => kill_self(),
        }
        Err(Injected(point.to_owned()))
    }

    /// As [`Faults::hit`], for a step that blocks. It has no budget, so a delay is a failure.
    ///
    /// # Errors
    /// As [`Faults::hit`].
    ///
    /// # Panics
    /// As [`Faults::hit`].
    #[expect(clippy::panic, reason = "a test asked for it")]
    pub fn pass(&self, point: &str) -> Result<(), Injected> {
        let Some(fault) = self.due(point) else { return Ok(()) };
        match fault {
            Fault::Error | Fault::Delay | Fault::Late(_) => {}
            Fault::Panic => panic!("fault injected at {point}"),
            Fault::Kill => kill_self(),
        }
        Err(Injected(point.to_owned()))
    }

    /// The fault that `point` has now; counts the pass.
    fn due(&self, point: &str) -> Option<Fault> {
        let mut armed = self.armed.lock();
        let (fault, times) = armed.get_mut(point)?;
        let fault = *fault;
        *times = times.saturating_sub(1);
        if *times == 0 {
            armed.remove(point);
        }
        Some(fault)
    }
}

#[cfg(feature = "fault-injection")]
fn kill_self() {
    let own = rustix::process::getpid();
    // Nobody is left to hear of success; without it the step fails at least.
    if let Err(error) = rustix::process::kill_process(own, rustix::process::Signal::KILL) {
        tracing::error!(%error, "could not kill this process");
    }
}

#[cfg(feature = "fault-injection")]
fn parse(word: &str) -> Option<(&str, Fault, u32)> {
    let (point, what) = word.split_once('=')?;
    let (kind, times) = what.split_once('*').unwrap_or((what, "1"));
    let fault = match kind {
        "error" => Fault::Error,
        "delay" => Fault::Delay,
        "panic" => Fault::Panic,
        "kill" => Fault::Kill,
        _ => Fault::Late(Duration::from_millis(kind.strip_prefix("delay:")?.parse().ok()?)),
    };
    Some((point, fault, times.parse().ok()?))
}

#[cfg(not(feature = "fault-injection"))]
impl Faults {
    /// Passes `point`; nothing can be armed in this build.
    ///
    /// # Errors
    /// None.
    #[expect(clippy::unused_async, reason = "same shape with the feature")]
    pub async fn hit(&self, _point: &str, _budget: Budget) -> Result<(), Injected> {
        Ok(())
    }

    /// Passes `point`; nothing can be armed in this build.
    ///
    /// # Errors
    /// None.
    #[expect(
        clippy::unused_self,
        clippy::unnecessary_wraps,
        reason = "same shape with the feature"
    )]
    pub fn pass(&self, _point: &str) -> Result<(), Injected> {
        Ok(())
    }
}

#[cfg(all(test, feature = "fault-injection"))]
mod tests {
    use std::time::Duration;

    use super::{Fault, parse};

    #[test]
    fn faults_are_said_in_words() {
        assert_eq!(parse("a.b=kill"), Some(("a.b", Fault::Kill, 1)));
        assert_eq!(parse("a.b=error*3"), Some(("a.b", Fault::Error, 3)));
        let late = Fault::Late(Duration::from_secs(2));
        assert_eq!(parse("a.b=delay:2000*2"), Some(("a.b", late, 2)));
        let wrong =
            ["a.b", "a.b=", "a.b=fire", "a.b=kill*", "a.b=kill*x", "a.b=delay:", "a.b=delay:x"];
        for wrong in wrong {
            assert_eq!(parse(wrong), None, "{wrong}");
        }
    }
}
