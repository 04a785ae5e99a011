use serde_json::json;

use crate::fake_node::template;
use crate::service::Service;

#[tokio::test]
async fn pages_follow_each_other_through_the_token() {
    let service = Service::start().await;
    let mut made = Vec::new();
    for _ in 0..5 {
        made.push(service.create(json!({})).await.to_string());
    }
    let first = service.client.get("/v2/sandboxes?limit=2").await;
    assert_eq!(first.header("x-total-running"), Some("5"));
    let mut seen = service.list("?limit=2").await;
    let mut token = first.header("x-next-token").map(str::to_owned);
    while let Some(next) = token {
        let query = format!("?limit=2&nextToken={}", next.replace('=', "%3D"));
        seen.extend(service.list(&query).await);
        let page = service.client.get(&format!("/v2/sandboxes{query}")).await;
        token = page.header("x-next-token").map(str::to_owned);
    }
    let ascending = service.list("?order=asc").await;
    assert_eq!(ascending, made);
    made.reverse();
    assert_eq!(seen, made);
    let all = service.client.get("/v2/sandboxes").await;
    assert_eq!(all.header("x-next-token"), None);
    service.stop().await;
}

#[tokio::test]
async fn the_metadata_filter_of_both_sdks_is_understood() {
    let service = Service::start().await;
    let odd = service.create(json!({"metadata": {"a b": "c&d=\u{e9}", "x": "1"}})).await;
    service.create(json!({"metadata": {"x": "1"}})).await;
    // As both SDKs were seen to send {"a b": "c&d=é"}.
    let query = "?metadata=a%252520b%3Dc%252526d%25253D%2525C3%2525A9";
    assert_eq!(service.list(query).await, [odd.as_str()]);
    assert_eq!(service.list("?metadata=x%3D1").await.len(), 2);
    assert_eq!(service.list("?metadata=x%3D1%26y%3D2").await, [""; 0]);
    let rows = service.client.get(&format!("/sandboxes{query}")).await.ok(200);
    assert_eq!(rows.as_array().unwrap().len(), 1);
    service.client.get("/v2/sandboxes?metadata=x").await.error(400);
    service.stop().await;
}

#[tokio::test]
async fn states_and_templates_filter() {
    let service = Service::start().await;
    service.node.set_templates(vec![
        template("basetemplateid00000a", "base"),
        template("othertemplateid0000b", "other"),
    ]);
    let base = service.create(json!({})).await;
    service.client.post("/sandboxes", &json!({"templateID": "other"})).await.ok(201);
    for query in ["?state=running,paused", "?state=running%2Cpaused", "?state=running", ""] {
        assert_eq!(service.list(query).await.len(), 2, "{query}");
    }
    let paused = service.client.get("/v2/sandboxes?state=paused").await;
    assert_eq!(paused.header("x-total-running"), None);
    assert_eq!(paused.ok(200), json!([]));
    for query in ["?template=base", "?template=basetemplateid00000a"] {
        assert_eq!(service.list(query).await, [base.as_str()], "{query}");
    }
    assert_eq!(service.list("?template=nope").await, [""; 0]);
    assert_eq!(service.list("?startedAfter=2999-01-01T00:00:00Z").await, [""; 0]);
    for query in ["?state=x", "?limit=0", "?limit=101", "?nextToken=x", "?template=a:b", "?order=x"]
    {
        service.client.get(&format!("/v2/sandboxes{query}")).await.error(400);
    }
    service.stop().await;
}

#[tokio::test]
async fn metrics_are_those_of_the_node_and_nothing_for_what_is_not_there() {
    let service = Service::start().await;
    let id = service.create(json!({})).await;
    let path = format!("/sandboxes/{id}/metrics");
    let metrics = service.client.get(&path).await.ok(200);
    assert_eq!(metrics.as_array().unwrap().len(), 2);
    assert_eq!(
        metrics[0],
        json!({
            "timestamp": "2023-11-14T22:13:20Z", "timestampUnix": 1_700_000_000, "cpuCount": 2,
            "cpuUsedPct": 12.5, "memUsed": 64 << 20, "memTotal": 512 << 20, "memCache": 8 << 20,
            "diskUsed": 1 << 20, "diskTotal": 1 << 30,
        })
    );
    let later = service.client.get(&format!("{path}?start=1700000001")).await.ok(200);
    assert_eq!(later.as_array().unwrap().len(), 1);
    service.client.get(&format!("{path}?start=2&end=1")).await.error(400);
    service.client.get(&format!("{path}?start=x")).await.error(400);
    assert_eq!(service.client.get("/sandboxes/inone/metrics").await.ok(200), json!([]));

    let latest = service.client.get(&format!("/sandboxes/metrics?sandbox_ids={id},inone")).await;
    let latest = latest.ok(200);
    assert_eq!(latest["sandboxes"][id.as_str()]["timestampUnix"], 1_700_000_010);
    assert_eq!(latest["sandboxes"].as_object().unwrap().len(), 1);
    service.client.get("/sandboxes/metrics").await.error(400);
    service.client.get("/sandboxes/metrics?sandbox_ids=A").await.error(400);
    let many: Vec<String> = (0..101).map(|n| format!("i{n}")).collect();
    let query = format!("/sandboxes/metrics?sandbox_ids={}", many.join(","));
    service.client.get(&query).await.error(400);
    service.stop().await;
}

#[tokio::test]
async fn templates_are_listed_with_how_often_they_were_used() {
    let service = Service::start().await;
    let templates = service.client.get("/templates").await.ok(200);
    assert_eq!(
        templates,
        json!([{
            "templateID": "basetemplateid00000a", "aliases": ["base"], "names": ["base"],
            "buildID": "11111111-2222-4333-8444-555555555555", "cpuCount": 2, "memoryMB": 512,
            "diskSizeMB": 1024, "public": true, "createdAt": "2023-11-14T22:13:20Z",
            "updatedAt": templates[0]["updatedAt"], "createdBy": null, "lastSpawnedAt": null,
            "spawnCount": 0, "buildCount": 1, "isDefault": true, "envdVersion": "0.6.4", "buildStatus": "ready",
        }])
    );
    service.create(json!({})).await;
    crate::service::wait_for(async || {
        let templates = service.client.get("/templates").await.ok(200);
        templates[0]["spawnCount"] == 1 && templates[0]["lastSpawnedAt"].is_string()
    })
    .await;
    let team = "c0ffe7da-0000-4000-8000-000000000001";
    service.client.get(&format!("/templates?teamID={team}")).await.ok(200);
    service.client.get("/templates?teamID=other").await.error(400);
    service.stop().await;
}

#[tokio::test]
async fn an_alias_says_which_template_it_is() {
    let service = Service::start().await;
    let found = service.client.get("/templates/aliases/base").await.ok(200);
    assert_eq!(found, json!({"templateID": "basetemplateid00000a", "public": true}));
    service.client.get("/templates/aliases/free").await.error(404);
    service.client.get("/templates/aliases/base%3Av9").await.error(404);
    service.client.get("/templates/aliases/default%2Ffree").await.error(404);
    service.client.get("/templates/aliases/other%2Fbase").await.error(400);
    service.client.get("/templates/aliases/a%20b").await.error(400);
    service.stop().await;
}
