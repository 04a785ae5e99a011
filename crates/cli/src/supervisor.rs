//! Telling the service manager that started this program how it gets on: the datagrams of
//! sd_notify(3), which systemd, container runtimes and others read.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixDatagram;
use std::time::Duration;

use rustix::net::{SendFlags, SocketAddrUnix, sendto};
use rustix::time::{ClockId, clock_gettime};

use crate::sockets::{Sockets, store};

const SOCKET: &str = "NOTIFY_SOCKET";
const WATCHDOG_USEC: &str = "WATCHDOG_USEC";
const WATCHDOG_PID: &str = "WATCHDOG_PID";

/// What systemd, Nomad and Kubernetes set for the programs they start.
const MANAGERS: [&str; 3] = ["INVOCATION_ID", "NOMAD_ALLOC_ID", "KUBERNETES_SERVICE_HOST"];

/// How often it is told that starting or stopping goes on.
const TICK: Duration = Duration::from_secs(5);
/// How much longer than now a start or a stop may take, said with every tick. Several ticks may
/// be late before the manager takes the program for hung.
const EXTENSION: Duration = Duration::from_secs(60);

/// The service manager, if there is one that listens.
#[derive(Debug)]
pub(crate) struct Supervisor {
    socket: Option<(UnixDatagram, SocketAddrUnix)>,
    watchdog: Option<Duration>,
    /// Whether a service manager, listening or not, has started this program.
    managed: bool,
    last_status: String,
}

/// What the program is doing, as far as a manager's clocks are concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stage {
    Starting,
    Serving,
    Stopping,
}

impl Supervisor {
    /// The manager that the environment names. One that cannot be reached is none: a program that
    /// serves does not fail because nobody asks how it is.
    pub(crate) fn from_env(env: &[(OsString, OsString)]) -> Self {
        let value = |name: &str| env.iter().find(|(key, _)| key == name).map(|(_, value)| value);
        let number = |name: &str| value(name)?.to_str()?.parse::<u64>().ok();
        let socket = value(SOCKET).and_then(|name| match connect(name) {
            Ok(socket) => Some(socket),
            Err(error) => {
                tracing::warn!(error = %observe::chain(&error), "the service manager is not told");
                None
            }
        });
        // Inherited from a parent whom it was meant for?
        let ours = number(WATCHDOG_PID).is_none_or(|pid| pid == u64::from(std::process::id()));
        let watchdog = number(WATCHDOG_USEC).filter(|us| *us > 0 && ours && socket.is_some());
        let managed = socket.is_some() || MANAGERS.iter().any(|name| value(name).is_some());
        let watchdog = watchdog.map(Duration::from_micros);
        Self { socket, watchdog, managed, last_status: String::new() }
    }

    /// Whether a service manager has started this program; else a person or a script has.
    pub(crate) fn is_there(&self) -> bool {
        self.managed
    }

    /// The pause between two calls of [`Supervisor::tick`]: a watchdog wants at least two in its
    /// time.
    pub(crate) fn pause(&self) -> Duration {
        self.watchdog.map_or(TICK, |limit| TICK.min(limit / 3)).max(Duration::from_millis(10))
    }

    /// Has the manager keep `sockets` until the next start, if it can. Told before it is ready, so
    /// that a service that is killed at once loses none.
    pub(crate) fn keep(&self, sockets: &Sockets) {
        let Some((socket, address)) = &self.socket else { return };
        if let Err(error) = store::keep(sockets, socket.as_fd(), address) {
            tracing::debug!(%error, "the service manager does not keep the sockets");
        }
    }

    /// It serves.
    pub(crate) fn ready(&mut self, status: &str) {
        self.send(&format!("READY=1\nSTATUS={}", one_line(status)));
        status.clone_into(&mut self.last_status);
    }

    /// It has begun to stop.
    pub(crate) fn stopping(&mut self, status: &str) {
        let extension = EXTENSION.as_micros();
        let status_line = one_line(status);
        self.send(&format!("STOPPING=1\nSTATUS={status_line}\nEXTEND_TIMEOUT_USEC={extension}"));
        status.clone_into(&mut self.last_status);
    }

    /// Another program is about to take the place of this one in its process, and says when it is
    /// ready. That is no stop, whose end a manager would wait for (sd_notify(3), `RELOADING=1`).
    pub(crate) fn replacing(&mut self, status: &str) {
        let now = clock_gettime(ClockId::Monotonic);
        let us = i128::from(now.tv_sec) * 1_000_000 + i128::from(now.tv_nsec) / 1000;
        self.send(&format!("RELOADING=1\nMONOTONIC_USEC={us}\nSTATUS={}", one_line(status)));
        status.clone_into(&mut self.last_status);
    }

    /// It is alive in `stage`. Called every [`Supervisor::pause`] by who would hang if it hung.
    pub(crate) fn tick(&mut self, stage: Stage, status: &str) {
        if self.socket.is_none() {
            return;
        }
        let mut lines = Vec::new();
        if self.watchdog.is_some() {
            lines.push("WATCHDOG=1".to_owned());
        }
        // Once started, only the watchdog has a clock.
        if stage != Stage::Serving {
            lines.push(format!("EXTEND_TIMEOUT_USEC={}", EXTENSION.as_micros()));
        }
        if status != self.last_status {
            lines.push(format!("STATUS={}", one_line(status)));
            status.clone_into(&mut self.last_status);
        }
        if !lines.is_empty() {
            self.send(&lines.join("\n"));
        }
    }

    fn send(&self, lines: &str) {
        let Some((socket, address)) = &self.socket else { return };
        if let Err(error) = sendto(socket, lines.as_bytes(), SendFlags::NOSIGNAL, address) {
            tracing::debug!(%error, "the service manager does not listen");
        }
    }
}

/// A line end would begin another message.
fn one_line(status: &str) -> String {
    status.replace('\n', " ")
}

/// A socket that sends to `name`: a path, or `@` and an abstract name. It never blocks: a manager
/// that does not read must not stop this program.
fn connect(name: &OsStr) -> io::Result<(UnixDatagram, SocketAddrUnix)> {
    let address = match name.as_bytes() {
        [b'@', rest @ ..] => SocketAddrUnix::new_abstract_name(rest)?,
        [b'/', ..] => SocketAddrUnix::new(name)?,
        _ => return Err(io::Error::other(format!("{SOCKET} is neither a path nor abstract"))),
    };
    let socket = UnixDatagram::unbound()?;
    socket.set_nonblocking(true)?;
    Ok((socket, address))
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;
    use std::os::linux::net::SocketAddrExt;
    use std::os::unix::net::{SocketAddr, UnixDatagram};
    use std::time::Duration;

    use super::{Stage, Supervisor};

    fn env(pairs: &[(&str, &str)]) -> Vec<(OsString, OsString)> {
        pairs.iter().map(|(name, value)| (name.into(), value.into())).collect()
    }

    fn received(socket: &UnixDatagram) -> String {
        let mut buffer = [0; 1024];
        let length = socket.recv(&mut buffer).unwrap();
        String::from_utf8_lossy(buffer.get(..length).unwrap()).into_owned()
    }

    #[test]
    fn a_manager_is_reached_by_path_and_by_abstract_name() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let name = format!("cofferdam-test-{}", std::process::id());
        let abstract_name = SocketAddr::from_abstract_name(&name).unwrap();
        let rows = [
            (UnixDatagram::bind(&path).unwrap(), path.to_str().unwrap().to_owned()),
            (UnixDatagram::bind_addr(&abstract_name).unwrap(), format!("@{name}")),
        ];
        for (socket, address) in rows {
            let mut supervisor = Supervisor::from_env(&env(&[("NOTIFY_SOCKET", &address)]));
            supervisor.ready("serving\non two lines");
            assert_eq!(received(&socket), "READY=1\nSTATUS=serving on two lines");
            supervisor.stopping("draining");
            assert_eq!(
                received(&socket),
                "STOPPING=1\nSTATUS=draining\nEXTEND_TIMEOUT_USEC=60000000"
            );
        }
    }

    #[test]
    fn only_starting_and_stopping_ask_for_time_and_a_status_is_told_once() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        let path = path.to_str().unwrap();
        let own = std::process::id().to_string();
        let with =
            env(&[("NOTIFY_SOCKET", path), ("WATCHDOG_USEC", "6000000"), ("WATCHDOG_PID", &own)]);
        let mut supervisor = Supervisor::from_env(&with);
        assert_eq!(supervisor.pause(), Duration::from_secs(2), "three in the watchdog's time");
        supervisor.tick(Stage::Starting, "a");
        assert_eq!(received(&socket), "WATCHDOG=1\nEXTEND_TIMEOUT_USEC=60000000\nSTATUS=a");
        supervisor.tick(Stage::Serving, "a");
        assert_eq!(received(&socket), "WATCHDOG=1");
        supervisor.tick(Stage::Stopping, "b");
        assert_eq!(received(&socket), "WATCHDOG=1\nEXTEND_TIMEOUT_USEC=60000000\nSTATUS=b");

        // A watchdog that is another process's wants nothing of this one.
        let others =
            env(&[("NOTIFY_SOCKET", path), ("WATCHDOG_USEC", "6000000"), ("WATCHDOG_PID", "1")]);
        let mut supervisor = Supervisor::from_env(&others);
        supervisor.tick(Stage::Serving, "c");
        assert_eq!(received(&socket), "STATUS=c");
    }

    #[test]
    fn a_manager_that_is_not_there_or_does_not_read_stops_nobody() {
        for name in ["/nonexistent/notify", "@cofferdam-nobody", "vsock:2:3", ""] {
            let mut supervisor = Supervisor::from_env(&env(&[("NOTIFY_SOCKET", name)]));
            supervisor.ready("serving");
        }
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let _deaf = UnixDatagram::bind(&path).unwrap();
        let mut supervisor =
            Supervisor::from_env(&env(&[("NOTIFY_SOCKET", path.to_str().unwrap())]));
        for round in 0..10_000 {
            supervisor.tick(Stage::Stopping, &round.to_string());
        }
        assert!(!Supervisor::from_env(&[]).is_there());
    }
}
