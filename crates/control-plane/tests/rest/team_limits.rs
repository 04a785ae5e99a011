use std::time::Duration;

use control_plane::Rate;
use serde_json::json;

use crate::service::Service;

#[tokio::test]
async fn each_team_has_its_own_limits_and_a_change_is_in_force_at_once() {
    let service = Service::start().await;
    let (id, second) = service.second_team("two").await;
    let (admin, of_it) = (service.admin(), format!("/admin/teams/{id}"));
    let limits = json!({"limits": {"concurrentSandboxes": 1, "maxLengthS": 60}});
    let changed = admin.patch(&of_it, &limits).await.ok(200);
    assert_eq!(changed["limits"], json!({"concurrentSandboxes": 1, "maxLengthS": 60}));
    let body = |timeout: u32| json!({"templateID": "base", "timeout": timeout});
    assert!(second.post("/sandboxes", &body(61)).await.error(400).contains("60 seconds"));
    let sandbox = second.post("/sandboxes", &body(60)).await.ok(201);
    let path = format!("/sandboxes/{}", sandbox["sandboxID"].as_str().unwrap());
    let over = second.post("/sandboxes", &body(60)).await;
    assert!(over.error(429).contains("has 1 sandboxes"));
    assert!(over.header("retry-after").is_some());
    second.post(&format!("{path}/connect"), &json!({"timeout": 61})).await.error(400);
    // Moves of the end are capped, not refused.
    assert_eq!(second.post(&format!("{path}/timeout"), &json!({"timeout": 999})).await.status, 204);
    let left =
        service.node.ends_at(&service.node.only()).duration_since(std::time::SystemTime::now());
    assert!(left.unwrap() <= Duration::from_secs(60));
    // The other team has the service's limits.
    service.client.post("/sandboxes", &body(3600)).await.ok(201);
    service.client.post("/sandboxes", &body(3600)).await.ok(201);

    let change = json!({"limits": {"concurrentSandboxes": 2, "maxLengthS": null}});
    admin.patch(&of_it, &change).await.ok(200);
    second.post("/sandboxes", &body(3600)).await.ok(201);
    // What is not said stays.
    let changed = admin.patch(&of_it, &json!({"name": "three"})).await.ok(200);
    assert_eq!(changed["limits"]["concurrentSandboxes"], 2);
    assert_eq!(changed["name"], "three");
    for wrong in [json!({"maxLengthS": 0}), json!({"maxVcpus": 0}), json!({"maxLengthS": "1h"})] {
        admin.patch(&of_it, &json!({"limits": wrong})).await.error(400);
    }
    service.stop().await;
}

#[tokio::test]
async fn a_sandbox_too_big_for_its_team_is_refused_before_anything_is_made() {
    let service = Service::start().await;
    let (id, second) = service.second_team("two").await;
    let body = json!({"templateID": "base"});
    for (limit, message) in [("maxVcpus", "2 vcpus"), ("maxMemoryMb", "512 MiB of memory")] {
        let limits = json!({"limits": {limit: 1}});
        service.admin().patch(&format!("/admin/teams/{id}"), &limits).await.ok(200);
        assert!(second.post("/sandboxes", &body).await.error(400).contains(message));
        let limits = json!({"limits": {limit: null}});
        service.admin().patch(&format!("/admin/teams/{id}"), &limits).await.ok(200);
    }
    assert_eq!(service.node.count(), 0);
    second.post("/sandboxes", &body).await.ok(201);
    service.stop().await;
}

#[tokio::test]
async fn who_asks_too_fast_is_told_when_to_come_back() {
    let rate = Rate { per_second: 0.001, burst: 2 };
    let service = Service::start_with(|config| config.rate = Some(rate)).await;
    let (_, second) = service.second_team("two").await;
    for remaining in ["1", "0"] {
        let answer = service.client.get("/v2/sandboxes").await;
        assert_eq!(answer.header("ratelimit-limit"), Some("2"));
        assert_eq!(answer.header("ratelimit-remaining"), Some(remaining));
        assert!(answer.header("ratelimit-reset").unwrap().parse::<u64>().unwrap() > 0);
        answer.ok(200);
    }
    let denied = service.client.get("/v2/sandboxes").await;
    denied.error(429);
    assert_eq!(denied.header("ratelimit-remaining"), Some("0"));
    assert!(denied.header("retry-after").unwrap().parse::<u64>().unwrap() > 1);
    // Other endpoints and other teams are counted by themselves; refusals count, too.
    service.client.get("/sandboxes/inobody").await.error(404);
    service.client.get("/sandboxes/iother").await.error(404);
    service.client.get("/sandboxes/ithird").await.error(429);
    second.get("/v2/sandboxes").await.ok(200);
    // Whoever is not known is not counted, and operators are not.
    let nobody = service.client.without("x-api-key").get("/v2/sandboxes").await;
    nobody.error(401);
    assert_eq!(nobody.header("ratelimit-limit"), None);
    for _ in 0..4 {
        service.admin().get("/admin/teams").await.ok(200);
    }
    service.stop().await;
}

#[tokio::test]
async fn without_a_rate_nothing_is_said_of_one() {
    let service = Service::start().await;
    assert_eq!(service.client.get("/v2/sandboxes").await.header("ratelimit-limit"), None);
    service.stop().await;
}
