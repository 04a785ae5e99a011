//! Files, listings and watches through the edge and the guest agent.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::Options;
use super::agent::Agent;
use super::inside::Inside;
use super::load::{content_length, split};
use crate::numbers::Series;
use crate::service::Service;

const PIECE_BYTES: usize = 256 * 1024;
const FILE: &str = "/home/user/ours";

/// What large things took, each beside what it is compared to.
#[derive(Debug, Default)]
pub(crate) struct Bulk {
    pub file_mib: u64,
    pub up: Series,
    pub plain_up: Series,
    pub down: Series,
    pub plain_down: Series,
    /// Resident memory of the guest agent before the files, and the most with them, in KiB.
    pub agent_kib: Option<(f64, f64)>,
    pub listing: Option<Busy>,
    pub watching: Option<Busy>,
    /// What the guest agent has in the end, and the most it ever had, listing and watching
    /// included, in KiB.
    pub agent_end_kib: (f64, f64),
}

/// Work on very many files, and how long others waited meanwhile.
#[derive(Debug)]
pub(crate) struct Busy {
    pub files: u32,
    pub took: Duration,
    /// The same by the plain server, or what cannot be done without.
    pub plain: Duration,
    pub slowest_other: Duration,
}

pub(crate) async fn measure(
    service: &Service,
    inside: &Inside,
    options: &Options,
) -> anyhow::Result<Bulk> {
    let mut bulk = Bulk { file_mib: options.file_mib, ..Bulk::default() };
    let agent = Agent { edge: service.address, sandbox: inside.id.clone() };
    if options.file_mib > 0 {
        let (before, _) = inside.agent_kib().await?;
        transfers(service.address, inside, options, &mut bulk).await?;
        let (_, most) = inside.agent_kib().await?;
        bulk.agent_kib = Some((before, most));
    }
    if options.entries > 0 {
        bulk.listing = Some(agent.list(inside, options.entries).await.context("list")?);
    }
    if options.watched > 0 {
        bulk.watching = Some(agent.watch(inside, options.watched).await.context("watch")?);
    }
    bulk.agent_end_kib = inside.agent_kib().await?;
    Ok(bulk)
}

async fn transfers(
    edge: SocketAddr,
    inside: &Inside,
    options: &Options,
    bulk: &mut Bulk,
) -> anyhow::Result<()> {
    let bytes = options.file_mib * 1024 * 1024;
    let ours = Road {
        address: edge,
        path: format!("/files?path={FILE}&username=user"),
        host: format!("{}-{}.localhost", guest_wire::ENVD_PORT, inside.id),
    };
    let plain =
        Road { address: inside.files_address(), path: "/".to_owned(), host: "plain".to_owned() };
    for _ in 0..options.rounds {
        bulk.plain_up.push(plain.up(bytes).await?);
        bulk.up.push(ours.up(bytes).await?);
        bulk.plain_down.push(plain.down(bytes).await?);
        bulk.down.push(ours.down(bytes).await?);
    }
    Ok(())
}

/// Where a file is sent and fetched.
struct Road {
    address: SocketAddr,
    path: String,
    host: String,
}

impl Road {
    async fn up(&self, bytes: u64) -> anyhow::Result<Duration> {
        let mut socket = TcpStream::connect(self.address).await?;
        let piece = vec![7; PIECE_BYTES];
        let began = Instant::now();
        let head = format!(
            "POST {} HTTP/1.1\r\nHost: {}\r\nContent-Type: application/octet-stream\r\n\
             Content-Length: {bytes}\r\n\r\n",
            self.path, self.host
        );
        socket.write_all(head.as_bytes()).await?;
        let mut left = usize::try_from(bytes)?;
        while left > 0 {
            let next = left.min(piece.len());
            socket.write_all(piece.get(..next).unwrap_or_default()).await?;
            left -= next;
        }
        let mut answer = vec![0; 4096];
        let read = socket.read(&mut answer).await?;
        let answer = answer.get(..read).unwrap_or_default();
        ensure!(answer.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(answer));
        Ok(began.elapsed())
    }

    async fn down(&self, bytes: u64) -> anyhow::Result<Duration> {
        let mut socket = TcpStream::connect(self.address).await?;
        let mut buffer = vec![0; PIECE_BYTES];
        let began = Instant::now();
        let head = format!("GET {} HTTP/1.1\r\nHost: {}\r\n\r\n", self.path, self.host);
        socket.write_all(head.as_bytes()).await?;
        let mut filled = 0;
        let mut left = loop {
            let read = socket.read(buffer.get_mut(filled..).unwrap_or_default()).await?;
            ensure!(read > 0, "no answer");
            filled += read;
            if let Some((head, body)) = split(buffer.get(..filled).unwrap_or_default()) {
                let length = content_length(head).context("no length")?;
                ensure!(u64::try_from(length)? == bytes, "{}", String::from_utf8_lossy(head));
                break length - body.len();
            }
        };
        while left > 0 {
            let read = socket.read(&mut buffer).await?;
            ensure!(read > 0, "broke off with {left} bytes left");
            left -= read.min(left);
        }
        Ok(began.elapsed())
    }
}
