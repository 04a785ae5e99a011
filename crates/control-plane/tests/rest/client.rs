use std::net::SocketAddr;

use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use lifecycle::TaskGroup;
use serde_json::Value;
use tokio::net::TcpStream;

/// One connection per request, nothing added to what is asked for.
#[derive(Debug, Clone)]
pub(crate) struct Client {
    addr: SocketAddr,
    headers: HeaderMap,
    connections: TaskGroup,
}

#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) text: String,
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.text)
            .unwrap_or_else(|error| panic!("{error}: {} {:?}", self.status, self.text))
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }

    /// Checks that this is an error as both SDKs need it; its message.
    #[track_caller]
    pub(crate) fn error(&self, status: u16) -> String {
        assert_eq!(self.status.as_u16(), status, "{}", self.text);
        assert_eq!(self.header("content-type"), Some("application/json"));
        let body = self.json();
        assert_eq!(body["code"], status);
        body["message"].as_str().unwrap().to_owned()
    }

    #[track_caller]
    pub(crate) fn ok(self, status: u16) -> Value {
        assert_eq!(self.status.as_u16(), status, "{}", self.text);
        self.json()
    }
}

impl Client {
    pub(crate) fn new(addr: SocketAddr) -> Self {
        Self { addr, headers: HeaderMap::new(), connections: TaskGroup::default() }
    }

    pub(crate) fn with(&self, name: &'static str, value: &str) -> Self {
        let mut client = self.clone();
        client.headers.insert(name, value.parse().unwrap());
        client
    }

    /// The value of a header it sends.
    pub(crate) fn sent(&self, name: &str) -> &str {
        self.headers.get(name).unwrap().to_str().unwrap()
    }

    pub(crate) fn without(&self, name: &str) -> Self {
        let mut client = self.clone();
        client.headers.remove(name);
        client
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.send("GET", path, Bytes::new()).await
    }

    pub(crate) async fn delete(&self, path: &str) -> Answer {
        self.send("DELETE", path, Bytes::new()).await
    }

    pub(crate) async fn post(&self, path: &str, body: &Value) -> Answer {
        self.with("content-type", "application/json").send("POST", path, body.to_string()).await
    }

    pub(crate) async fn put(&self, path: &str, body: &Value) -> Answer {
        self.with("content-type", "application/json").send("PUT", path, body.to_string()).await
    }

    pub(crate) async fn patch(&self, path: &str, body: &Value) -> Answer {
        self.with("content-type", "application/json").send("PATCH", path, body.to_string()).await
    }

    pub(crate) async fn send(&self, method: &str, path: &str, body: impl Into<Bytes>) -> Answer {
        let (parts, body) = self.open(method, path, body).await.into_parts();
        let bytes = body.collect().await.unwrap().to_bytes();
        Answer {
            status: parts.status,
            headers: parts.headers,
            text: String::from_utf8(bytes.to_vec()).unwrap(),
        }
    }

    /// A request to a service that dies before it answers.
    pub(crate) async fn try_post(&self, path: &str, body: &Value, key: &'static str) {
        let client = self.with("content-type", "application/json").with("idempotency-key", key);
        drop(client.try_open("POST", path, body.to_string()).await);
    }

    /// A request to a service that dies before it answers.
    pub(crate) async fn try_delete(&self, path: &str) {
        drop(self.try_open("DELETE", path, "").await);
    }

    /// As [`Client::send`], for an answer that is not read to its end.
    pub(crate) async fn open(
        &self,
        method: &str,
        path: &str,
        body: impl Into<Bytes>,
    ) -> Response<Incoming> {
        self.try_open(method, path, body).await.unwrap()
    }

    async fn try_open(
        &self,
        method: &str,
        path: &str,
        body: impl Into<Bytes>,
    ) -> hyper::Result<Response<Incoming>> {
        let stream = TcpStream::connect(self.addr).await.unwrap();
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
        // A connection that breaks shows in the answer.
        self.connections.spawn(tracing::Span::none(), async move { drop(connection.await) });
        let mut request =
            Request::builder().method(method).uri(path).body(Full::new(body.into())).unwrap();
        *request.headers_mut() = self.headers.clone();
        request.headers_mut().insert("host", "sandboxes.test".parse().unwrap());
        sender.send_request(request).await
    }
}
