//! Our client and the server of another gRPC library, which knows the messages only from their
//! descriptors.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use lifecycle::TaskGroup;
use model::{DrainIsFinal, EndReason, Keep, NodePhase, NodeRequest};
use node_wire::grpc::Client;
use node_wire::{
    CreateError, JournalMark, NewSnapshot, NodeApi, NodeError, PauseError, RemoveError, StatusError,
};
use parking_lot::Mutex;
use prost_reflect::DynamicMessage;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tonic::server::Grpc;
use tonic::{Code, Request, Response, Status};

use crate::dynamic::{self, Dynamic, method};
use crate::fake_node::moment;
use crate::harness::{TOKEN, token};
use crate::own_client::spec;

const WATCH: &str = "/cofferdam.node.v1.NodeService/WatchEvents";

/// What it was asked, and what it answers to which path.
#[derive(Debug, Default)]
struct Script {
    asked: Mutex<Vec<(String, Value)>>,
    answers: Mutex<Vec<(&'static str, Result<Value, Status>)>>,
    /// Whether it thinks about a subscription to its events.
    held: watch::Sender<bool>,
}

impl Script {
    async fn answer(&self, path: &str, asked: Request<DynamicMessage>) -> Result<Value, Status> {
        let bearer = asked.metadata().get("authorization").unwrap().to_str().unwrap();
        assert_eq!(bearer, format!("Bearer {TOKEN}"));
        self.asked.lock().push((path.to_owned(), dynamic::json(asked.get_ref())));
        if path == WATCH {
            drop(self.held.subscribe().wait_for(|held| !held).await);
        }
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
                    let (script, path, output) =
                        (Arc::clone(&script), path.clone(), output.clone());
                    async move {
                        let json = script.answer(&path, asked).await?;
                        Ok::<_, Status>(Response::new(dynamic::message(output, &json)))
                    }
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

fn snapshot() -> NewSnapshot {
    NewSnapshot { template: "s".parse().unwrap(), build: "b".parse().unwrap(), passing: false }
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
    let nothing = other.client.journal(&id, &JournalMark::default()).await.unwrap();
    assert_eq!(nothing, None, "nor a third");
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
async fn it_is_asked_for_lists_when_it_is_known_whether_changes_will_be_told() {
    let other = other_server().await;
    let client = &other.client;
    // From now on there is a connection, on which calls go in the order they are made.
    client.leaks().await.unwrap_err();
    let _events = client.events();
    other.script.held.send_replace(true);
    let (mut list, mut paused) = (client.list(), client.paused());
    let both = (futures::poll!(&mut list), futures::poll!(&mut paused));
    assert!(both.0.is_pending() && both.1.is_pending());
    client.leaks().await.unwrap_err();
    let asked = || other.script.asked.lock().iter().map(|(path, _)| path.clone()).collect();
    let before: Vec<String> = asked();
    assert!(before.iter().all(|path| path == WATCH || path.ends_with("/GetLeaks")), "{before:?}");
    other.script.held.send_replace(false);
    list.await.unwrap_err();
    assert_eq!(paused.await.unwrap(), []);
    let after: Vec<String> = asked();
    assert!(after.iter().any(|path| path.ends_with("/ListPausedSandboxes")), "{after:?}");
    assert!(after.iter().any(|path| path.ends_with("/ListSandboxes")), "{after:?}");
}

#[tokio::test]
async fn one_of_an_older_version_has_paused_nothing_and_cannot() {
    let other = other_server().await;
    let id = "i1".parse().unwrap();
    assert_eq!(other.client.paused().await.unwrap(), [], "it has no such method");
    let unable = PauseError::Failed("the node is of a version that cannot pause".into());
    assert_eq!(other.client.pause(&id, Keep::Memory).await.unwrap_err(), unable);
    assert_eq!(other.client.snapshot(&id, snapshot()).await.unwrap_err(), unable);
    let limit = Duration::from_secs(1);
    let resumed = other.client.resume(spec("i1"), Keep::Memory, limit).await;
    assert_eq!(resumed.unwrap_err(), CreateError::NotPaused("i1".into()));
    let removed = other.client.remove_template(&snapshot().template).await;
    let RemoveError::Internal(why) = removed.unwrap_err() else { panic!("it removes nothing") };
    assert!(why.contains("of a version"), "{why}");
}

#[tokio::test]
async fn what_it_says_of_a_pause_is_understood_or_named() {
    let other = other_server().await;
    let id = "i1".parse().unwrap();
    let path = "/cofferdam.node.v1.NodeService/PauseSandbox";
    let good = json!({
        "id": "i1",
        "lifecycle": "l1",
        "team": "t",
        "template": "base",
        "build": "b",
        "resources": { "vcpus": 1 },
        "startedAt": "1970-01-01T00:01:00.250Z",
        "pausedAt": "1970-01-01T00:02:00.250Z",
    });
    *other.script.answers.lock() = vec![(path, Ok(good.clone()))];
    let paused = other.client.pause(&id, Keep::Files).await.unwrap();
    assert_eq!((paused.started_at, paused.paused_at), (moment(60), moment(120)));
    assert!(!paused.memory);
    let asked = other.script.asked.lock().last().cloned().unwrap();
    assert_eq!(asked.1, json!({ "sandbox": "i1", "keep": "KEEP_FILES" }));
    for (field, text) in [
        ("id", "paused.id is not legal"),
        ("lifecycle", "paused.lifecycle is not legal"),
        ("build", "paused.build is not legal"),
        ("resources", "paused.resources is missing"),
        ("pausedAt", "paused.paused_at is missing"),
    ] {
        let mut answer = good.clone();
        answer.as_object_mut().unwrap().remove(field);
        *other.script.answers.lock() = vec![(path, Ok(answer))];
        // What became of the sandbox is not known.
        let paused = other.client.pause(&id, Keep::Files).await;
        let PauseError::Unreachable(why) = paused.unwrap_err() else { panic!("{text}") };
        assert!(why.contains(text), "{why}");
    }
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
    let pause = |status: Status| {
        *other.script.answers.lock() = vec![
            ("/cofferdam.node.v1.NodeService/PauseSandbox", Err(status.clone())),
            ("/cofferdam.node.v1.NodeService/RemoveTemplate", Err(status)),
        ];
    };
    for (code, text) in [(Code::Unavailable, "down for now"), (Code::Internal, "no")] {
        pause(Status::new(code, text));
        let failed = other.client.pause(&id, Keep::Memory).await.unwrap_err();
        assert_eq!(failed, PauseError::Unreachable(text.into()), "what became of it is not known");
    }
    pause(Status::new(Code::NotFound, "sandbox not found"));
    let failed = other.client.pause(&id, Keep::Memory).await.unwrap_err();
    assert_eq!(failed, PauseError::NotFound("i1".into()));
    let failed = other.client.remove_template(&snapshot().template).await.unwrap_err();
    assert_eq!(failed, RemoveError::NotFound("s".into()));
    pause(Status::new(Code::Internal, "no"));
    let failed = other.client.remove_template(&snapshot().template).await.unwrap_err();
    assert_eq!(failed, RemoveError::Internal("no".into()));
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
