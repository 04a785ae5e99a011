//! The guest agent, with very many files.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use bytes::{Buf as _, Bytes, BytesMut};
use http::{Request, Response};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::SendRequest;
use serde_json::{Value, json};
use tokio::sync::watch;

use super::files::Busy;
use super::inside::Inside;
use crate::client::connect;

/// Between two looks at whether others wait.
const LOOK: Duration = Duration::from_millis(2);

pub(super) struct Agent {
    pub edge: SocketAddr,
    pub sandbox: String,
}

impl Agent {
    /// Lists a directory of `entries` files.
    pub(super) async fn list(&self, inside: &Inside, entries: u32) -> anyhow::Result<Busy> {
        inside.ask(&format!("/make/{entries}")).await?;
        let plain = Instant::now();
        inside.ask(&format!("/list/{entries}")).await?;
        let plain = plain.elapsed();
        let message = json!({ "path": format!("/home/user/{entries}"), "depth": 1 });
        let ((took, listed), slowest_other) = self
            .beside(async {
                let began = Instant::now();
                let (response, _connection) =
                    self.post("ListDir", "application/json", message.to_string().into()).await?;
                let body = response.into_body().collect().await?.to_bytes();
                anyhow::Ok((began.elapsed(), body))
            })
            .await?;
        let listed: Value = serde_json::from_slice(&listed)?;
        let found = listed["entries"].as_array().map_or(0, Vec::len);
        ensure!(found == usize::try_from(entries)?, "{found} of {entries} entries were listed");
        Ok(Busy { files: entries, took, plain, slowest_other })
    }

    /// Watches a directory of `files` files while each is written to.
    pub(super) async fn watch(&self, inside: &Inside, files: u32) -> anyhow::Result<Busy> {
        inside.ask(&format!("/make/{files}")).await?;
        let plain = Instant::now();
        inside.ask(&format!("/write/{files}")).await?;
        let plain = plain.elapsed();
        let message = json!({ "path": format!("/home/user/{files}") }).to_string();
        let mut framed = vec![0];
        framed.extend(u32::try_from(message.len())?.to_be_bytes());
        framed.extend(message.as_bytes());
        let (response, _connection) =
            self.post("WatchDir", "application/connect+json", framed.into()).await?;
        let mut events = Events { body: response.into_body(), left: BytesMut::new() };
        ensure!(events.next().await?["start"].is_object(), "the watch did not start");
        let (took, slowest_other) = self
            .beside(async {
                let began = Instant::now();
                let path = format!("/write/{files}");
                let (written, seen) = tokio::join!(inside.ask(&path), events.writes(files));
                written?;
                seen.map(|()| began.elapsed())
            })
            .await?;
        Ok(Busy { files, took, plain, slowest_other })
    }

    async fn post(
        &self,
        method: &str,
        content_type: &str,
        body: Bytes,
    ) -> anyhow::Result<(Response<Incoming>, SendRequest<Full<Bytes>>)> {
        let request = Request::post(format!("/filesystem.Filesystem/{method}"))
            .header("content-type", content_type)
            .header("connect-protocol-version", "1");
        let mut connection = connect(self.edge).await?;
        let response = connection.send_request(self.request(request, body)?).await?;
        ensure!(response.status() == 200, "{method}: {}", response.status());
        Ok((response, connection))
    }

    fn request(
        &self,
        request: http::request::Builder,
        body: Bytes,
    ) -> anyhow::Result<Request<Full<Bytes>>> {
        Ok(request
            .header("host", "localhost")
            .header("e2b-sandbox-id", &self.sandbox)
            .header("e2b-sandbox-port", guest_wire::ENVD_PORT)
            .body(Full::new(body))?)
    }

    /// Does `work`, and tells how long the slowest of many small requests beside it took.
    async fn beside<T>(
        &self,
        work: impl Future<Output = anyhow::Result<T>>,
    ) -> anyhow::Result<(T, Duration)> {
        let (done, is_done) = watch::channel(false);
        let work = async {
            let result = work.await;
            done.send_replace(true);
            result
        };
        let others = async {
            let mut connection = connect(self.edge).await?;
            let mut slowest = Duration::ZERO;
            while !*is_done.borrow() {
                let request = self.request(Request::get("/health"), Bytes::new())?;
                let began = Instant::now();
                connection.ready().await?;
                connection.send_request(request).await?.into_body().collect().await?;
                slowest = slowest.max(began.elapsed());
                tokio::time::sleep(LOOK).await;
            }
            anyhow::Ok(slowest)
        };
        let (worked, slowest) = tokio::join!(work, others);
        Ok((worked?, slowest?))
    }
}

/// The messages of a watch.
struct Events {
    body: Incoming,
    left: BytesMut,
}

impl Events {
    async fn next(&mut self) -> anyhow::Result<Value> {
        loop {
            if let Some(length) = self.length()
                && self.left.len() >= 5 + length
            {
                self.left.advance(5);
                return Ok(serde_json::from_slice(&self.left.split_to(length))?);
            }
            let frame = self.body.frame().await.context("the watch ended")??;
            self.left.extend(frame.into_data().unwrap_or_default());
        }
    }

    /// Of the first message.
    fn length(&self) -> Option<usize> {
        let length = u32::from_be_bytes(self.left.get(1..5)?.try_into().ok()?);
        usize::try_from(length).ok()
    }

    /// Waits until so many writes were told.
    async fn writes(&mut self, count: u32) -> anyhow::Result<()> {
        let mut seen = 0;
        while seen < count {
            let message = self.next().await?;
            ensure!(message.get("error").is_none(), "the watch failed: {message}");
            if message["filesystem"]["type"] == "EVENT_TYPE_WRITE" {
                seen += 1;
            }
        }
        Ok(())
    }
}
