//! Requests and WebSockets.

use std::fs;
use std::io::Write as _;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;

use anyhow::Context;
use bytes::Bytes;
use futures::{SinkExt as _, StreamExt as _};
use http::header::{CONNECTION, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, UPGRADE};
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::Role;

pub(super) async fn serve(port: u16) -> anyhow::Result<()> {
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).await?;
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let (socket, _peer) = accepted?;
                socket.set_nodelay(true)?;
                connections.spawn(connection(socket));
            }
            Some(_ended) = connections.join_next() => {}
        }
    }
}

/// A client that goes away ends its connection, and nothing else.
async fn connection(socket: TcpStream) -> Option<()> {
    let own = socket.local_addr().ok()?;
    let (give, mut given) = mpsc::channel(1);
    let service = service_fn(move |mut request: Request<Incoming>| {
        let give = give.clone();
        async move {
            if request.uri().path() != "/echo" {
                return answer(&request, own).await;
            }
            give.send(hyper::upgrade::on(&mut request)).await?;
            over(&request)
        }
    });
    let http = hyper::server::conn::http1::Builder::new()
        .serve_connection(TokioIo::new(socket), service)
        .with_upgrades();
    // The service goes with the connection, and the sender with it.
    http.await.ok()?;
    echo(given.recv().await?.await.ok()?).await
}

/// The answer that makes a connection a WebSocket.
fn over(request: &Request<Incoming>) -> anyhow::Result<Response<Full<Bytes>>> {
    let key = request.headers().get(SEC_WEBSOCKET_KEY).context("no key")?;
    Ok(Response::builder()
        .status(StatusCode::SWITCHING_PROTOCOLS)
        .header(CONNECTION, "upgrade")
        .header(UPGRADE, "websocket")
        .header(SEC_WEBSOCKET_ACCEPT, derive_accept_key(key.as_bytes()))
        .body(Full::default())?)
}

async fn echo(socket: Upgraded) -> Option<()> {
    let socket = TokioIo::new(socket);
    let mut socket = WebSocketStream::from_raw_socket(socket, Role::Server, None).await;
    while let Some(Ok(message)) = socket.next().await {
        if message.is_binary() {
            socket.send(message).await.ok()?;
        }
    }
    Some(())
}

async fn answer(
    request: &Request<Incoming>,
    own: SocketAddr,
) -> anyhow::Result<Response<Full<Bytes>>> {
    if request.uri().path() == "/" {
        return Ok(Response::new(Full::new(Bytes::from_static(b"ok"))));
    }
    let uri = request.uri().clone();
    let done = tokio::task::spawn_blocking(move || work(uri.path(), own)).await?;
    let (status, text) = match done {
        Ok(text) => (StatusCode::OK, text),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error:#}")),
    };
    Ok(Response::builder().status(status).body(Full::new(text.into()))?)
}

/// What the program can be told to do: `/WHAT/NUMBER`.
fn work(path: &str, own: SocketAddr) -> anyhow::Result<String> {
    let path = path.trim_start_matches('/');
    let (what, number) = path.split_once('/').unwrap_or((path, "0"));
    let number: u32 = number.parse()?;
    let dir = format!("/home/user/{number}");
    let dir = Path::new(&dir);
    match what {
        "address" => Ok(own.to_string()),
        "agent" => agent(),
        "make" => {
            fs::create_dir(dir)?;
            for file in 0..number {
                fs::write(dir.join(format!("file-{file}")), "")?;
            }
            Ok(String::new())
        }
        // What any listing has to do.
        "list" => {
            let mut text = String::new();
            for entry in fs::read_dir(dir)? {
                let entry = entry?;
                let found = entry.metadata()?;
                text += &format!("{} {}\n", entry.file_name().to_string_lossy(), found.len());
            }
            Ok(text)
        }
        // One event each.
        "write" => {
            for file in 0..number {
                let path = dir.join(format!("file-{file}"));
                fs::File::options().append(true).open(path)?.write_all(b"x")?;
            }
            Ok(String::new())
        }
        _ => anyhow::bail!("{path}: not known"),
    }
}

/// Resident memory of the first process, now and at most, in KiB.
fn agent() -> anyhow::Result<String> {
    let status = fs::read_to_string("/proc/1/status")?;
    let field = |name: &str| {
        let line =
            status.lines().find_map(|line| line.strip_prefix(name)).context("no such line")?;
        anyhow::Ok(line.trim().trim_end_matches(" kB").trim().to_owned())
    };
    Ok(format!("{} {}", field("VmRSS:")?, field("VmHWM:")?))
}
