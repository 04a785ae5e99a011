use std::time::Duration;

use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use model::{EndReason, NodePhase};
use serde_json::{Value, json};

use crate::fake_node::Fault;
use crate::service::{Service, wait_for};

/// A stream of lines that is being read.
struct Lines {
    body: Incoming,
    read: Vec<u8>,
}

impl Lines {
    async fn open(service: &Service) -> Self {
        let answer = service.admin().open("GET", "/nodes/a/drain?watch=true", "").await;
        assert_eq!(answer.status(), 200);
        assert_eq!(answer.headers()["content-type"], "application/x-ndjson");
        Self { body: answer.into_body(), read: Vec::new() }
    }

    /// The next line without its end; `None` when the stream is over.
    async fn next(&mut self) -> Option<String> {
        loop {
            if let Some(end) = self.read.iter().position(|byte| *byte == b'\n') {
                let rest = self.read.split_off(end + 1);
                let line = std::mem::replace(&mut self.read, rest);
                return Some(String::from_utf8(line).unwrap().trim_end().to_owned());
            }
            let frame = self.body.frame().await?.unwrap();
            self.read.extend_from_slice(&frame.into_data().unwrap());
        }
    }

    /// Reads on to the next document that is so.
    async fn until(&mut self, is_so: impl Fn(&Value) -> bool) -> Value {
        loop {
            let line = self.next().await.expect("the stream ended");
            if line.is_empty() {
                continue;
            }
            let document = serde_json::from_str(&line).unwrap();
            if is_so(&document) {
                return document;
            }
        }
    }
}

#[tokio::test]
async fn every_change_is_a_line_and_a_stopped_node_is_the_last() {
    let service = Service::start_nodes(["a"]).await;
    let id = service.create(json!({})).await;
    let mut lines = Lines::open(&service).await;
    let first: Value = serde_json::from_str(&lines.next().await.unwrap()).unwrap();
    assert_eq!((&first["phase"], &first["remaining"]), (&json!("healthy"), &json!(1)));
    let body = json!({"status": "draining"});
    assert_eq!(service.admin().post("/nodes/a", &body).await.status, 204);
    lines.until(|drain| drain["phase"] == "draining").await;
    service.node.end(&id, EndReason::Timeout);
    lines.until(|drain| drain["remaining"] == 0).await;
    // The node looks again and finds the same: that is not told.
    service.node.set_phase(NodePhase::Draining);
    service.ready().await;
    service.node.set_phase(NodePhase::Stopped);
    let last: Value = serde_json::from_str(&lines.next().await.unwrap()).unwrap();
    assert_eq!(last["phase"], "stopped");
    assert_eq!(lines.next().await, None);
    service.stop().await;
}

#[tokio::test]
async fn a_stream_on_which_nothing_changes_shows_that_it_lives() {
    let keep_alive = Duration::from_millis(5);
    let service = Service::start_with(|config| config.limits.keep_alive = keep_alive).await;
    let answer = service.admin().open("GET", "/nodes/node-1/drain?watch=true", "").await;
    let mut lines = Lines { body: answer.into_body(), read: Vec::new() };
    assert_ne!(lines.next().await.unwrap(), "");
    for _ in 0..3 {
        assert_eq!(lines.next().await.unwrap(), "");
    }
    drop(lines);
    service.stop().await;
}

#[tokio::test]
async fn the_end_of_a_client_or_of_the_node_ends_the_stream() {
    let service = Service::start_nodes(["a"]).await;
    let mut first = Lines::open(&service).await;
    let mut second = Lines::open(&service).await;
    first.next().await.unwrap();
    second.next().await.unwrap();
    assert_eq!(service.node.watched(), 2);
    drop(first);
    wait_for(async || {
        // A change is what finds out that nobody reads any more.
        service.node.set_phase(NodePhase::Draining);
        service.node.watched() == 1
    })
    .await;
    service.node.set_fault(Some(Fault::Unreachable));
    service.node.set_phase(NodePhase::Draining);
    while second.next().await.is_some() {}
    wait_for(async || service.node.watched() == 0).await;
    service.stop().await;
}

#[tokio::test]
async fn streams_are_bounded_and_closing_ends_them() {
    let service = Service::start_with(|config| config.limits.watchers = 1).await;
    let admin = service.admin();
    let path = "/nodes/node-1/drain?watch=true";
    let answer = admin.open("GET", path, "").await;
    let mut lines = Lines { body: answer.into_body(), read: Vec::new() };
    lines.next().await.unwrap();
    let refused = admin.get(path).await;
    assert!(refused.error(503).contains("1 streams"));
    assert_eq!(refused.header("retry-after"), Some("5"));
    admin.get("/nodes/node-1/drain").await.ok(200);
    let budget = lifecycle::Budget::within(Duration::from_secs(60));
    service.plane.close(budget).await.unwrap();
    while lines.next().await.is_some() {}
    service.stop().await;
}
