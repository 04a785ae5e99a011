//! Connect RPC from the client's side: unary calls, and streams of frames.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::{Buf as _, Bytes, BytesMut};
use http::{Method, StatusCode};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use serde_json::{Value, json};

use crate::program::Envd;
use crate::wire::{Answer, Headers};

pub(crate) const END_FLAG: u8 = 2;

/// `flags`, length, payload.
pub(crate) fn frame(flags: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![flags];
    frame.extend_from_slice(&u32::try_from(payload.len()).unwrap().to_be_bytes());
    frame.extend_from_slice(payload);
    frame
}

impl Envd {
    /// A unary call; the answer as it is.
    pub(crate) async fn call(&self, method: &str, body: Value, headers: Headers<'_>) -> Answer {
        let mut all = vec![("content-type", "application/json")];
        all.extend_from_slice(headers);
        self.post(&format!("/{method}"), &all, body.to_string()).await
    }

    /// A unary call that must succeed.
    pub(crate) async fn ok(&self, method: &str, body: Value) -> Value {
        let answer = self.call(method, body, &[]).await;
        assert_eq!(answer.status, StatusCode::OK, "{method}: {}", answer.text());
        answer.json()
    }

    /// A unary call that must fail: status, code, message.
    pub(crate) async fn fails(&self, method: &str, body: Value) -> (u16, String, String) {
        let answer = self.call(method, body, &[]).await;
        let error = answer.json();
        let text = |field: &str| error[field].as_str().unwrap_or_default().to_owned();
        (answer.status.as_u16(), text("code"), text("message"))
    }

    pub(crate) async fn stream(&self, method: &str, body: Value, headers: Headers<'_>) -> Frames {
        let payload = body.to_string();
        let mut all = vec![("content-type", "application/connect+json")];
        all.extend_from_slice(headers);
        self.raw_stream(method, frame(0, payload.as_bytes()), &all).await
    }

    pub(crate) async fn raw_stream(
        &self,
        method: &str,
        body: Vec<u8>,
        headers: Headers<'_>,
    ) -> Frames {
        let path = format!("/{method}");
        let response = self.open(Method::POST, &path, headers, Bytes::from(body)).await;
        assert_eq!(response.status(), StatusCode::OK);
        Frames { body: response.into_body(), received: BytesMut::new() }
    }

    /// Starts `command` by a shell.
    pub(crate) async fn shell(&self, command: &str, headers: Headers<'_>) -> Frames {
        let request = json!({"process": {"cmd": "/bin/sh", "args": ["-c", command]}});
        self.stream("process.Process/Start", request, headers).await
    }

    /// Runs `command` by a shell to its end.
    pub(crate) async fn run(&self, command: &str) -> Outcome {
        self.shell(command, &[]).await.outcome().await
    }
}

/// The frames of one answer.
pub(crate) struct Frames {
    body: Incoming,
    received: BytesMut,
}

/// How a stream of a process ended.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Outcome {
    pub(crate) pid: u64,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
    pub(crate) terminal: String,
    pub(crate) end: Value,
    /// Of the last frame; null for success.
    pub(crate) error: Value,
}

impl Frames {
    /// What is still to come, and what of it was received already.
    pub(crate) fn into_parts(self) -> (Incoming, BytesMut) {
        (self.body, self.received)
    }

    /// The next frame: its flags and payload. `None` after the last.
    pub(crate) async fn frame(&mut self) -> Option<(u8, Bytes)> {
        loop {
            if let Some(head) = self.received.first_chunk::<5>() {
                let [flags, a, b, c, d] = *head;
                let length = usize::try_from(u32::from_be_bytes([a, b, c, d])).unwrap();
                if self.received.len() >= 5 + length {
                    self.received.advance(5);
                    return Some((flags, self.received.split_to(length).freeze()));
                }
            }
            let piece = self.body.frame().await?.unwrap();
            self.received.extend_from_slice(piece.data_ref().unwrap());
        }
    }

    /// The next message of a JSON stream; the error of the last frame if there is no message.
    pub(crate) async fn message(&mut self) -> Result<Value, Value> {
        let (flags, payload) = self.frame().await.expect("a stream must end with an end frame");
        let value: Value = serde_json::from_slice(&payload).unwrap();
        if flags & END_FLAG == 0 { Ok(value) } else { Err(value["error"].clone()) }
    }

    /// The next event.
    pub(crate) async fn event(&mut self) -> Value {
        let message = self.message().await;
        message.unwrap_or_else(|error| panic!("the stream ended: {error}"))["event"].clone()
    }

    /// The pid in the first event.
    pub(crate) async fn started(&mut self) -> u64 {
        let event = self.event().await;
        event["start"]["pid"].as_u64().unwrap_or_else(|| panic!("not a start: {event}"))
    }

    /// Reads data until what came of `output` contains `text`.
    pub(crate) async fn until(&mut self, output: &str, text: &str) -> String {
        let mut all = Vec::new();
        loop {
            let event = self.event().await;
            if let Some(data) = event["data"][output].as_str() {
                all.extend(STANDARD.decode(data).unwrap());
            }
            let so_far = String::from_utf8_lossy(&all);
            assert!(event["end"].is_null(), "ended before {text:?}: {so_far:?}");
            if so_far.contains(text) {
                return so_far.into_owned();
            }
        }
    }

    /// Everything from the start to the last frame.
    pub(crate) async fn outcome(mut self) -> Outcome {
        let pid = match self.message().await {
            Ok(message) => message["event"]["start"]["pid"].as_u64().unwrap(),
            Err(error) => return Outcome { error, ..Outcome::default() },
        };
        self.rest(pid).await
    }

    /// What comes after the start.
    pub(crate) async fn rest(mut self, pid: u64) -> Outcome {
        let (mut stdout, mut stderr, mut terminal) = (Vec::new(), Vec::new(), Vec::new());
        let mut end = Value::Null;
        let error = loop {
            let event = match self.message().await {
                Ok(message) => message["event"].clone(),
                Err(error) => break error,
            };
            assert!(end.is_null(), "something came after the end: {event}");
            for (name, all) in
                [("stdout", &mut stdout), ("stderr", &mut stderr), ("pty", &mut terminal)]
            {
                if let Some(data) = event["data"][name].as_str() {
                    all.extend(STANDARD.decode(data).unwrap());
                }
            }
            end = event["end"].clone();
        };
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        Outcome {
            pid,
            stdout: text(stdout),
            stderr: text(stderr),
            terminal: text(terminal),
            end,
            error,
        }
    }
}

pub(crate) fn base64(data: &[u8]) -> String {
    STANDARD.encode(data)
}

/// The `Authorization` header value that names a user.
pub(crate) fn basic(user: &str) -> String {
    format!("Basic {}", base64(format!("{user}:").as_bytes()))
}
