//! Our client and the server of another gRPC library, which knows the messages only from their
//! descriptors.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use lifecycle::TaskGroup;
use model::{DrainIsFinal, EndReason, NodePhase, NodeRequest};
use node_wire::grpc::Client;
use node_wire::{NodeApi, NodeError, StatusError};
use parking_lot::Mutex;
use prost_reflect::DynamicMessage;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tonic::server::Grpc;
use tonic::{Code, Request, Response, Status};

use crate::dynamic::{self, Dynamic, method};
use crate::fake_node::moment;
use crate::harness::{TOKEN, token};

/// What it was asked, and what it answers to which path.
#[derive(Debug, Default)]
struct Script {
    asked: Mutex<Vec<(String, Value)>>,
    answers: Mutex<Vec<(&'static str, Result<Value, Status>)>>,
}

impl Script {
    fn answer(&self, path: &str, asked: &Request<DynamicMessage>) -> Result<Value, Status> {
        let bearer = asked.metadata().get("authorization").unwrap().to_str().unwrap();
        assert_eq!(bearer, format!("Bearer {TOKEN}"));
        self.asked.lock().push((path.to_owned(), dynamic::json(asked.get_ref())));
        let answers = self.answers.lock();
        let found = answers.iter().find(|(known, _)| *known == path);
        found.map_or_else(
            || Err(Status::unimplemented("not scripted")),
            |(_, answer)| answer.clone(),
        )
    }
}

struct Other {
    script: Arc<Script>,
    client: Client,
    _tasks: TaskGroup,
}

async fn other_server() -> Other {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let script = Arc::new(Script::default());
    let tasks = TaskGroup::default();
    let told = Arc::clone(&script);
    tasks.spawn(tracing::Span::none(), async move {
        let (socket, _) = listener.accept().await.unwrap();
        let service = service_fn(move |request: http::Request<hyper::body::Incoming>| {
            let script = Arc::clone(&told);
            async move {
                let path = request.uri().path().to_owned();
                let method = method(&path);
                let output = method.output();
                let handler = tower::service_fn(move |asked: Request<DynamicMessage>| {
                    let answer = script.answer(&path, &asked);
                    let output = output.clone();
                    async move { answer.map(|json| Response::new(dynamic::message(output, &json))) }
                });
                // The codec of a server decodes the input.
                let mut grpc = Grpc::new(Dynamic { output: method.input() });
                Ok::<_, Infallible>(grpc.unary(handler, request).await)
            }
        });
        let connection = auto::Builder::new(TokioExecutor::new());
        drop(connection.serve_connection(TokioIo::new(socket), service).await);
    });
    let client = Client::new(&format!("http://{address}"), &token()).unwrap();
    Other { script, client, _tasks: tasks }
}

#[tokio::test]
async fn it_is_asked_in_e2bs_words() {
    let other = other_server().await;
    let empty = || Ok(json!({}));
    *other.script.answers.lock() = vec![
        ("/SandboxService/Delete", empty()),
        ("/SandboxService/Update", empty()),
        ("/InfoService/ServiceStatusOverride", empty()),
    ];
    let id = "i1".parse().unwrap();
    other.client.kill(&id, EndReason::Timeout).await.unwrap();
    other.client.set_end(&id, moment(60)).await.unwrap();
    other.client.request(NodeRequest::Standby).await.unwrap();
    other.client.request(NodeRequest::DrainForced).await.unwrap();
    let expected = [
        ("/SandboxService/Delete", json!({ "sandboxId": "i1", "killReason": "timeout" })),
        (
            "/SandboxService/Update",
            json!({ "sandboxId": "i1", "endTime": "1970-01-01T00:01:00.250Z" }),
        ),
        ("/InfoService/ServiceStatusOverride", json!({ "serviceStatus": "Standby" })),
        (
            "/InfoService/ServiceStatusOverride",
            json!({ "serviceStatus": "Draining", "forceStop": true }),
        ),
    ];
    let asked = other.script.asked.lock().clone();
    assert_eq!(asked, expected.map(|(path, json)| (path.to_owned(), json)));
}

#[tokio::test]
async fn its_answers_are_understood() {
    let other = other_server().await;
    let drain = json!({
        "node": "node-9",
        "serviceInstance": "x",
        "phase": "NODE_PHASE_FORCING",
        "changedAt": "1970-01-01T00:01:00.250Z",
        "counts": [{ "class": "WORK_CLASS_STUCK", "count": 2 }],
        "etaMs": "1500",
    });
    *other.script.answers.lock() =
        vec![("/cofferdam.node.v1.NodeService/GetDrainStatus", Ok(drain))];
    let drain = other.client.drain_status().await.unwrap();
    assert_eq!(drain.node.as_str(), "node-9");
    assert_eq!(drain.phase, NodePhase::Forcing);
    assert_eq!(drain.changed_at, moment(60));
    assert_eq!(drain.remaining(), 2);
    assert_eq!(drain.eta, Some(Duration::from_millis(1500)));
}

#[tokio::test]
async fn what_it_explains_is_understood_and_one_that_cannot_explains_nothing() {
    let other = other_server().await;
    let id = "i1".parse().unwrap();
    assert_eq!(other.client.explain(&id, None).await.unwrap(), None, "it has no such method");
    assert_eq!(other.client.adopt_report().await.unwrap(), None, "nor that one");
    let path = "/cofferdam.node.v1.NodeService/ExplainSandbox";
    let explanation = json!({
        "lifecycle": "l7",
        "steps": [{ "at": "1970-01-01T00:01:00.250Z", "name": "slot", "tookUs": "1500" }],
        "cpuTimeUs": "9",
        "output": ["Killed"],
    });
    *other.script.answers.lock() = vec![(path, Ok(json!({ "explanation": explanation })))];
    let run = "l7".parse().unwrap();
    let told = other.client.explain(&id, Some(&run)).await.unwrap().unwrap();
    assert_eq!((told.steps[0].at, told.steps[0].name.as_str()), (moment(60), "slot"));
    assert_eq!(told.steps[0].took, Some(Duration::from_micros(1500)));
    assert_eq!((told.cpu_time, told.memory_peak_bytes), (Some(Duration::from_micros(9)), None));
    assert_eq!(told.output, ["Killed"]);
    let asked = other.script.asked.lock().last().cloned().unwrap();
    assert_eq!(asked, (path.to_owned(), json!({ "sandbox": "i1", "lifecycle": "l7" })));
    *other.script.answers.lock() = vec![(path, Ok(json!({ "explanation": {} })))];
    let NodeError::Internal(why) = other.client.explain(&id, None).await.unwrap_err() else {
        panic!("an explanation of no run")
    };
    assert!(why.contains("explanation.lifecycle is not legal"), "{why}");
}

#[tokio::test]
async fn an_answer_that_makes_no_sense_is_an_error_that_names_the_field() {
    let other = other_server().await;
    let path = "/cofferdam.node.v1.NodeService/GetDrainStatus";
    let good = json!({
        "node": "n", "phase": 2, "changedAt": "1970-01-01T00:01:00Z",
    });
    let rows = [
        (json!({}), "drain.node is not legal"),
        (json!({ "node": "n", "phase": 77 }), "drain.phase has a value (77) that is not known"),
        (json!({ "node": "n", "phase": 2 }), "drain.changed_at is missing"),
        (json!({ "counts": [{}] }), "drain.counts has a value (0) that is not known"),
    ];
    for (change, text) in rows {
        let answer = match change.get("counts") {
            Some(counts) => {
                let mut answer = good.clone();
                answer["counts"] = counts.clone();
                answer
            }
            None => change,
        };
        *other.script.answers.lock() = vec![(path, Ok(answer))];
        let NodeError::Internal(why) = other.client.drain_status().await.unwrap_err() else {
            panic!("{text}")
        };
        assert!(why.contains(text), "{why}");
    }
}

#[tokio::test]
async fn its_errors_are_told_by_their_codes_as_it_gives_no_reasons() {
    let other = other_server().await;
    let answer = |status: Status| {
        *other.script.answers.lock() = vec![
            ("/SandboxService/Delete", Err(status.clone())),
            ("/InfoService/ServiceStatusOverride", Err(status)),
        ];
    };
    let id = "i1".parse().unwrap();
    answer(Status::new(Code::Unavailable, "down for now"));
    let failed = other.client.kill(&id, EndReason::Request).await.unwrap_err();
    assert_eq!(failed, NodeError::Unreachable("down for now".into()));
    answer(Status::new(Code::NotFound, "sandbox 'i1' not found"));
    let failed = other.client.kill(&id, EndReason::Request).await.unwrap_err();
    assert_eq!(failed, NodeError::NotFound("i1".into()));
    answer(Status::new(Code::Internal, "failed to delete sandbox 'i1'"));
    let failed = other.client.kill(&id, EndReason::Request).await.unwrap_err();
    assert_eq!(failed, NodeError::Internal("failed to delete sandbox 'i1'".into()));
    answer(Status::new(Code::FailedPrecondition, "service drain cannot be reversed"));
    let failed = other.client.request(NodeRequest::Healthy).await.unwrap_err();
    let is_final = DrainIsFinal { from: NodePhase::Draining };
    assert_eq!(failed, StatusError::DrainIsFinal(is_final));
}
