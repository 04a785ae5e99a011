//! Named points where a test can make a step fail. Empty in every shipped build (R42).

use lifecycle::Budget;

/// A failure that a test asked for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("fault injected at {0}")]
pub struct Injected(pub String);

/// What happens at an armed point.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The step fails.
    Error,
    /// The step takes all the time it has, and fails.
    Delay,
    /// The step panics.
    Panic,
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
        let fault = {
            let mut armed = self.armed.lock();
            let Some((fault, times)) = armed.get_mut(point) else { return Ok(()) };
            let fault = *fault;
            *times = times.saturating_sub(1);
            if *times == 0 {
                armed.remove(point);
            }
            fault
        };
        match fault {
            Fault::Error => {}
            Fault::Delay => tokio::time::sleep(budget.remaining()).await,
            Fault::Panic => panic!("fault injected at {point}"),
        }
        Err(Injected(point.to_owned()))
    }
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
}
