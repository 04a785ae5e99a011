use std::io;
use std::time::Duration;

use rustix::io::Errno;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::Accepted;

const FIRST_PAUSE: Duration = Duration::from_millis(5);
const MAX_PAUSE: Duration = Duration::from_secs(1);

/// A listener that outlives the errors of `accept`.
#[derive(Debug)]
pub(super) struct Acceptor {
    listener: TcpListener,
    /// Failures since the last connection.
    failures: u32,
}

impl Acceptor {
    pub(super) fn new(listener: TcpListener) -> Self {
        Self { listener, failures: 0 }
    }

    /// The next connection; `None` when `stop` is cancelled.
    pub(super) async fn next(&mut self, stop: &CancellationToken) -> Option<Accepted> {
        loop {
            let accepted = tokio::select! {
                biased;
                () = stop.cancelled() => return None,
                accepted = self.listener.accept() => accepted,
            };
            match accepted {
                Ok(accepted) => {
                    if self.failures > 0 {
                        info!(failures = self.failures, "connections are accepted again");
                        self.failures = 0;
                    }
                    return Some(accepted);
                }
                Err(error) if is_of_one_connection(&error) => {}
                Err(error) => {
                    if self.failures == 0 {
                        warn!(error = %observe::chain(&error), "connections are not accepted");
                    }
                    // Out of file descriptors, usually: the connection stays in the queue, so
                    // trying again at once would spin.
                    let pause = FIRST_PAUSE.saturating_mul(1 << self.failures.min(16));
                    self.failures = self.failures.saturating_add(1);
                    tokio::select! {
                        biased;
                        () = stop.cancelled() => return None,
                        () = tokio::time::sleep(pause.min(MAX_PAUSE)) => {}
                    }
                }
            }
        }
    }
}

/// Whether the error took its connection along, so that the next try sees another one. Linux hands
/// on what is pending on the new socket (accept(2)).
fn is_of_one_connection(error: &io::Error) -> bool {
    matches!(
        Errno::from_io_error(error),
        Some(
            Errno::CONNABORTED
                | Errno::CONNRESET
                | Errno::INTR
                | Errno::NETDOWN
                | Errno::PROTO
                | Errno::NOPROTOOPT
                | Errno::HOSTDOWN
                | Errno::NONET
                | Errno::HOSTUNREACH
                | Errno::OPNOTSUPP
                | Errno::NETUNREACH
        )
    )
}
