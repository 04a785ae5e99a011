//! An HTTP/1.1 client on one kept connection.

use std::net::SocketAddr;

use anyhow::{Context, ensure};
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

#[derive(Debug)]
pub(crate) struct Client {
    sender: SendRequest<Full<Bytes>>,
    key: String,
}

/// One connection to `address`.
pub(crate) async fn connect(address: SocketAddr) -> anyhow::Result<SendRequest<Full<Bytes>>> {
    let stream = TcpStream::connect(address).await.context("connect")?;
    stream.set_nodelay(true)?;
    let (sender, connection) = handshake(TokioIo::new(stream)).await.context("handshake")?;
    #[expect(clippy::disallowed_methods, reason = "ends with the connection, in a benchmark")]
    drop(tokio::spawn(connection));
    Ok(sender)
}

impl Client {
    pub(crate) async fn new(address: SocketAddr, key: &str) -> anyhow::Result<Self> {
        Ok(Self { sender: connect(address).await?, key: key.to_owned() })
    }

    pub(crate) async fn call(
        &mut self,
        method: &str,
        path: &str,
        body: &str,
    ) -> anyhow::Result<Response<Bytes>> {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", "localhost")
            .header("x-api-key", &self.key)
            .header("content-type", "application/json")
            .body(Full::new(Bytes::from(body.to_owned())))?;
        self.send(request).await
    }

    /// A call as the operator.
    pub(crate) async fn admin(
        &mut self,
        token: &str,
        method: &str,
        path: &str,
        body: &str,
    ) -> anyhow::Result<Response<Bytes>> {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", "localhost")
            .header("x-admin-token", token)
            .header("content-type", "application/json")
            .body(Full::new(Bytes::from(body.to_owned())))?;
        self.send(request).await
    }

    async fn send(&mut self, request: Request<Full<Bytes>>) -> anyhow::Result<Response<Bytes>> {
        self.sender.ready().await?;
        let response = self.sender.send_request(request).await?;
        let (head, body) = response.into_parts();
        Ok(Response::from_parts(head, body.collect().await?.to_bytes()))
    }

    /// `POST /sandboxes`: the id of a running sandbox.
    pub(crate) async fn create(&mut self) -> anyhow::Result<String> {
        let body = r#"{"templateID":"base","timeout":3600}"#;
        let response = self.call("POST", "/sandboxes", body).await?;
        ensure!(response.status() == 201, "create: {} {:?}", response.status(), response.body());
        let value: serde_json::Value = serde_json::from_slice(response.body())?;
        Ok(value["sandboxID"].as_str().context("no sandboxID")?.to_owned())
    }

    pub(crate) async fn kill(&mut self, id: &str) -> anyhow::Result<()> {
        let response = self.call("DELETE", &format!("/sandboxes/{id}"), "").await?;
        ensure!(response.status() == 204, "kill: {} {:?}", response.status(), response.body());
        Ok(())
    }

    /// What `commands.run("true")` of the SDKs sends.
    pub(crate) async fn run_true(&mut self, id: &str) -> anyhow::Result<()> {
        self.run(id, "true").await
    }

    /// Runs `command` to its end.
    pub(crate) async fn run(&mut self, id: &str, command: &str) -> anyhow::Result<()> {
        let response = self.send(start(id, command)?).await?;
        let text = String::from_utf8_lossy(response.body());
        ensure!(text.contains("\"exited\":true"), "command: {} {text}", response.status());
        Ok(())
    }
}

/// Starts `command` in sandbox `id` and leaves it running.
pub(crate) async fn leave_running(
    address: SocketAddr,
    id: &str,
    command: &str,
) -> anyhow::Result<()> {
    let mut sender = connect(address).await?;
    let response = sender.send_request(start(id, command)?).await?;
    ensure!(response.status() == 200, "start: {}", response.status());
    // The first frame says that it runs.
    response.into_body().frame().await.context("no frame")??;
    Ok(())
}

fn start(id: &str, command: &str) -> anyhow::Result<Request<Full<Bytes>>> {
    let process = serde_json::json!({ "cmd": "/bin/bash", "args": ["-l", "-c", command] });
    let message = serde_json::json!({ "process": process, "stdin": false }).to_string();
    let mut body = vec![0];
    body.extend(u32::try_from(message.len())?.to_be_bytes());
    body.extend(message.as_bytes());
    Ok(Request::post("/process.Process/Start")
        .header("host", "localhost")
        .header("e2b-sandbox-id", id)
        .header("e2b-sandbox-port", guest_wire::ENVD_PORT.to_string())
        .header("content-type", "application/connect+json")
        .header("connect-protocol-version", "1")
        .body(Full::new(Bytes::from(body)))?)
}
