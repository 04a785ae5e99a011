use std::time::Duration;

use model::EndReason;
use serde_json::{Value, json};

use crate::service::{Service, wait_for};

fn messages(entries: &Value) -> Vec<&str> {
    entries.as_array().unwrap().iter().map(|entry| entry["message"].as_str().unwrap()).collect()
}

#[tokio::test]
async fn the_log_of_a_sandbox_says_what_became_of_it() {
    let service = Service::start().await;
    let id = service.create(json!({})).await;
    let timeout = format!("/sandboxes/{id}/timeout");
    assert_eq!(service.client.post(&timeout, &json!({"timeout": 60})).await.status, 204);
    let network = format!("/sandboxes/{id}/network");
    let rules = json!({"denyOut": ["192.0.2.0/24"]});
    assert_eq!(service.client.put(&network, &rules).await.status, 204);
    assert_eq!(service.client.delete(&format!("/sandboxes/{id}")).await.status, 204);

    let logs = service.client.get(&format!("/sandboxes/{id}/logs")).await.ok(200);
    let all = [
        "sandbox asked for",
        "sandbox started",
        "end moved",
        "network rules changed",
        "end asked for",
        "sandbox ended",
    ];
    assert_eq!(messages(&logs["logEntries"]), all);
    // The official command line reads each line as JSON with a level in it.
    let lines = logs["logs"].as_array().unwrap();
    let last: Value = serde_json::from_str(lines[5]["line"].as_str().unwrap()).unwrap();
    let expected = json!({"level": "info", "logger": "cofferdam", "message": "sandbox ended",
        "reason": "request"});
    assert_eq!(last, expected);
    assert!(lines[0]["timestamp"].as_str().unwrap() <= lines[5]["timestamp"].as_str().unwrap());
    // It outlives a restart.
    let service = service.restart(|_| {}).await;
    let again = service.client.get(&format!("/sandboxes/{id}/logs")).await.ok(200);
    assert_eq!(again, logs);
    service.stop().await;
}

#[tokio::test]
async fn a_log_is_read_from_a_moment_on_and_back_by_level_and_by_text() {
    let service = Service::start().await;
    let id = service.create(json!({})).await;
    let timeout = format!("/sandboxes/{id}/timeout");
    assert_eq!(service.client.post(&timeout, &json!({"timeout": 60})).await.status, 204);
    service.node.end(&id, EndReason::Crashed);
    service.is(&id, "ended").await;
    let get = async |query: &str| {
        let answer = service.client.get(&format!("/v2/sandboxes/{id}/logs{query}")).await;
        answer.ok(200)["logs"].clone()
    };
    let newest = get("").await;
    let all = ["sandbox ended", "end moved", "sandbox started", "sandbox asked for"];
    assert_eq!(messages(&newest), all);
    let oldest = get("?direction=forward").await;
    assert_eq!(messages(&oldest), all.into_iter().rev().collect::<Vec<_>>());
    assert_eq!(messages(&get("?limit=2").await), all[..2]);
    assert_eq!(messages(&get("?limit=0").await), [""; 0]);
    assert_eq!(messages(&get("?level=info").await), [all[0], all[2], all[3]]);
    assert_eq!(messages(&get("?level=error").await), [all[0]]);
    assert_eq!(newest[0]["fields"], json!({"reason": "crashed"}));
    assert_eq!(messages(&get("?search=started").await), [all[2]]);
    assert_eq!(messages(&get("?search=crashed").await), [all[0]], "fields are looked into");
    assert_eq!(messages(&get("?search=Started").await), [""; 0], "case matters");
    assert_eq!(messages(&get("?search=%25").await), [""; 0], "text, no pattern");
    // By time: nothing is from before the beginning or from after now.
    assert_eq!(messages(&get("?cursor=1000").await), [""; 0]);
    assert_eq!(messages(&get("?cursor=1000&direction=forward").await).len(), 4);
    assert_eq!(messages(&get("?cursor=99999999999999&direction=forward").await), [""; 0]);
    for wrong in [
        "limit=1001",
        "limit=-1",
        "direction=up",
        "level=all",
        "cursor=x",
        "cursor=9223372036854775807",
    ] {
        let path = format!("/v2/sandboxes/{id}/logs?{wrong}");
        service.client.get(&path).await.error(400);
    }
    let long = format!("/v2/sandboxes/{id}/logs?search={}", "x".repeat(257));
    service.client.get(&long).await.error(400);
    service.stop().await;
}

#[tokio::test]
async fn whoever_follows_a_log_sees_each_line_once() {
    let service = Service::start().await;
    let id = service.create(json!({})).await;
    let mut seen: Vec<String> = Vec::new();
    let mut start = 0;
    for round in 0..3 {
        let timeout = format!("/sandboxes/{id}/timeout");
        let body = json!({"timeout": 60 + round});
        assert_eq!(service.client.post(&timeout, &body).await.status, 204);
        let path = format!("/sandboxes/{id}/logs?start={start}");
        let logs = service.client.get(&path).await.ok(200);
        for entry in logs["logEntries"].as_array().unwrap() {
            seen.push(entry["message"].as_str().unwrap().to_owned());
            let at: jiff::Timestamp = entry["timestamp"].as_str().unwrap().parse().unwrap();
            start = at.as_millisecond() + 1;
        }
        // As the official command line does: the next line is of another millisecond.
        let before = std::time::SystemTime::now();
        wait_for(async || before.elapsed().unwrap() > Duration::from_millis(2)).await;
    }
    let moved = ["end moved"; 3];
    let expected: Vec<&str> =
        ["sandbox asked for", "sandbox started"].into_iter().chain(moved).collect();
    assert_eq!(seen, expected);
    service.stop().await;
}

#[tokio::test]
async fn a_log_has_a_bound_and_its_newest_lines() {
    let service = Service::start().await;
    let id = service.create(json!({})).await;
    let timeout = format!("/sandboxes/{id}/timeout");
    for seconds in 0..1005 {
        let body = json!({"timeout": 100 + seconds});
        assert_eq!(service.client.post(&timeout, &body).await.status, 204);
    }
    let path = format!("/v2/sandboxes/{id}/logs?direction=forward&search=sandbox");
    assert_eq!(service.client.get(&path).await.ok(200)["logs"], json!([]), "the oldest are gone");
    let all = service.client.get(&format!("/v2/sandboxes/{id}/logs")).await.ok(200);
    assert_eq!(all["logs"].as_array().unwrap().len(), 1000);
    service.stop().await;
}

#[tokio::test]
async fn samples_are_kept_longer_than_a_node_keeps_them() {
    let every = Duration::from_millis(20);
    let service = Service::start_with(|config| config.limits.sample_every = every).await;
    let id = service.create(json!({})).await;
    let path = format!("/sandboxes/{id}/metrics");
    // Both samples of this node are of one minute, long ago; the last one is kept.
    let of_node = service.client.get(&path).await.ok(200);
    assert_eq!(of_node.as_array().unwrap().len(), 2);
    // Of two rounds that begin from now on, the first is over when the second begins.
    let mut sampled = service.node.sampled.subscribe();
    let before = *sampled.borrow_and_update();
    sampled.wait_for(|sampled| *sampled >= before + 2).await.unwrap();
    service.node.lose(&id);
    let mut kept = Value::Null;
    wait_for(async || {
        kept = service.client.get(&path).await.ok(200);
        kept.as_array().unwrap().len() == 1
    })
    .await;
    assert_eq!(kept[0], of_node[1]);
    let service = service.restart(|_| {}).await;
    assert_eq!(service.client.get(&path).await.ok(200), kept, "over a restart, and after its end");
    let (_, other) = service.second_team("two").await;
    assert_eq!(other.get(&path).await.ok(200), json!([]));
    service.stop().await;
}
