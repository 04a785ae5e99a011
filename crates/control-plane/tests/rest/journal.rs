//! What guest agents note of processes, in the logs of their sandboxes.

use std::time::Duration;

use model::SandboxId;
use serde_json::{Value, json};

use crate::service::{Service, wait_for};

impl Service {
    /// The lines of a log, the oldest first.
    async fn log(&self, id: &SandboxId, query: &str) -> Vec<Value> {
        let path = format!("/v2/sandboxes/{id}/logs?direction=forward{query}");
        let answer = self.client.get(&path).await.ok(200);
        answer["logs"].as_array().unwrap().clone()
    }

    async fn messages(&self, id: &SandboxId, query: &str) -> Vec<String> {
        let text = |line: &Value| line["message"].as_str().unwrap().to_owned();
        self.log(id, query).await.iter().map(text).collect()
    }

    fn journaled(&self) -> u32 {
        *self.node.journaled.borrow()
    }
}

const BEGUN: [&str; 2] = ["sandbox asked for", "sandbox started"];

fn begun_and(more: &[&str]) -> Vec<String> {
    BEGUN.iter().chain(more).map(|line| (*line).to_owned()).collect()
}

#[tokio::test]
async fn what_an_agent_has_noted_stands_in_the_log_once_and_in_its_place() {
    let service = Service::start().await;
    let id = service.create(json!({})).await;
    service.node.note(&id, "first");
    let timeout = format!("/sandboxes/{id}/timeout");
    assert_eq!(service.client.post(&timeout, &json!({"timeout": 60})).await.status, 204);
    service.node.note(&id, "second");
    let all = begun_and(&["first", "end moved", "second"]);
    for _again in 0..2 {
        assert_eq!(service.messages(&id, "").await, all);
    }
    // They are lines like all others.
    assert_eq!(service.messages(&id, "&level=info").await, begun_and(&["first", "second"]));
    assert_eq!(service.messages(&id, "&level=warn").await, [""; 0]);
    assert_eq!(service.messages(&id, "&search=process_start").await, ["first", "second"]);
    assert_eq!(service.messages(&id, "&search=seco").await, ["second"]);
    let newest = service.client.get(&format!("/v2/sandboxes/{id}/logs?limit=1")).await.ok(200);
    let newest = &newest["logs"][0];
    assert_eq!((&newest["message"], &newest["level"]), (&json!("second"), &json!("info")));
    let fields = json!({"event_type": "process_start", "logger": "process"});
    assert_eq!(newest["fields"], fields);
    // The older form says who says it.
    let logs = service.client.get(&format!("/sandboxes/{id}/logs")).await.ok(200);
    let logger = |line: &Value| -> Value {
        let line: Value = serde_json::from_str(line["line"].as_str().unwrap()).unwrap();
        line["logger"].clone()
    };
    let loggers: Vec<Value> = logs["logs"].as_array().unwrap().iter().map(logger).collect();
    assert_eq!(loggers, ["cofferdam", "cofferdam", "process", "cofferdam", "process"]);

    let service = service.restart(|_| {}).await;
    service.node.note(&id, "third");
    let all = begun_and(&["first", "end moved", "second", "third"]);
    assert_eq!(service.messages(&id, "").await, all, "each once, over a restart, too");
    service.node.run_anew(&id);
    service.node.note(&id, "after it");
    assert_eq!(service.messages(&id, "&search=after").await, ["after it"], "it counts anew");
    assert_eq!(service.messages(&id, "").await.len(), 7);
    service.stop().await;
}

#[tokio::test]
async fn another_team_sees_nothing_and_has_nobody_asked() {
    let service = Service::start().await;
    let id = service.create(json!({})).await;
    service.node.note(&id, "mine");
    let (_, other) = service.second_team("two").await;
    let path = format!("/v2/sandboxes/{id}/logs");
    let before = service.journaled();
    assert_eq!(other.get(&path).await.ok(200), json!({"logs": []}));
    assert_eq!(service.journaled(), before);
    assert_eq!(service.messages(&id, "").await, begun_and(&["mine"]));
    assert_eq!(other.get(&path).await.ok(200), json!({"logs": []}));
    service.stop().await;
}

#[tokio::test]
async fn much_that_an_agent_has_noted_is_read_to_its_end_and_pushes_nothing_else_out() {
    let service = Service::start().await;
    let id = service.create(json!({})).await;
    for n in 0..450 {
        service.node.note(&id, &format!("line {n}"));
    }
    let lines = service.messages(&id, "").await;
    assert_eq!(lines[..2], BEGUN);
    let expected: Vec<String> = (150..450).map(|n| format!("line {n}")).collect();
    assert_eq!(lines[2..], expected, "the newest");
    service.stop().await;
}

#[tokio::test]
async fn of_a_silent_agent_what_is_kept_is_told_and_it_keeps_nothing_from_happening() {
    let service = Service::start().await;
    let [id, other] = [service.create(json!({})).await, service.create(json!({})).await];
    service.node.note(&id, "before");
    assert_eq!(service.messages(&id, "").await, begun_and(&["before"]));
    service.node.note(&id, "unheard");
    service.node.hold_journals(true);
    assert_eq!(service.messages(&id, "").await, begun_and(&["before"]));
    assert_eq!(service.pause(&other, json!({})).await, 204);
    assert_eq!(service.client.delete(&format!("/sandboxes/{id}")).await.status, 204);
    assert!(!service.node.has(&id) && service.node.has(&other));
    let told = service.messages(&id, "&level=info").await;
    assert_eq!(told, begun_and(&["before", "sandbox ended"]));
    service.stop().await;
}

#[tokio::test]
async fn what_an_agent_has_noted_last_is_kept_before_its_sandbox_is_ended_or_paused() {
    let service = Service::start().await;
    let [one, other] = [service.create(json!({})).await, service.create(json!({})).await];
    service.node.note(&one, "last words");
    service.node.note(&other, "good night");
    assert_eq!(service.client.delete(&format!("/sandboxes/{one}")).await.status, 204);
    assert_eq!(service.pause(&other, json!({"memory": false})).await, 204);
    let asked = service.journaled();
    let told = service.messages(&one, "&level=info").await;
    assert_eq!(told, begun_and(&["last words", "sandbox ended"]));
    let told = service.messages(&other, "&level=info").await;
    assert_eq!(told, begun_and(&["good night", "sandbox paused"]));
    assert_eq!(service.journaled(), asked, "of neither is an agent asked any more");
    service.stop().await;
}

#[tokio::test]
async fn journals_are_read_though_nobody_asks_for_a_log() {
    let every = Duration::from_millis(20);
    let service = Service::start_with(|config| config.limits.sample_every = every).await;
    let id = service.create(json!({})).await;
    service.node.note(&id, "in a round");
    // Of two that begin from now on, the first is over when the second begins.
    let mut journaled = service.node.journaled.subscribe();
    let before = *journaled.borrow_and_update();
    journaled.wait_for(|journaled| *journaled >= before + 2).await.unwrap();
    service.node.lose(&id);
    wait_for(async || service.messages(&id, "&search=round").await == ["in a round"]).await;
    service.stop().await;
}

#[tokio::test]
async fn of_all_agents_together_the_newest_lines_are_kept() {
    let change = |config: &mut control_plane::Config| {
        config.limits.sample_every = Duration::from_millis(20);
        config.limits.agent_log_rows = 3;
    };
    let service = Service::start_with(change).await;
    let [one, other] = [service.create(json!({})).await, service.create(json!({})).await];
    for n in 0..4 {
        service.node.note(&one, &format!("early {n}"));
    }
    service.node.note(&other, "fresh");
    wait_for(async || {
        let early = service.messages(&one, "&search=early").await;
        early == ["early 2", "early 3"]
            && service.messages(&other, "&search=fresh").await == ["fresh"]
    })
    .await;
    assert_eq!(service.messages(&one, "").await, begun_and(&["early 2", "early 3"]));
    service.stop().await;
}
