//! Handing the service to the next process of the same data directory: its sockets at once, its
//! sandboxes when it lets go of the directory.
//!
//! The service listens on a socket in the directory. The next one connects, gets the sockets in one
//! message, and claims the directory as soon as it is free. From then on the old one only finishes
//! what its clients have under way.

use std::fs;
use std::io::{self, ErrorKind};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream as StdUnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use host::process::Process;
use rustix::net::sockopt::socket_peercred;
use tokio::net::{UnixListener, UnixStream};

use super::{Passed, Sockets, passing};

const FILE: &str = "handover.sock";
/// The form of the message; one that another release cannot read is refused by it.
const VERSION: u32 = 1;
/// How long a service may take to answer.
const ANSWER: Duration = Duration::from_secs(10);
const ROOM: usize = 4096;

/// What goes with the descriptors, in their order.
#[derive(Debug, serde::Serialize, serde::Deserialize)]
struct Message {
    version: u32,
    sockets: Vec<String>,
}

/// The place where the next service can ask. Its file goes with it.
#[derive(Debug)]
pub(crate) struct Offer {
    listener: UnixListener,
    path: PathBuf,
}

/// The next service, which waits for an answer.
#[derive(Debug)]
pub(crate) struct Asked(UnixStream);

impl Offer {
    /// Listens in `data_dir`, which the caller has claimed: a file that is there is one that a
    /// service left which was killed.
    ///
    /// # Errors
    /// The socket cannot be made, as when the directory's path is too long for one.
    pub(crate) fn open(data_dir: &Path) -> anyhow::Result<Self> {
        let path = data_dir.join(FILE);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                return Err(error).with_context(|| format!("remove {}", path.display()));
            }
            _ => {}
        }
        let listener = UnixListener::bind(&path)
            .with_context(|| format!("listen on {} for the next service", path.display()))?;
        let offer = Self { listener, path };
        fs::set_permissions(&offer.path, fs::Permissions::from_mode(0o600))
            .with_context(|| format!("protect {}", offer.path.display()))?;
        Ok(offer)
    }

    /// The next service, once there is one. Who is another user is hung up on.
    ///
    /// Cancel safety: yes.
    pub(crate) async fn asked(&self) -> Asked {
        loop {
            match self.listener.accept().await {
                Ok((stream, _)) if is_ours(&stream) => return Asked(stream),
                Ok(_) => tracing::warn!("another user asked for the service; refused"),
                Err(error) => {
                    tracing::warn!(%error, "nobody can ask for the service just now");
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
            }
        }
    }
}

impl Drop for Offer {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_file(&self.path) {
            tracing::debug!(%error, "the next service removes what is left of this socket");
        }
    }
}

fn is_ours(stream: &UnixStream) -> bool {
    socket_peercred(stream).is_ok_and(|peer| peer.uid == rustix::process::geteuid())
}

impl Asked {
    /// Gives the sockets away; whoever keeps them, too, must not accept from them any more.
    ///
    /// # Errors
    /// The other side has gone: nothing was given then.
    pub(crate) fn give(self, sockets: &Sockets) -> io::Result<()> {
        let (names, fds): (Vec<_>, Vec<_>) = sockets.named().into_iter().unzip();
        let sockets = names.into_iter().map(str::to_owned).collect();
        let message = serde_json::to_vec(&Message { version: VERSION, sockets })?;
        let stream = self.0.into_std()?;
        passing::send(std::os::fd::AsFd::as_fd(&stream), None, &message, &fds)
    }
}

/// What a service has given away, and its process.
#[derive(Debug)]
pub(crate) struct Given {
    pub(crate) passed: Passed,
    pub(crate) by: Process,
}

/// Asks the service of `data_dir` for its sockets. `None` when there is none.
///
/// Blocking, for 10 s at most.
///
/// # Errors
/// There is one and it does not answer, or not in a way this release understands.
pub(crate) fn ask(data_dir: &Path) -> anyhow::Result<Option<Given>> {
    let path = data_dir.join(FILE);
    let stream = match StdUnixStream::connect(&path) {
        Err(error)
            if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::ConnectionRefused) =>
        {
            return Ok(None);
        }
        connected => connected.with_context(|| format!("connect to {}", path.display()))?,
    };
    // Of whoever listens. It is there now: it has not answered yet.
    let peer = socket_peercred(&stream).context("ask which process serves")?.pid;
    let by =
        Process::open(peer.as_raw_nonzero().get()).context("open the old service's process")?;
    stream.set_read_timeout(Some(ANSWER)).context("limit the wait for the old service")?;
    let (bytes, fds) = match passing::receive(&stream, ROOM) {
        // It has gone, or went to another who asked first, and nobody takes who waits in the queue.
        Err(error) if error.kind() == ErrorKind::ConnectionReset => return Ok(None),
        received => {
            received.with_context(|| format!("wait for the service behind {}", path.display()))?
        }
    };
    anyhow::ensure!(
        !bytes.is_empty(),
        "the service that runs does not give its place away: its node drains; wait for its end"
    );
    let unknown = "the service that runs does not hand over in a way this release knows; stop it \
                   first";
    let message: Message = serde_json::from_slice(&bytes).context(unknown)?;
    anyhow::ensure!(message.version == VERSION && message.sockets.len() == fds.len(), unknown);
    Ok(Some(Given { passed: Passed(message.sockets.into_iter().zip(fds).collect()), by }))
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpStream;

    use rustix::event::{PollFd, PollFlags, poll};

    use super::super::{Passed, Sockets};
    use super::{Offer, ask};

    #[tokio::test]
    async fn the_next_service_gets_the_sockets_with_who_waits_in_them() {
        let dir = tempfile::tempdir().unwrap();
        let listen = ([127, 0, 0, 1], 0).into();
        let sockets = Sockets::open(listen, Some(listen), Passed::default()).unwrap();
        let address = sockets.api.local_addr().unwrap();
        let mut client = TcpStream::connect(address).unwrap();
        client.write_all(b"hello").unwrap();

        let offer = Offer::open(dir.path()).unwrap();
        let path = dir.path().to_path_buf();
        let asking = tokio::task::spawn_blocking(move || ask(&path));
        offer.asked().await.give(&sockets).unwrap();
        let passed = asking.await.unwrap().unwrap().unwrap().passed;
        drop((sockets, offer));
        assert!(!dir.path().join(super::FILE).exists());

        let next = Sockets::open(address, None, passed).unwrap();
        next.api.set_nonblocking(false).unwrap();
        let (mut accepted, _) = next.api.accept().unwrap();
        let mut said = [0; 5];
        accepted.read_exact(&mut said).unwrap();
        assert_eq!(&said, b"hello");
    }

    #[tokio::test]
    async fn without_a_service_there_is_nothing_to_hand_over() {
        let dir = tempfile::tempdir().unwrap();
        assert!(ask(dir.path()).unwrap().is_none());
        // One that was killed leaves its file, which nobody listens on and the next one replaces.
        let offer = Offer::open(dir.path()).unwrap();
        let stale = dir.path().join("stale");
        std::fs::hard_link(dir.path().join(super::FILE), &stale).unwrap();
        drop(offer);
        std::fs::rename(&stale, dir.path().join(super::FILE)).unwrap();
        assert!(ask(dir.path()).unwrap().is_none());
        let _offer = Offer::open(dir.path()).unwrap();
    }

    #[tokio::test]
    async fn a_service_that_goes_before_it_answers_is_none() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().to_path_buf();
        let offer = Offer::open(dir.path()).unwrap();
        let asking = std::thread::spawn(move || ask(&path));
        let waits = PollFd::new(&offer.listener, PollFlags::IN);
        assert_eq!(poll(&mut [waits], None).unwrap(), 1, "somebody waits in the queue");
        drop(offer);
        assert!(asking.join().unwrap().unwrap().is_none());
    }

    #[tokio::test]
    async fn an_answer_in_another_form_is_refused_with_advice() {
        let dir = tempfile::tempdir().unwrap();
        let listener =
            std::os::unix::net::UnixListener::bind(dir.path().join(super::FILE)).unwrap();
        let path = dir.path().to_path_buf();
        let asking = tokio::task::spawn_blocking(move || ask(&path));
        let (mut stream, _) = listener.accept().unwrap();
        stream.write_all(br#"{"version":99,"sockets":[]}"#).unwrap();
        let error = asking.await.unwrap().unwrap_err();
        assert!(error.to_string().contains("stop it first"), "{error:#}");
    }
}
