//! Many connections, each asking again as soon as it has its answer.

use std::fs;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use clap::ValueEnum;
use futures::{SinkExt as _, StreamExt as _};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;

use crate::numbers::Series;

/// Of a message that is sent back.
const MESSAGE_BYTES: usize = 64;

/// A road to a port of a sandbox.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Way<'a> {
    pub address: SocketAddr,
    pub sandbox: &'a str,
    pub port: u16,
    /// Of the program in between.
    pub processes: &'a [u32],
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Kind {
    /// A small request and a small answer.
    Http,
    /// A message and the same back.
    WebSocket,
}

/// What turns on one road gave, in their order. The middle counts: somebody else may have needed
/// the machine during some.
#[derive(Debug, Default)]
pub(crate) struct Load {
    turns: Vec<Turn>,
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct Turn {
    pub per_second: f64,
    /// Microseconds to an answer.
    pub p50: f64,
    pub p99: f64,
    /// Microseconds of a processor that the program in between needs for one answer.
    pub busy: f64,
}

impl Load {
    pub(crate) fn push(&mut self, turn: Turn) {
        self.turns.push(turn);
    }

    /// The middle of what `field` is in all turns.
    pub(crate) fn middle(&self, field: impl Fn(&Turn) -> f64) -> f64 {
        Spread::of(self.turns.iter().map(field)).middle
    }

    /// What `compare` says of this turn and that of `other` beside it. A machine may be twice as
    /// fast a minute later; of neighbours that is mostly not so.
    pub(crate) fn beside(&self, other: &Self, compare: impl Fn(&Turn, &Turn) -> f64) -> Spread {
        Spread::of(self.turns.iter().zip(&other.turns).map(|(own, other)| compare(own, other)))
    }
}

/// The middle of some numbers, and where the middle half of them lies.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Spread {
    pub low: f64,
    pub middle: f64,
    pub high: f64,
}

impl Spread {
    fn of(all: impl Iterator<Item = f64>) -> Self {
        let mut all: Vec<f64> = all.collect();
        all.sort_by(f64::total_cmp);
        let quarter = |n| all.get(all.len() * n / 4).copied().unwrap_or(f64::NAN);
        Self { low: quarter(1), middle: quarter(2), high: quarter(3) }
    }
}

/// Asks over `connections` at a time for as long as `turn`.
pub(crate) async fn during(
    turn: Duration,
    way: &Way<'_>,
    kind: Kind,
    connections: usize,
) -> anyhow::Result<Turn> {
    let mut talkers = Vec::new();
    for _ in 0..connections {
        talkers.push(Talker::open(way, kind).await?);
    }
    let busy = busy(way.processes)?;
    let began = Instant::now();
    let end = began + turn;
    let mut workers = JoinSet::new();
    for mut talker in talkers {
        workers.spawn(async move {
            let mut times = Vec::new();
            let mut now = Instant::now();
            while now < end {
                talker.once().await?;
                let after = Instant::now();
                times.push(after - now);
                now = after;
            }
            anyhow::Ok(times)
        });
    }
    let mut times = Series::default();
    while let Some(some) = workers.join_next().await {
        for time in some?? {
            times.push(time);
        }
    }
    let took = began.elapsed();
    let busy = self::busy(way.processes)?.saturating_sub(busy);
    #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
    let answers = times.len() as f64;
    Ok(Turn {
        per_second: answers / took.as_secs_f64(),
        p50: times.p50() * 1000.0,
        p99: times.percentile(99) * 1000.0,
        busy: busy.as_secs_f64() * 1e6 / answers,
    })
}

/// Processor time that all threads of `processes` have had.
fn busy(processes: &[u32]) -> anyhow::Result<Duration> {
    let mut all = 0;
    for process in processes {
        for thread in fs::read_dir(format!("/proc/{process}/task"))? {
            // A thread may end at any time.
            let Ok(times) = fs::read_to_string(thread?.path().join("schedstat")) else { continue };
            all += times.split(' ').next().context("no time")?.parse::<u64>()?;
        }
    }
    Ok(Duration::from_nanos(all))
}

/// One connection.
enum Talker {
    Http { socket: TcpStream, request: Vec<u8>, buffer: Vec<u8> },
    WebSocket(Box<WebSocketStream<TcpStream>>),
}

impl Talker {
    async fn open(way: &Way<'_>, kind: Kind) -> anyhow::Result<Self> {
        let socket = TcpStream::connect(way.address).await.context("connect")?;
        socket.set_nodelay(true)?;
        let Way { sandbox, port, .. } = way;
        match kind {
            // The same bytes on every road.
            Kind::Http => {
                let request = format!(
                    "GET / HTTP/1.1\r\nHost: {port}-{sandbox}.localhost\r\nAccept: */*\r\n\r\n"
                );
                let (request, buffer) = (request.into_bytes(), vec![0; 16 * 1024]);
                Ok(Self::Http { socket, request, buffer })
            }
            Kind::WebSocket => {
                let uri = format!("ws://{port}-{sandbox}.localhost/echo");
                let (socket, _answer) = tokio_tungstenite::client_async(uri, socket).await?;
                Ok(Self::WebSocket(Box::new(socket)))
            }
        }
    }

    async fn once(&mut self) -> anyhow::Result<()> {
        match self {
            Self::Http { socket, request, buffer } => {
                socket.write_all(request).await?;
                read_answer(socket, buffer).await
            }
            Self::WebSocket(socket) => {
                socket.send(Message::binary(vec![7; MESSAGE_BYTES])).await?;
                match socket.next().await {
                    Some(Ok(Message::Binary(echo))) if echo.len() == MESSAGE_BYTES => Ok(()),
                    other => bail!("no echo but {other:?}"),
                }
            }
        }
    }
}

/// Reads one answer that fits into `buffer`.
async fn read_answer(socket: &mut TcpStream, buffer: &mut [u8]) -> anyhow::Result<()> {
    let mut filled = 0;
    loop {
        let read = socket.read(buffer.get_mut(filled..).unwrap_or_default()).await?;
        ensure!(read > 0, "the connection ended within an answer");
        filled += read;
        let seen = buffer.get(..filled).unwrap_or_default();
        if let Some((head, body)) = split(seen) {
            ensure!(head.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(seen));
            if body.len() >= content_length(head).context("an answer of unknown length")? {
                return Ok(());
            }
        }
    }
}

/// The head with its last line's end, and what follows.
pub(super) fn split(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = bytes.windows(4).position(|four| four == b"\r\n\r\n")?;
    bytes.split_at_checked(end + 4)
}

pub(super) fn content_length(head: &[u8]) -> Option<usize> {
    const NAME: &[u8] = b"content-length:";
    let mut lines = head.split(|byte| *byte == b'\n');
    let line = lines
        .find(|line| line.get(..NAME.len()).is_some_and(|name| name.eq_ignore_ascii_case(NAME)))?;
    std::str::from_utf8(line.get(NAME.len()..)?).ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::{content_length, split};

    #[test]
    fn the_length_of_an_answer_is_found_in_its_head() {
        let answer = b"HTTP/1.1 200 OK\r\ndate: x\r\nContent-Length: 5\r\n\r\nhel";
        let (head, body) = split(answer).unwrap();
        assert_eq!((content_length(head), body), (Some(5), b"hel".as_slice()));
        assert!(split(&answer[..20]).is_none());
        assert_eq!(content_length(b"HTTP/1.1 200 OK\r\n\r\n"), None);
    }
}
