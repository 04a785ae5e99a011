//! Handing the service to the next process of the same data directory: its sockets at once, its
//! sandboxes when it lets go of the directory. Or to another program, in this process.
//!
//! The service listens on a socket in the directory. Who connects says what it wants. The next
//! process gets the sockets in one message, and claims the directory as soon as it is free; from then
//! on the old one only finishes what its clients have under way. Who wants another program hears
//! whether it is refused, and else, from that program, that it serves.

mod asker;

pub(crate) use asker::{Asker, replace};

use std::fs;
use std::io::{self, ErrorKind, Write};
use std::net::Shutdown;
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream as StdUnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use host::process::Process;
use lifecycle::{Budget, TaskGroup};
use rustix::net::sockopt::socket_peercred;
use tokio::io::AsyncReadExt;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::mpsc;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::{Passed, Sockets, passing};

const FILE: &str = "handover.sock";
/// The form of the messages; one that another release cannot read is refused by it.
const VERSION: u32 = 2;
/// How long a service may take to answer.
const ANSWER: Duration = Duration::from_secs(10);
/// How long who connects may take to say what for.
const QUESTION: Duration = Duration::from_secs(2);
const ROOM: usize = 4096;
/// What was asked and not looked at; who asks then waits in the socket.
const WAITING: usize = 1;

/// What somebody wants of the service that runs.
#[derive(Debug, serde::Serialize, serde::Deserialize)]
struct Question {
    version: u32,
    /// What is to take its place in its process; the sockets are wanted where there is none.
    program: Option<PathBuf>,
}

/// What goes with the descriptors, in their order; or why there are none.
#[derive(Debug, serde::Serialize, serde::Deserialize)]
struct Message {
    version: u32,
    sockets: Vec<String>,
    refused: Option<String>,
}

/// The place where somebody can ask. Its file goes with it.
#[derive(Debug)]
pub(crate) struct Offer {
    asked: mpsc::Receiver<Asked>,
    path: PathBuf,
    _listening: TaskGroup,
    _stop: DropGuard,
}

/// Somebody, who waits for an answer.
#[derive(Debug)]
pub(crate) enum Asked {
    Sockets(Successor),
    Program(PathBuf, Asker),
}

/// The next service.
#[derive(Debug)]
pub(crate) struct Successor(StdUnixStream);

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
        let (tell, asked) = mpsc::channel(WAITING);
        let (listening, stop) = (TaskGroup::default(), CancellationToken::new());
        let stopped = stop.clone();
        listening.spawn(tracing::info_span!("handover"), async move {
            tokio::select! {
                biased;
                () = stopped.cancelled() => {}
                () = listen(listener, tell) => {}
            }
        });
        let stop = stop.drop_guard();
        let offer = Self { asked, path, _listening: listening, _stop: stop };
        fs::set_permissions(&offer.path, fs::Permissions::from_mode(0o600))
            .with_context(|| format!("protect {}", offer.path.display()))?;
        Ok(offer)
    }

    /// Whoever asks next.
    ///
    /// Cancel safety: yes.
    pub(crate) async fn asked(&mut self) -> Asked {
        match self.asked.recv().await {
            Some(asked) => asked,
            None => std::future::pending().await,
        }
    }
}

impl Drop for Offer {
    fn drop(&mut self) {
        // Whoever waits is hung up on when the task has ended.
        if let Err(error) = fs::remove_file(&self.path) {
            tracing::debug!(%error, "the next service removes what is left of this socket");
        }
    }
}

/// Hears what is asked. Who is another user is hung up on.
async fn listen(listener: UnixListener, tell: mpsc::Sender<Asked>) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) if is_ours(&stream) => match heard(stream).await {
                Ok(asked) => {
                    if tell.send(asked).await.is_err() {
                        return;
                    }
                }
                Err(error) => {
                    tracing::warn!("who asked for the service was not understood: {error:#}")
                }
            },
            Ok(_) => tracing::warn!("another user asked for the service; refused"),
            Err(error) => {
                tracing::warn!(%error, "nobody can ask for the service just now");
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        }
    }
}

/// By its user alone: a process of another container has no number here.
fn is_ours(stream: &UnixStream) -> bool {
    let own = rustix::process::geteuid().as_raw();
    stream.peer_cred().is_ok_and(|peer| peer.uid() == own)
}

async fn heard(mut stream: UnixStream) -> anyhow::Result<Asked> {
    let mut text = Vec::new();
    let room = u64::try_from(ROOM).unwrap_or(u64::MAX);
    let mut limited = (&mut stream).take(room);
    let read = limited.read_to_end(&mut text);
    Budget::within(QUESTION).run("the question", read).await?.context("read the question")?;
    let question: Question = serde_json::from_slice(&text).context("read the question")?;
    anyhow::ensure!(question.version == VERSION, "the question is another release's");
    let stream = stream.into_std().context("answer the question")?;
    Ok(match question.program {
        Some(program) => Asked::Program(program, Asker::from(stream)),
        None => Asked::Sockets(Successor(stream)),
    })
}

impl Successor {
    /// Gives the sockets away; whoever keeps them, too, must not accept from them any more.
    ///
    /// # Errors
    /// The other side has gone: nothing was given then.
    pub(crate) fn give(self, sockets: &Sockets) -> io::Result<()> {
        let (names, fds): (Vec<_>, Vec<_>) = sockets.named().into_iter().unzip();
        let sockets = names.into_iter().map(str::to_owned).collect();
        let message = serde_json::to_vec(&Message { version: VERSION, sockets, refused: None })?;
        passing::send(self.0.as_fd(), None, &message, &fds)
    }

    /// Says why it gets nothing; that it does not hear it is no harm.
    pub(crate) fn refuse(self, why: &str) {
        let message =
            Message { version: VERSION, sockets: Vec::new(), refused: Some(why.to_owned()) };
        let told = serde_json::to_vec(&message)
            .map_err(io::Error::from)
            .and_then(|message| passing::send(self.0.as_fd(), None, &message, &[]));
        if let Err(error) = told {
            tracing::debug!(%error, "who was refused has gone");
        }
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
    let Some(stream) = connect(&path)? else { return Ok(None) };
    // Of whoever listens. It is there now: it has not answered yet.
    let peer = socket_peercred(&stream).context("ask which process serves")?.pid;
    let by =
        Process::open(peer.as_raw_nonzero().get()).context("open the old service's process")?;
    stream.set_read_timeout(Some(ANSWER)).context("limit the wait for the old service")?;
    let received = say(&stream, None).and_then(|()| passing::receive(&stream, ROOM));
    let (bytes, fds) = match received {
        // It has gone, or went to another who asked first, and nobody takes who waits in the queue.
        Err(error) if has_gone(&error) => return Ok(None),
        received => {
            received.with_context(|| format!("wait for the service behind {}", path.display()))?
        }
    };
    if bytes.is_empty() {
        return Ok(None);
    }
    let unknown = "the service that runs does not hand over in a way this release knows; stop it \
                   first";
    let message: Message = serde_json::from_slice(&bytes).context(unknown)?;
    anyhow::ensure!(message.version == VERSION && message.sockets.len() == fds.len(), unknown);
    if let Some(why) = message.refused {
        anyhow::bail!("the service that runs does not give its place away: {why}");
    }
    Ok(Some(Given { passed: Passed(message.sockets.into_iter().zip(fds).collect()), by }))
}

/// `None` when nobody listens.
fn connect(path: &Path) -> anyhow::Result<Option<StdUnixStream>> {
    match StdUnixStream::connect(path) {
        Err(error)
            if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::ConnectionRefused) =>
        {
            Ok(None)
        }
        connected => connected.map(Some).with_context(|| format!("connect to {}", path.display())),
    }
}

/// Says what is wanted: a program in its place, or its sockets.
fn say(mut stream: &StdUnixStream, program: Option<&Path>) -> io::Result<()> {
    let question = Question { version: VERSION, program: program.map(Path::to_path_buf) };
    stream.write_all(&serde_json::to_vec(&question)?)?;
    stream.shutdown(Shutdown::Write)
}

/// Whether the service went before it answered.
fn has_gone(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::ConnectionReset | ErrorKind::BrokenPipe | ErrorKind::NotConnected
    )
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpStream;
    use std::os::unix::net::{UnixListener, UnixStream as StdUnixStream};

    use rustix::event::{PollFd, PollFlags, poll};

    use super::super::{Passed, Sockets};
    use super::{Asked, FILE, Offer, ask};

    #[tokio::test]
    async fn the_next_service_gets_the_sockets_with_who_waits_in_them() {
        let dir = tempfile::tempdir().unwrap();
        let listen = ([127, 0, 0, 1], 0).into();
        let sockets = Sockets::open(listen, Some(listen), Passed::default()).unwrap();
        let address = sockets.api.local_addr().unwrap();
        let mut client = TcpStream::connect(address).unwrap();
        client.write_all(b"hello").unwrap();

        let mut offer = Offer::open(dir.path()).unwrap();
        let path = dir.path().to_path_buf();
        let asking = tokio::task::spawn_blocking(move || ask(&path));
        let Asked::Sockets(successor) = offer.asked().await else { panic!("the sockets") };
        successor.give(&sockets).unwrap();
        let passed = asking.await.unwrap().unwrap().unwrap().passed;
        drop((sockets, offer));
        assert!(!dir.path().join(FILE).exists());

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
        let stale = UnixListener::bind(dir.path().join(FILE)).unwrap();
        drop(stale);
        assert!(ask(dir.path()).unwrap().is_none());
        let _offer = Offer::open(dir.path()).unwrap();
    }

    #[tokio::test]
    async fn a_service_that_goes_before_it_answers_is_none() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().to_path_buf();
        // Nobody has taken it out of the queue.
        let listener = UnixListener::bind(dir.path().join(FILE)).unwrap();
        let asking = std::thread::spawn(move || ask(&path));
        let waits = PollFd::new(&listener, PollFlags::IN);
        assert_eq!(poll(&mut [waits], None).unwrap(), 1, "somebody waits in the queue");
        drop(listener);
        assert!(asking.join().unwrap().unwrap().is_none());
        // Somebody has, and has heard what it wants.
        let (mut offer, path) = (Offer::open(dir.path()).unwrap(), dir.path().to_path_buf());
        let asking = tokio::task::spawn_blocking(move || ask(&path));
        drop((offer.asked().await, offer));
        assert!(asking.await.unwrap().unwrap().is_none());
    }

    #[tokio::test]
    async fn who_is_refused_hears_why() {
        let dir = tempfile::tempdir().unwrap();
        let (mut offer, path) = (Offer::open(dir.path()).unwrap(), dir.path().to_path_buf());
        let asking = tokio::task::spawn_blocking(move || ask(&path));
        let Asked::Sockets(successor) = offer.asked().await else { panic!("the sockets") };
        successor.refuse("it drains");
        let error = asking.await.unwrap().unwrap_err();
        assert!(error.to_string().ends_with("its place away: it drains"), "{error:#}");
    }

    #[tokio::test]
    async fn who_says_nothing_keeps_nobody_from_asking() {
        let dir = tempfile::tempdir().unwrap();
        let mut offer = Offer::open(dir.path()).unwrap();
        let silent = StdUnixStream::connect(dir.path().join(FILE)).unwrap();
        let strange = StdUnixStream::connect(dir.path().join(FILE)).unwrap();
        (&strange).write_all(b"{}").unwrap();
        strange.shutdown(std::net::Shutdown::Write).unwrap();
        let path = dir.path().to_path_buf();
        let asking = tokio::task::spawn_blocking(move || ask(&path));
        let Asked::Sockets(successor) = offer.asked().await else { panic!("the sockets") };
        successor.refuse("it drains");
        asking.await.unwrap().unwrap_err();
        drop(silent);
    }

    #[tokio::test]
    async fn an_answer_in_another_form_is_refused_with_advice() {
        let dir = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(dir.path().join(FILE)).unwrap();
        let path = dir.path().to_path_buf();
        let asking = tokio::task::spawn_blocking(move || ask(&path));
        let (mut stream, _) = listener.accept().unwrap();
        stream.write_all(br#"{"version":99,"sockets":[],"refused":null}"#).unwrap();
        let error = asking.await.unwrap().unwrap_err();
        assert!(error.to_string().contains("stop it first"), "{error:#}");
    }
}
