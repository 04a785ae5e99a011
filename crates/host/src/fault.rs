//! Named points where a test can make a step fail. Empty in every shipped build (R42).

/// A failure that a test asked for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("fault injected at {0}")]
pub struct Injected(pub String);

/// The faults of one node; shared by all its parts, by no other node.
#[derive(Debug, Clone, Default)]
pub struct Faults {
    #[cfg(feature = "fault-injection")]
    armed: std::sync::Arc<parking_lot::Mutex<std::collections::BTreeMap<String, u32>>>,
}

#[cfg(feature = "fault-injection")]
impl Faults {
    /// Makes the next `times` passes of `point` fail.
    pub fn arm(&self, point: &str, times: u32) {
        self.armed.lock().insert(point.to_owned(), times);
    }

    /// What is armed and has not fired as often as it should.
    #[must_use]
    pub fn left(&self) -> Vec<String> {
        self.armed.lock().keys().cloned().collect()
    }

    /// Passes `point`.
    ///
    /// # Errors
    /// [`Injected`] while it is armed.
    pub fn hit(&self, point: &str) -> Result<(), Injected> {
        let mut armed = self.armed.lock();
        let Some(times) = armed.get_mut(point) else { return Ok(()) };
        *times = times.saturating_sub(1);
        if *times == 0 {
            armed.remove(point);
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
    #[expect(clippy::unused_self, reason = "same shape with and without the feature")]
    pub const fn hit(&self, _point: &str) -> Result<(), Injected> {
        Ok(())
    }
}
