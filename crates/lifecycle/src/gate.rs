use crate::sync::{Arc, Mutex, Notify};
use crate::{Budget, Expired};

/// Counts who is inside a scope, and lets nobody in once closing has begun.
#[derive(Debug, Clone, Default)]
pub struct Gate {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    left: Notify,
}

#[derive(Debug, Default)]
struct State {
    closed: bool,
    inside: u32,
}

/// Being inside. Dropping it is leaving.
#[derive(Debug)]
#[must_use = "dropping the pass at once guards nothing"]
pub struct Pass {
    shared: Arc<Shared>,
}

/// Nobody is let in any more.
#[derive(Debug, thiserror::Error)]
#[error("gate is closed")]
pub struct GateClosed;

impl Gate {
    /// Goes in. Deciding and counting are one critical section with [`Gate::shut`], so work is
    /// either counted or refused.
    ///
    /// # Errors
    /// [`GateClosed`] from the moment [`Gate::shut`] was called.
    pub fn enter(&self) -> Result<Pass, GateClosed> {
        let mut state = self.shared.state.lock();
        if state.closed {
            return Err(GateClosed);
        }
        state.inside += 1;
        Ok(Pass { shared: Arc::clone(&self.shared) })
    }

    /// Takes effect before it returns; waits for nobody.
    pub fn shut(&self) {
        self.shared.state.lock().closed = true;
    }

    /// How many passes are out.
    #[must_use]
    pub fn inside(&self) -> u32 {
        self.shared.state.lock().inside
    }

    /// Whether it has been shut.
    #[must_use]
    pub fn is_shut(&self) -> bool {
        self.shared.state.lock().closed
    }

    /// Waits until nobody is inside.
    ///
    /// Cancel safety: yes.
    ///
    /// # Errors
    /// [`Expired`] when someone is still inside at the end of `budget`.
    pub async fn wait_empty(&self, budget: Budget) -> Result<(), Expired> {
        budget
            .run("gate", async {
                loop {
                    // Listens from here on, before the count is read: a last leave between the two
                    // is heard.
                    let left = self.shared.left.notified();
                    if self.inside() == 0 {
                        return;
                    }
                    left.await;
                }
            })
            .await
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        let last = {
            let mut state = self.shared.state.lock();
            state.inside -= 1;
            state.inside == 0
        };
        // First out, then told: who is woken finds the gate empty.
        if last {
            self.shared.left.notify_waiters();
        }
    }
}
