//! Whether rounds of teardowns may run: always, except while the closers do.

use lifecycle::{Budget, Expired};
use tokio::sync::watch;

#[derive(Debug)]
pub(crate) struct Rounds {
    state: watch::Sender<State>,
}

#[derive(Debug, Clone, Copy)]
struct State {
    mode: Mode,
    running: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    Open,
    /// None begins; those under way go on.
    Held,
    /// Those under way end where they are.
    Cut,
}

impl Default for Rounds {
    fn default() -> Self {
        Self { state: watch::Sender::new(State { mode: Mode::Open, running: 0 }) }
    }
}

/// A round that is under way. Dropping it is its end.
#[derive(Debug)]
#[must_use = "dropping it at once keeps nobody waiting"]
pub(crate) struct Running<'a>(&'a Rounds);

impl Rounds {
    /// Waits until a round may run, and counts it.
    ///
    /// Cancel safety: yes.
    pub(crate) async fn begin(&self) -> Running<'_> {
        let mut state = self.state.subscribe();
        loop {
            let begun = self.state.send_if_modified(|state| {
                let open = state.mode == Mode::Open;
                state.running += u32::from(open);
                open
            });
            if begun {
                return Running(self);
            }
            // The sender is in `self`: it cannot be gone.
            drop(state.wait_for(|state| state.mode == Mode::Open).await);
        }
    }

    /// Lets no round begin any more, waits for those under way, and cuts off those that do not end.
    ///
    /// Cancel safety: yes; it stays in force.
    ///
    /// # Errors
    /// [`Expired`] when rounds had to be cut off.
    pub(crate) async fn hold(&self, budget: Budget) -> Result<(), Expired> {
        self.set(Mode::Held);
        let mut state = self.state.subscribe();
        let ended = budget.keeping(budget.remaining() / 4);
        let ended = ended.run("rounds", state.wait_for(|state| state.running == 0)).await.map(drop);
        if ended.is_err() {
            self.set(Mode::Cut);
            drop(budget.run("rounds", state.wait_for(|state| state.running == 0)).await);
        }
        ended
    }

    /// Lets rounds run again.
    pub(crate) fn resume(&self) {
        self.set(Mode::Open);
    }

    /// Waits until rounds have to end where they are.
    ///
    /// Cancel safety: yes.
    pub(crate) async fn cut(&self) {
        drop(self.state.subscribe().wait_for(|state| state.mode == Mode::Cut).await);
    }

    fn set(&self, mode: Mode) {
        self.state.send_modify(|state| state.mode = mode);
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.state.send_modify(|state| state.running -= 1);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use futures::FutureExt;
    use lifecycle::Budget;

    use super::Rounds;

    #[tokio::test(start_paused = true)]
    async fn none_begins_while_they_are_held_and_the_last_is_waited_for() {
        let rounds = Rounds::default();
        let first = rounds.begin().await;
        let budget = Budget::within(Duration::from_secs(4));
        let hold = rounds.hold(budget);
        let during = async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            assert!(rounds.begin().now_or_never().is_none(), "one began");
            assert!(rounds.cut().now_or_never().is_none(), "there is time left");
            drop(first);
        };
        let (held, ()) = tokio::join!(hold, during);
        held.unwrap();
        assert!(budget.remaining() > Duration::from_millis(2900), "it went on at once");
        assert!(rounds.begin().now_or_never().is_none(), "one began");
        rounds.resume();
        drop(rounds.begin().now_or_never().unwrap());
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_does_not_end_is_cut_off() {
        let rounds = Rounds::default();
        let running = rounds.begin().await;
        let endless = async {
            rounds.cut().await;
            drop(running);
        };
        let (held, ()) = tokio::join!(rounds.hold(Budget::within(Duration::from_secs(4))), endless);
        held.unwrap_err();
    }
}
