use anyhow::Context;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// One of [`Signals`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Which {
    Interrupt,
    Terminate,
    Hangup,
}

/// The signals that ask a program to stop.
#[derive(Debug)]
pub(crate) struct Signals {
    interrupt: Signal,
    terminate: Signal,
    /// Its terminal is gone. `None` where whoever started the program had it ignore that.
    hangup: Option<Signal>,
}

impl Signals {
    /// From now on they do not end the process by themselves.
    ///
    /// # Errors
    /// The system refuses handlers.
    pub(crate) fn listen() -> anyhow::Result<Self> {
        let handle = |kind| signal(kind).context("handle signals");
        let status = std::fs::read_to_string("/proc/self/status").context("see what is ignored")?;
        let hangup = (!ignores_hangup(&status)).then(|| handle(SignalKind::hangup()));
        Ok(Self {
            interrupt: handle(SignalKind::interrupt())?,
            terminate: handle(SignalKind::terminate())?,
            hangup: hangup.transpose()?,
        })
    }

    /// The next one. One that came since the last call counts.
    ///
    /// Cancel safety: yes.
    pub(crate) async fn next(&mut self) {
        self.which().await;
    }

    /// The same, and which one it is.
    ///
    /// Cancel safety: yes.
    pub(crate) async fn which(&mut self) -> Which {
        let hangup = async {
            match &mut self.hangup {
                Some(hangup) => hangup.recv().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = self.interrupt.recv() => Which::Interrupt,
            _ = self.terminate.recv() => Which::Terminate,
            _ = hangup => Which::Hangup,
        }
    }
}

/// Whether SIGHUP, number 1, is ignored, as `nohup` does it: a handler would undo that. `status` is
/// the text of proc(5).
fn ignores_hangup(status: &str) -> bool {
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .is_some_and(|mask| mask & 1 != 0)
}

#[cfg(test)]
mod tests {
    use super::ignores_hangup;

    #[test]
    fn the_first_bit_of_the_ignored_signals_is_the_hangup() {
        for (status, ignored) in [
            ("Name:\tx\nSigIgn:\t0000000000001001\n", true),
            ("SigIgn:\t0000000000001000\nSigCgt:\t0000000000000001\n", false),
            ("Name:\tx\n", false),
        ] {
            assert_eq!(ignores_hangup(status), ignored, "{status}");
        }
    }
}
