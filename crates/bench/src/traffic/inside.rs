//! A plain server inside a sandbox: what everything else is compared to.
//!
//! It is this very program, put into the sandbox through the guest agent.

mod plain;
mod serve;

use std::net::SocketAddr;

use anyhow::{Context, ensure};
use bytes::Bytes;
use clap::Args;
use http::Request;
use http_body_util::{BodyExt as _, Full};

use crate::client::{connect, leave_running};

/// Where requests and WebSockets are served.
const PORT: u16 = 8080;
/// Where files are, by threads without any library.
const FILES_PORT: u16 = 8081;
const PROGRAM: &str = "/home/user/inside";

#[derive(Debug, Args)]
pub(crate) struct Program {}

/// What the program does in the sandbox, without end.
pub(crate) fn run(_program: &Program) -> anyhow::Result<()> {
    plain::listen(FILES_PORT)?;
    tokio::runtime::Runtime::new()?.block_on(serve::serve(PORT))
}

/// The program, as its users outside see it.
#[derive(Debug)]
pub(crate) struct Inside {
    /// The sandbox.
    pub id: String,
    /// Where it is reached directly.
    pub address: SocketAddr,
    edge: SocketAddr,
}

impl Inside {
    /// Puts the program into sandbox `id` and runs it there.
    pub(crate) async fn start(edge: SocketAddr, id: &str) -> anyhow::Result<Self> {
        let program = std::fs::read(std::env::current_exe()?)?;
        let put = Request::post(format!("/files?path={PROGRAM}&username=user"))
            .header("content-type", "application/octet-stream");
        send(edge, id, guest_wire::ENVD_PORT, put, program.into()).await?;
        let command = format!("chmod +x {PROGRAM} && exec {PROGRAM} inside");
        leave_running(edge, id, &command).await?;
        // The edge waits for a port that opens late.
        let asked = send(edge, id, PORT, Request::get("/address"), Bytes::new()).await?;
        let address = std::str::from_utf8(&asked)?.parse()?;
        Ok(Self { id: id.to_owned(), address, edge })
    }

    pub(crate) fn files_address(&self) -> SocketAddr {
        SocketAddr::new(self.address.ip(), FILES_PORT)
    }

    /// Has the program do something, and answers what it says.
    pub(crate) async fn ask(&self, path: &str) -> anyhow::Result<String> {
        let asked = send(self.edge, &self.id, PORT, Request::get(path), Bytes::new()).await?;
        Ok(String::from_utf8(asked.into())?)
    }

    /// Resident memory of the guest agent, now and at most, in KiB.
    pub(crate) async fn agent_kib(&self) -> anyhow::Result<(f64, f64)> {
        let text = self.ask("/agent").await?;
        let (now, most) = text.split_once(' ').context("two numbers")?;
        Ok((now.parse()?, most.parse()?))
    }
}

/// One request through the edge, on a connection of its own.
async fn send(
    edge: SocketAddr,
    id: &str,
    port: u16,
    request: http::request::Builder,
    body: Bytes,
) -> anyhow::Result<Bytes> {
    let request = request
        .header("host", "localhost")
        .header("e2b-sandbox-id", id)
        .header("e2b-sandbox-port", port)
        .body(Full::new(body))?;
    let what = request.uri().to_string();
    let response = connect(edge).await?.send_request(request).await?;
    let status = response.status();
    let body = response.into_body().collect().await?.to_bytes();
    ensure!(status.is_success(), "{what}: {status} {}", String::from_utf8_lossy(&body));
    Ok(body)
}
