//! Programs that want out: what they try inside, through the guest agent, and by what they leave in
//! their files for whoever comes later.

mod escape;
mod files;
mod later;
mod reach;
mod roots;

use std::net::{IpAddr, SocketAddr};
use std::process::Command;
use std::sync::OnceLock;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use model::SandboxId;

pub(crate) const LIMIT: Duration = Duration::from_secs(60);

/// Where a sandbox has the program of `fixtures/probe.rs`.
pub(crate) const PROBE: &str = "/probe";

pub(crate) fn id(text: &str) -> SandboxId {
    SandboxId::parse(text).unwrap()
}

/// The program of `fixtures/probe.rs`, static, so that it runs in any sandbox.
pub(crate) fn probe() -> Bytes {
    static BUILT: OnceLock<Bytes> = OnceLock::new();
    #[expect(clippy::disallowed_methods, reason = "a compiler, once per run of the tests")]
    let build = || {
        let dir = tempfile::tempdir().unwrap();
        let program = dir.path().join("probe");
        let built = Command::new("rustc")
            .args(["--edition", "2024", "-O", "-C", "panic=abort", "-C", "strip=symbols"])
            .args(["-C", "target-feature=+crt-static", "-o"])
            .arg(&program)
            .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/probe.rs"))
            .status();
        assert!(built.unwrap().success(), "rustc makes no static program here");
        std::fs::read(program).unwrap().into()
    };
    BUILT.get_or_init(build).clone()
}

/// One request to the guest agent at `addr`, as `user`: status and body.
pub(crate) async fn ask(
    addr: IpAddr,
    method: Method,
    path: &str,
    user: &str,
    content: (&str, Bytes),
) -> (StatusCode, String) {
    let whole = async |answer: Response<Incoming>| {
        let status = answer.status();
        let body = answer.into_body().collect().await.unwrap().to_bytes();
        (status, String::from_utf8_lossy(&body).into_owned())
    };
    exchange(addr, method, path, user, content, whole).await
}

/// One request on a connection of its own, and what `read` makes of the answer.
async fn exchange<T>(
    addr: IpAddr,
    method: Method,
    path: &str,
    user: &str,
    (content_type, body): (&str, Bytes),
    read: impl AsyncFnOnce(Response<Incoming>) -> T,
) -> T {
    let stream = tokio::net::TcpStream::connect(SocketAddr::new(addr, 49983)).await.unwrap();
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header("host", "guest")
        .header("content-type", content_type)
        .header("connect-protocol-version", "1")
        .header("authorization", format!("Basic {}", STANDARD.encode(format!("{user}:"))))
        .body(Full::new(body))
        .unwrap();
    tokio::select! {
        read = async { read(sender.send_request(request).await.unwrap()).await } => read,
        ended = connection => panic!("connection ended: {ended:?}"),
    }
}

/// A call of the agent's services that is no stream.
pub(crate) async fn call(
    addr: IpAddr,
    method: &str,
    message: serde_json::Value,
) -> (StatusCode, String) {
    let body = ("application/json", Bytes::from(message.to_string()));
    ask(addr, Method::POST, &format!("/{method}"), "root", body).await
}

/// A call of the agent's services that is a stream, up to its first message, as the answer of a call
/// that is none: one that ends with an error at once is refused.
pub(crate) async fn open(
    addr: IpAddr,
    method: &str,
    message: serde_json::Value,
) -> (StatusCode, String) {
    let message = message.to_string();
    let length = u32::try_from(message.len()).unwrap().to_be_bytes();
    let body = [&[0][..], &length, message.as_bytes()].concat();
    let content = ("application/connect+json", Bytes::from(body));
    let first = async |answer: Response<Incoming>| {
        assert_eq!(answer.status(), StatusCode::OK);
        let mut body = answer.into_body();
        let mut seen = Vec::new();
        let length = |seen: &[u8]| -> Option<usize> {
            let bytes = seen.get(1..5)?.try_into().unwrap();
            Some(5 + usize::try_from(u32::from_be_bytes(bytes)).unwrap())
        };
        while length(&seen).is_none_or(|length| seen.len() < length) {
            let frame = body.frame().await.expect("a message").unwrap();
            seen.extend_from_slice(&frame.into_data().unwrap());
        }
        let (flags, message) = (seen[0], &seen[5..length(&seen).unwrap()]);
        let text = String::from_utf8_lossy(message).into_owned();
        let message: serde_json::Value = serde_json::from_slice(message).unwrap();
        // An end without an error has none of its words.
        let status = match (flags & 2 != 0).then(|| message["error"]["code"].as_str()).flatten() {
            None => StatusCode::OK,
            Some("internal" | "unknown") => StatusCode::INTERNAL_SERVER_ERROR,
            Some(_refusal) => StatusCode::BAD_REQUEST,
        };
        (status, text)
    };
    exchange(addr, Method::POST, &format!("/{method}"), "root", content, first).await
}

/// A path as it stands in a query.
pub(crate) fn encoded(path: &str) -> String {
    path.bytes().map(|byte| format!("%{byte:02x}")).collect()
}

/// Writes `content` to `path` in the sandbox at `addr`.
pub(crate) async fn put(addr: IpAddr, path: &str, user: &str, content: Bytes) -> StatusCode {
    let uri = format!("/files?username={user}&path={}", encoded(path));
    ask(addr, Method::POST, &uri, user, ("application/octet-stream", content)).await.0
}
