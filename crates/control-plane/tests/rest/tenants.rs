//! What is another team's is as unknown as what never was: the same status, the same body.

use serde_json::{Value, json};

use crate::client::{Answer, Client};
use crate::service::Service;

const NEVER_WAS: &str = "izzzzzzzzzzzzzzzzzzzz";

/// Every endpoint that names a sandbox, with a body that would do.
fn of_a_sandbox() -> Vec<(&'static str, &'static str, Value)> {
    vec![
        ("GET", "/sandboxes/ID", Value::Null),
        ("DELETE", "/sandboxes/ID", Value::Null),
        ("GET", "/sandboxes/ID/explain", Value::Null),
        ("POST", "/sandboxes/ID/connect", json!({"timeout": 60})),
        ("POST", "/v2/sandboxes/ID/connect", json!({})),
        ("POST", "/sandboxes/ID/timeout", json!({"timeout": 60})),
        ("POST", "/sandboxes/ID/refreshes", json!({"duration": 60})),
        ("PUT", "/sandboxes/ID/network", json!({})),
        ("GET", "/sandboxes/ID/metrics", Value::Null),
        ("GET", "/sandboxes/metrics?sandbox_ids=ID", Value::Null),
        ("POST", "/sandboxes/ID/pause", json!({})),
        ("POST", "/sandboxes/ID/resume", json!({})),
        ("POST", "/sandboxes/ID/fork", json!({})),
        ("POST", "/sandboxes/ID/snapshots", json!({})),
        ("GET", "/sandboxes/ID/logs", Value::Null),
        ("GET", "/v2/sandboxes/ID/logs", Value::Null),
    ]
}

#[tokio::test]
async fn every_endpoint_that_names_a_sandbox_is_compared() {
    let service = Service::start().await;
    let document = service.client.get("/openapi.json").await.ok(200);
    let named = document["paths"]
        .as_object()
        .unwrap()
        .iter()
        .filter(|(path, _)| path.trim_start_matches("/v2").starts_with("/sandboxes/{id}"));
    for (path, operations) in named {
        let path = path.replace("{id}", "ID");
        for method in operations.as_object().unwrap().keys() {
            let is_this = |known: &(&str, &str, Value)| {
                known.0.eq_ignore_ascii_case(method) && known.1 == path
            };
            assert!(of_a_sandbox().iter().any(is_this), "{method} {path} is not compared");
        }
    }
    service.stop().await;
}

async fn call(client: &Client, (method, path, body): &(&str, &str, Value), id: &str) -> Answer {
    let path = path.replace("ID", id);
    if body.is_null() {
        return client.send(method, &path, "").await;
    }
    client.with("content-type", "application/json").send(method, &path, body.to_string()).await
}

fn seen(answer: &Answer, id: &str) -> (u16, String, Option<String>) {
    let kind = answer.header("content-type").map(str::to_owned);
    (answer.status.as_u16(), answer.text.replace(id, "ID"), kind)
}

#[tokio::test]
async fn a_sandbox_of_another_team_is_as_unknown_as_one_that_never_was() {
    let service = Service::start().await;
    let theirs = service.create(json!({"metadata": {"secret": "theirs"}})).await;
    let (_, other) = service.second_team("two").await;
    for endpoint in of_a_sandbox() {
        let foreign = call(&other, &endpoint, theirs.as_str()).await;
        let never = call(&other, &endpoint, NEVER_WAS).await;
        assert_eq!(seen(&foreign, theirs.as_str()), seen(&never, NEVER_WAS), "{endpoint:?}");
        assert!(!foreign.text.contains("theirs\""), "{endpoint:?}");
        // And it is there, for whoever may see it: the comparison is of something.
        let (method, path, _) = &endpoint;
        if *method == "GET" && !path.contains("logs") {
            let own = call(&service.client, &endpoint, theirs.as_str()).await;
            assert_ne!(seen(&own, theirs.as_str()), seen(&never, NEVER_WAS), "{endpoint:?}");
        }
    }
    assert!(service.node.has(&theirs));
    assert_eq!(service.node.kills_of(&theirs), 0);
    assert_eq!(service.list("").await.len(), 1);
    assert_eq!(other.get("/sandboxes").await.ok(200), json!([]));
    service.stop().await;
}

#[tokio::test]
async fn keys_and_tokens_of_another_team_are_as_unknown_as_those_that_never_were() {
    let service = Service::start().await;
    let (id, _) = service.second_team("two").await;
    let theirs = service.admin().with("x-team-id", &id);
    let mine = service.admin().with("x-team-id", "c0ffe7da-0000-4000-8000-000000000001");
    let name = json!({"name": "x"});
    let never = "c0ffe7da-0000-4000-8000-00000000000f";
    for (made, kept) in [("/api-keys", true), ("/access-tokens", false)] {
        let secret = theirs.post(made, &name).await.ok(201);
        let secret = secret["id"].as_str().unwrap();
        let path = |id: &str| format!("{made}/{id}");
        if kept {
            let renamed = mine.patch(&path(secret), &name).await;
            assert_eq!(seen(&renamed, secret), seen(&mine.patch(&path(never), &name).await, never));
        }
        let deleted = mine.delete(&path(secret)).await;
        assert_eq!(seen(&deleted, secret), seen(&mine.delete(&path(never)).await, never));
        assert_eq!(theirs.delete(&path(secret)).await.status, 204);
    }
    service.stop().await;
}

#[tokio::test]
async fn a_key_of_a_request_means_nothing_to_another_team() {
    let service = Service::start().await;
    let (_, other) = service.second_team("two").await;
    let body = json!({"templateID": "base"});
    let with_key = |client: &Client| client.with("idempotency-key", "same");
    let first = with_key(&service.client).post("/v2/sandboxes", &body).await.ok(201);
    let second = with_key(&other).post("/v2/sandboxes", &body).await.ok(201);
    assert_ne!(first["sandboxID"], second["sandboxID"]);
    service.stop().await;
}

#[tokio::test]
async fn a_snapshot_of_another_team_is_as_unknown_as_one_that_never_was() {
    let service = Service::start().await;
    let theirs = service.create(json!({})).await;
    let path = format!("/sandboxes/{theirs}/snapshots");
    let named = service.client.post(&path, &json!({"name": "mine"})).await.ok(201);
    assert_eq!(named["snapshotID"], "default/mine:default");
    let unnamed = service.client.post(&path, &json!({})).await.ok(201);
    let unnamed = unnamed["snapshotID"].as_str().unwrap().split(':').next().unwrap().to_owned();
    let (_, other) = service.second_team("two").await;
    for query in [format!("sandboxID={theirs}"), "name=mine".to_owned(), String::new()] {
        let listed = other.get(&format!("/snapshots?{query}")).await;
        assert_eq!(listed.ok(200), json!([]), "{query}");
    }
    for (theirs, never) in
        [("default/mine", "default/nope"), ("mine", "nope"), (&*unnamed, "zzzzzzzzzzzzzzzzzzzz")]
    {
        let template = |name: &str| format!("/templates/{}", name.replace('/', "%2F"));
        let alias = |name: &str| template(name).replace("templates", "templates/aliases");
        let create = |name: &str| ("POST", "/sandboxes", json!({"templateID": name}));
        for (method, path) in [("DELETE", template(theirs)), ("GET", alias(theirs))] {
            let foreign = other.send(method, &path, "").await;
            let path = path.replace(&theirs.replace('/', "%2F"), &never.replace('/', "%2F"));
            let unknown = other.send(method, &path, "").await;
            let (foreign, unknown) = (seen(&foreign, last(theirs)), seen(&unknown, last(never)));
            assert_eq!(foreign, unknown, "{method} {path}");
        }
        let foreign = call(&other, &create(theirs), "").await;
        let unknown = call(&other, &create(never), "").await;
        assert_eq!(seen(&foreign, last(theirs)), seen(&unknown, last(never)));
    }
    let own = service.client.post("/sandboxes", &json!({"templateID": "mine"})).await;
    own.ok(201);
    service.stop().await;
}

/// A name without its namespace, which not every message has.
fn last(name: &str) -> &str {
    name.rsplit('/').next().unwrap()
}
