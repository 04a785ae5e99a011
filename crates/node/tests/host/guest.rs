//! A client of the guest agent for these tests.

use std::net::{IpAddr, SocketAddr};

use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioIo;

/// What a command did.
#[derive(Debug)]
pub(crate) struct Output {
    pub code: i64,
    pub stdout: String,
    pub stderr: String,
}

/// Runs `command` by the shell of the sandbox at `addr`, as `user`.
pub(crate) async fn run(addr: IpAddr, user: &str, command: &str) -> Output {
    run_with(addr, user, None, command).await
}

/// The same in a sandbox that asks for a token.
pub(crate) async fn run_with(
    addr: IpAddr,
    user: &str,
    token: Option<&str>,
    command: &str,
) -> Output {
    use base64::Engine;
    let b64 = base64::engine::general_purpose::STANDARD;
    let message = serde_json::json!({
        "process": { "cmd": "/bin/sh", "args": ["-c", command] }, "stdin": false,
    })
    .to_string();
    let mut body = vec![0];
    body.extend(u32::try_from(message.len()).unwrap().to_be_bytes());
    body.extend(message.as_bytes());
    let stream = tokio::net::TcpStream::connect(SocketAddr::new(addr, 49983)).await.unwrap();
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
    let mut request = hyper::Request::post("/process.Process/Start");
    if let Some(token) = token {
        request = request.header(guest_wire::rest::TOKEN_HEADER, token);
    }
    let request = request
        .header("host", "guest")
        .header("content-type", "application/connect+json")
        .header("connect-protocol-version", "1")
        .header("authorization", format!("Basic {}", b64.encode(format!("{user}:"))))
        .body(Full::new(bytes::Bytes::from(body)))
        .unwrap();
    let exchange = async {
        let response = sender.send_request(request).await.unwrap();
        assert_eq!(response.status(), 200);
        response.into_body().collect().await.unwrap().to_bytes()
    };
    let bytes = tokio::select! {
        bytes = exchange => bytes,
        ended = connection => panic!("connection ended: {ended:?}"),
    };
    let mut output = Output { code: -1, stdout: String::new(), stderr: String::new() };
    let mut rest = &bytes[..];
    while rest.len() >= 5 {
        let len = usize::try_from(u32::from_be_bytes(rest[1..5].try_into().unwrap())).unwrap();
        let (flags, frame) = (rest[0], &rest[5..5 + len]);
        rest = &rest[5 + len..];
        let value: serde_json::Value = serde_json::from_slice(frame).unwrap();
        if flags & 2 != 0 {
            assert!(value.get("error").is_none(), "{value}");
            continue;
        }
        let event = &value["event"];
        let text = |v: &serde_json::Value| {
            String::from_utf8(b64.decode(v.as_str().unwrap_or_default()).unwrap()).unwrap()
        };
        output.stdout += &text(&event["data"]["stdout"]);
        output.stderr += &text(&event["data"]["stderr"]);
        if let Some(end) = event.get("end") {
            output.code = end["exitCode"].as_i64().unwrap_or(0);
        }
    }
    output
}
