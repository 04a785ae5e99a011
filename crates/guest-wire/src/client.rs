//! The calls the node makes itself: init, health, metrics, journal.
//!
//! Every call opens a connection of its own and closes it: the agent is one hop away, a sandbox
//! sees few such calls, and nothing is left to go stale while a sandbox is paused. There is no
//! time limit in here: the caller drops the future.

use std::net::SocketAddr;

use bytes::Bytes;
use http::{Method, Request, StatusCode, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use crate::rest::{InitRequest, Journal, Metrics, TOKEN_HEADER, VERSION_HEADER};

/// Longer answers than this come from something that is not an agent.
pub const ANSWER_BYTES_MAX: usize = 64 * 1024;
/// Names of runs are shorter, and of letters and digits.
const RUN_BYTES_MAX: usize = 64;

/// What a successful `/init` says about the agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InitReply {
    /// The version that actually runs, such as `0.6.4`.
    pub envd_version: String,
}

/// Why a call to an agent gave no answer, or not the one it must give.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    #[error("connect to the agent at {addr}")]
    Connect { addr: SocketAddr, source: std::io::Error },
    #[error("write the request body of {path}")]
    Encode { path: &'static str, source: serde_json::Error },
    #[error("the access token holds bytes that no header may hold")]
    Token { source: http::Error },
    #[error("ask the agent for {path}")]
    Exchange { path: &'static str, source: hyper::Error },
    #[error("read the agent's answer to {path}")]
    Body { path: &'static str, source: Box<dyn std::error::Error + Send + Sync> },
    #[error("the agent answered {path} with status {status}: {text}")]
    Status { path: &'static str, status: StatusCode, text: String },
    #[error("the agent's answer to {path} is not what the protocol says")]
    Decode { path: &'static str, source: serde_json::Error },
    #[error("the agent's answer to {path} has no header {name}")]
    MissingHeader { path: &'static str, name: &'static str },
}

impl ClientError {
    /// Whether the agent was not reached, so that asking again soon is worth it. Any answer at
    /// all is final.
    #[must_use]
    pub fn is_unreached(&self) -> bool {
        match self {
            Self::Connect { .. } | Self::Exchange { .. } | Self::Body { .. } => true,
            Self::Encode { .. }
            | Self::Token { .. }
            | Self::Status { .. }
            | Self::Decode { .. }
            | Self::MissingHeader { .. } => false,
        }
    }
}

/// Tells the agent who it is for: variables, token, user, time.
///
/// `token` goes into the request header; the one that is to become the sandbox's token is in
/// `request`. May be repeated: the agent applies the newest `timestamp`.
///
/// Cancel safety: yes. The agent may have applied a request whose future was dropped.
///
/// # Errors
/// When the agent is not reached, or answers anything but 204.
pub async fn init(
    addr: SocketAddr,
    token: Option<&str>,
    request: &InitRequest,
) -> Result<InitReply, ClientError> {
    const PATH: &str = "/init";
    let body =
        serde_json::to_vec(request).map_err(|source| ClientError::Encode { path: PATH, source })?;
    let answer = call(addr, Method::POST, PATH, "", token, Bytes::from(body)).await?;
    answer.expect_status(StatusCode::NO_CONTENT)?;
    let version = answer.headers.get(VERSION_HEADER).and_then(|value| value.to_str().ok());
    match version {
        Some(version) => Ok(InitReply { envd_version: version.to_owned() }),
        None => Err(ClientError::MissingHeader { path: PATH, name: VERSION_HEADER }),
    }
}

/// Whether the agent serves. Needs no token and no earlier init.
///
/// Cancel safety: yes.
///
/// # Errors
/// When the agent is not reached, or answers anything but 204.
pub async fn health(addr: SocketAddr) -> Result<(), ClientError> {
    let answer = call(addr, Method::GET, "/health", "", None, Bytes::new()).await?;
    answer.expect_status(StatusCode::NO_CONTENT)
}

/// What the sandbox uses of its CPUs, memory and disk.
///
/// Cancel safety: yes.
///
/// # Errors
/// When the agent is not reached, or its answer is not 200 with metrics.
pub async fn metrics(addr: SocketAddr, token: Option<&str>) -> Result<Metrics, ClientError> {
    const PATH: &str = "/metrics";
    let answer = call(addr, Method::GET, PATH, "", token, Bytes::new()).await?;
    answer.expect_status(StatusCode::OK)?;
    serde_json::from_slice(&answer.body)
        .map_err(|source| ClientError::Decode { path: PATH, source })
}

/// What the agent has noted after line `after` of its run `run`; of another run everything it has.
/// `None` of an agent of a version that keeps no journal.
///
/// Cancel safety: yes.
///
/// # Errors
/// When the agent is not reached, or its answer is not 200 with a journal.
pub async fn journal(
    addr: SocketAddr,
    token: Option<&str>,
    run: &str,
    after: u64,
) -> Result<Option<Journal>, ClientError> {
    const PATH: &str = "/journal";
    // What an agent has called its run it may have called anything.
    let query = match is_run(run) {
        true => format!("?run={run}&after={after}"),
        false => String::new(),
    };
    let answer = call(addr, Method::GET, PATH, &query, token, Bytes::new()).await?;
    if answer.status == StatusCode::NOT_FOUND {
        return Ok(None);
    }
    answer.expect_status(StatusCode::OK)?;
    let journal: Journal = serde_json::from_slice(&answer.body)
        .map_err(|source| ClientError::Decode { path: PATH, source })?;
    if !is_run(&journal.run) {
        let source = serde::de::Error::custom("the run has no legal name");
        return Err(ClientError::Decode { path: PATH, source });
    }
    Ok(Some(journal))
}

fn is_run(name: &str) -> bool {
    let legal = name.bytes().all(|byte| byte.is_ascii_alphanumeric());
    legal && (1..=RUN_BYTES_MAX).contains(&name.len())
}

struct Answer {
    path: &'static str,
    status: StatusCode,
    headers: http::HeaderMap,
    body: Bytes,
}

impl Answer {
    fn expect_status(&self, expected: StatusCode) -> Result<(), ClientError> {
        if self.status == expected {
            return Ok(());
        }
        let text = String::from_utf8_lossy(&self.body).trim().chars().take(200).collect();
        Err(ClientError::Status { path: self.path, status: self.status, text })
    }
}

async fn call(
    addr: SocketAddr,
    method: Method,
    path: &'static str,
    query: &str,
    token: Option<&str>,
    body: Bytes,
) -> Result<Answer, ClientError> {
    let mut request = Request::builder()
        .method(method)
        .uri(format!("{path}{query}"))
        .header(header::HOST, addr.to_string())
        .header(header::CONTENT_TYPE, "application/json");
    if let Some(token) = token {
        request = request.header(TOKEN_HEADER, token);
    }
    let request = request.body(Full::new(body)).map_err(|source| ClientError::Token { source })?;

    let stream = TcpStream::connect(addr)
        .await
        .and_then(|stream| stream.set_nodelay(true).map(|()| stream))
        .map_err(|source| ClientError::Connect { addr, source })?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|source| ClientError::Exchange { path, source })?;

    // The connection is driven from here and not from a task, so that dropping this future also
    // closes the socket.
    let exchange = async {
        let response = sender
            .send_request(request)
            .await
            .map_err(|source| ClientError::Exchange { path, source })?;
        let (head, body) = response.into_parts();
        let body = Limited::new(body, ANSWER_BYTES_MAX)
            .collect()
            .await
            .map_err(|source| ClientError::Body { path, source })?
            .to_bytes();
        Ok(Answer { path, status: head.status, headers: head.headers, body })
    };
    let mut exchange = std::pin::pin!(exchange);
    let mut connection = std::pin::pin!(connection);
    tokio::select! {
        biased;
        answer = &mut exchange => answer,
        // A connection that ends before the answer leaves its reason with the exchange.
        _ended = &mut connection => exchange.await,
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::{TcpListener, TcpSocket};

    use super::*;
    use crate::rest::JournalLevel;

    /// Answers one connection with `answer` and gives back what was asked.
    async fn answering(answer: &'static str) -> (SocketAddr, tokio::task::JoinHandle<String>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        #[expect(clippy::disallowed_methods, reason = "a test's peer, joined by the test")]
        let asked = tokio::spawn(async move {
            let (mut stream, _peer) = listener.accept().await.unwrap();
            let mut asked = vec![0; 4096];
            let n = stream.read(&mut asked).await.unwrap();
            stream.write_all(answer.as_bytes()).await.unwrap();
            String::from_utf8_lossy(&asked[..n]).into_owned()
        });
        (addr, asked)
    }

    #[tokio::test]
    async fn init_gives_the_version_of_the_agent() {
        let (addr, asked) =
            answering("HTTP/1.1 204 No Content\r\nX-Envd-Version: 0.6.4\r\n\r\n").await;
        let request = InitRequest { access_token: Some("t".into()), ..InitRequest::default() };
        let reply = init(addr, Some("t"), &request).await.unwrap();
        assert_eq!(reply.envd_version, "0.6.4");
        let asked = asked.await.unwrap();
        assert!(asked.starts_with("POST /init HTTP/1.1\r\n"), "{asked}");
        assert!(asked.contains("x-access-token: t\r\n"), "{asked}");
        assert!(asked.ends_with(r#"{"accessToken":"t"}"#), "{asked}");
    }

    #[tokio::test]
    async fn another_status_is_a_final_error_with_its_text() {
        let (addr, asked) = answering(
            "HTTP/1.1 401 Unauthorized\r\nContent-Length: 29\r\n\r\naccess token validation failed",
        )
        .await;
        let error = init(addr, None, &InitRequest::default()).await.unwrap_err();
        assert!(!error.is_unreached());
        assert!(error.to_string().contains("access token validation faile"), "{error}");
        asked.await.unwrap();
    }

    #[tokio::test]
    async fn a_journal_is_asked_for_after_a_line_of_a_run_and_an_older_agent_has_none() {
        const HEAD: &str = "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n";
        let text = concat!(
            "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n",
            r#"{"run":"r2","lines":[{"number":8,"at_us":9,"level":"info","message":"m","new":1}],"#,
            r#""more":true,"lost":3}"#
        );
        let (addr, asked) = answering(text).await;
        let told = journal(addr, Some("t"), "r1", 7).await.unwrap().unwrap();
        let line = &told.lines[0];
        assert_eq!((told.run.as_str(), told.more, told.lost), ("r2", true, 3));
        assert_eq!((line.number, line.at_us, line.level), (8, 9, JournalLevel::Info));
        let asked = asked.await.unwrap();
        assert!(asked.starts_with("GET /journal?run=r1&after=7 HTTP/1.1\r\n"), "{asked}");
        assert!(asked.contains("x-access-token: t\r\n"), "{asked}");

        let (addr, asked) = answering("HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n").await;
        assert_eq!(journal(addr, None, "", 0).await.unwrap(), None);
        assert!(asked.await.unwrap().starts_with("GET /journal HTTP/1.1\r\n"));
        for text in [
            HEAD,
            concat!("HTTP/1.1 200 OK\r\n\r\n", r#"{"run":"a b","lines":[],"more":false,"lost":0}"#),
        ] {
            let (addr, asked) = answering(text).await;
            let error = journal(addr, None, "a&b=c", 1).await.unwrap_err();
            assert!(matches!(error, ClientError::Decode { .. }), "{error:?}");
            assert!(asked.await.unwrap().starts_with("GET /journal HTTP/1.1\r\n"));
        }
    }

    #[tokio::test]
    async fn nobody_listening_is_worth_another_try() {
        // A port that nobody else is given.
        let held = TcpSocket::new_v4().unwrap();
        held.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let addr = held.local_addr().unwrap();
        assert!(health(addr).await.unwrap_err().is_unreached());
    }

    #[tokio::test]
    async fn a_connection_closed_without_an_answer_is_worth_another_try() {
        let (addr, asked) = answering("").await;
        assert!(health(addr).await.unwrap_err().is_unreached());
        asked.await.unwrap();
    }

    #[tokio::test]
    async fn an_endless_answer_is_cut_off() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let peer = async {
            let (mut stream, _peer) = listener.accept().await.unwrap();
            let mut asked = vec![0; 4096];
            assert_ne!(stream.read(&mut asked).await.unwrap(), 0);
            stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.unwrap();
            while stream.write_all(&[b'x'; 4096]).await.is_ok() {}
        };
        let (answer, ()) = tokio::join!(metrics(addr, None), peer);
        assert!(matches!(answer, Err(ClientError::Body { .. })), "{answer:?}");
    }
}
