//! The name servers of a sandbox whose rules are about names: they are asked for those and no others.
//!
//! Without that every name would be a way out: a question for `secret.example.com` comes to whoever
//! has `example.com`. What is answered does not matter to the rules, which look names up themselves, so
//! it is given back as it is.

use std::io;
use std::net::{SocketAddr, SocketAddrV4, UdpSocket as StdPackets};
use std::sync::Arc;
use std::time::Duration;

use lifecycle::Budget;
use observe::metrics::EGRESS;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::net::UdpSocket;

use crate::Refusal;
use crate::beside::{Beside, Runner};
use crate::line::Line;
use crate::proxy::{ACCEPT_PAUSE, Passes, Shared};
use crate::question::{Code, Message, QUESTION_MAX, Question, sized};

/// All servers of a sandbox share this time to answer: a program waits 5 s as a rule (resolv.conf(5)),
/// and hears that none has answered before it asks again.
const QUESTION_LIMIT: Duration = Duration::from_secs(4);
/// A connection may be silent for this long, and a question take this long to come in.
const STREAM_LIMIT: Duration = Duration::from_secs(10);
/// The longest packet that is given back. Programs ask for answers of this size at most (RFC 6891,
/// 6.2.5); a longer one is to be had in a stream.
const PACKET_MAX: usize = 4096;

/// How a question has come, and how it goes on.
#[derive(Debug, Clone, Copy)]
enum Carrier {
    Packet,
    Stream,
}

/// What becomes of a message of a program.
enum Verdict {
    Ignored,
    Answered(Vec<u8>),
    Asked(Question, Passes),
}

/// Answers the packets that come to `socket`.
pub(crate) async fn serve(shared: Arc<Shared>, socket: UdpSocket) {
    let stop = shared.tasks.stop_token().clone();
    let (beside, socket) = (Beside::new(&shared.tasks), Arc::new(socket));
    let mut packet = vec![0; QUESTION_MAX];
    loop {
        let taken = async {
            let (len, program) = socket.recv_from(&mut packet).await?;
            let message = packet.get(..len).unwrap_or_default();
            take(&shared, &beside.runner(), &socket, message, program).await;
            Ok(())
        };
        let taken: io::Result<()> = tokio::select! {
            biased;
            () = stop.cancelled() => return,
            taken = taken => taken,
        };
        if let Err(error) = taken {
            tracing::warn!(%error, "a question to a name server cannot be taken in");
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(ACCEPT_PAUSE) => {}
            }
        }
    }
}

async fn take(
    shared: &Arc<Shared>,
    runner: &Runner,
    socket: &Arc<UdpSocket>,
    message: &[u8],
    program: SocketAddr,
) {
    match shared.judge(message) {
        Verdict::Ignored => {}
        Verdict::Answered(answer) => give(socket, &answer, program).await,
        Verdict::Asked(question, passes) => {
            let (shared, socket) = (Arc::clone(shared), Arc::clone(socket));
            runner.spawn(async move {
                let answer = shared.ask(&question, Carrier::Packet).await;
                give(&socket, &answer, program).await;
                drop(passes);
            });
        }
    }
}

async fn give(socket: &UdpSocket, answer: &[u8], program: SocketAddr) {
    if let Err(error) = socket.send_to(answer, program).await {
        // As if it were lost on its way: who still waits asks again.
        tracing::trace!(%error, "an answer is not given");
    }
}

impl Shared {
    /// Answers what comes in by `line`, a connection to the name server `origin`, until it ends.
    pub(crate) async fn answer_stream(
        &self,
        mut line: Line,
        origin: SocketAddrV4,
    ) -> Result<(), Refusal> {
        loop {
            let read = read(&mut line, QUESTION_MAX);
            let message = match Budget::within(STREAM_LIMIT).run("question", read).await {
                Ok(Ok(message)) => message,
                Ok(Err(error)) if error.kind() == io::ErrorKind::InvalidData => {
                    return Err(Refusal::Request("no question to a name server is that long"));
                }
                // It is over, or as good as that.
                Ok(Err(_)) | Err(_) => return Ok(()),
            };
            // Those rules may not be in force any more by which it has come here.
            if !self.is_name_server(origin) {
                return Err(Refusal::Request("the network rules of this sandbox have changed"));
            }
            let answer = match self.judge(&message) {
                Verdict::Ignored => return Err(Refusal::Request("this is no question")),
                Verdict::Answered(answer) => answer,
                Verdict::Asked(question, _passes) => self.ask(&question, Carrier::Stream).await,
            };
            let answer = sized(&answer);
            let written = Budget::within(STREAM_LIMIT).run("answer", line.write_all(&answer));
            if !written.await.is_ok_and(|written| written.is_ok()) {
                return Ok(());
            }
        }
    }

    /// Decides on a message by the rules that are in force now.
    fn judge(&self, message: &[u8]) -> Verdict {
        let question = match Message::read(message) {
            Message::Noise => return Verdict::Ignored,
            Message::Odd(answer) => {
                EGRESS.count(["question-odd"]);
                return Verdict::Answered(answer);
            }
            Message::Question(question) => question,
        };
        let egress = self.egress();
        if !question.name().is_some_and(|name| egress.names(name)) {
            EGRESS.count(["question-refused"]);
            let name = question.name().map(|name| name.as_str());
            tracing::debug!(name, "a name is not asked for");
            return Verdict::Answered(question.reply(Code::NoSuchName));
        }
        match self.enter_question() {
            Ok(passes) => Verdict::Asked(question, passes),
            Err(refusal) => {
                self.refused(&refusal);
                Verdict::Answered(question.reply(Code::Failed))
            }
        }
    }

    /// What the first of the name servers says that says something, or that none does.
    async fn ask(&self, question: &Question, carrier: Carrier) -> Vec<u8> {
        let servers = self.name_servers();
        let share = QUESTION_LIMIT / u32::try_from(servers.len()).unwrap_or(u32::MAX).max(1);
        for server in servers {
            let asked = async {
                match carrier {
                    Carrier::Packet => self.ask_by_packet(server, question).await,
                    Carrier::Stream => self.ask_by_stream(server, question).await,
                }
            };
            match Budget::within(share).run("name server", asked).await {
                Ok(Ok(answer)) => {
                    EGRESS.count(["question"]);
                    return answer;
                }
                Ok(Err(error)) => tracing::debug!(%server, %error, "a name server is not there"),
                Err(error) => tracing::debug!(%server, %error, "a name server does not answer"),
            }
        }
        EGRESS.count(["question-failed"]);
        question.reply(Code::Failed)
    }

    /// Each has a socket of its own: the port is the kernel's choice, and with the id, which is the
    /// program's, what a stranger would have to guess.
    async fn ask_by_packet(
        &self,
        server: SocketAddrV4,
        question: &Question,
    ) -> io::Result<Vec<u8>> {
        let socket = self.dialer.opened(|sockets| sockets.open_for_packets()).await?;
        let socket = UdpSocket::from_std(StdPackets::from(socket))?;
        socket.connect(SocketAddr::from(server)).await?;
        socket.send(question.message()).await?;
        let mut packet = vec![0; PACKET_MAX + 1];
        loop {
            let len = socket.recv(&mut packet).await?;
            if !question.is_answered_by(packet.get(..len).unwrap_or_default()) {
                continue;
            }
            if len > PACKET_MAX {
                return Ok(question.cut_short());
            }
            packet.truncate(len);
            return Ok(packet);
        }
    }

    async fn ask_by_stream(
        &self,
        server: SocketAddrV4,
        question: &Question,
    ) -> io::Result<Vec<u8>> {
        let socket = self.dialer.socket().await.map_err(io::Error::other)?;
        let mut stream = socket.connect(SocketAddr::from(server)).await?;
        stream.write_all(&sized(question.message())).await?;
        let answer = read(&mut stream, usize::from(u16::MAX)).await?;
        if question.is_answered_by(&answer) {
            return Ok(answer);
        }
        Err(io::Error::new(io::ErrorKind::InvalidData, "this answers another question"))
    }
}

/// The next message in a stream (RFC 1035, 4.2.2), which is no longer than `max`.
async fn read(stream: &mut (impl AsyncRead + Unpin), max: usize) -> io::Result<Vec<u8>> {
    let len = usize::from(stream.read_u16().await?);
    if len > max {
        return Err(io::Error::from(io::ErrorKind::InvalidData));
    }
    let mut message = vec![0; len];
    stream.read_exact(&mut message).await?;
    Ok(message)
}
