use serde_json::{Value, json};

use crate::service::Service;

const TEAM: &str = "c0ffe7da-0000-4000-8000-000000000001";
const NOBODY: &str = "c0ffe7da-0000-4000-8000-00000000000f";

#[tokio::test]
async fn a_second_team_is_made_and_has_its_own_sandboxes() {
    let service = Service::start().await;
    let (id, second) = service.second_team("Data Team").await;
    let admin = service.admin();
    let listed = admin.get("/admin/teams").await.ok(200);
    let slugs: Vec<&Value> = listed.as_array().unwrap().iter().map(|team| &team["slug"]).collect();
    assert_eq!(slugs, ["default", "data-team"]);
    assert_eq!(listed[1]["teamID"], *id);
    assert_eq!(listed[1]["limits"], json!({"concurrentSandboxes": 10_000, "maxLengthS": 86_400}));
    let again = admin.post("/admin/teams", &json!({"name": "data team"})).await;
    assert!(again.error(409).contains("data-team"));
    admin.post("/admin/teams", &json!({"name": "data team", "slug": "d2"})).await.ok(201);
    for body in [
        json!({"name": ""}),
        json!({"name": "x", "slug": "X"}),
        json!({}),
        json!({"name": "\u{4e2d}"}),
    ] {
        admin.post("/admin/teams", &body).await.error(400);
    }

    let body = json!({"templateID": "base"});
    let own = second.post("/sandboxes", &body).await.ok(201);
    assert_eq!(second.get("/v2/sandboxes").await.ok(200).as_array().unwrap().len(), 1);
    assert_eq!(service.list("").await.len(), 0);
    // It outlives a restart, its sandbox too.
    let service = service.restart(|_| {}).await;
    let second = second_at(&service, &second);
    let path = format!("/sandboxes/{}", own["sandboxID"].as_str().unwrap());
    second.get(&path).await.ok(200);
    service.client.get(&path).await.error(404);
    service.stop().await;
}

/// The client of an earlier start, for this one.
fn second_at(service: &Service, earlier: &crate::client::Client) -> crate::client::Client {
    service.client.with("x-api-key", earlier.sent("x-api-key"))
}

#[tokio::test]
async fn there_are_only_so_many_teams() {
    let service = Service::start_with(|config| config.limits.teams = 2).await;
    service.second_team("two").await;
    service.admin().post("/admin/teams", &json!({"name": "three"})).await.error(409);
    service.stop().await;
}

#[tokio::test]
async fn a_banned_team_does_nothing_and_a_blocked_one_looks_and_deletes() {
    let service = Service::start().await;
    let (id, second) = service.second_team("two").await;
    let body = json!({"templateID": "base"});
    let sandbox = second.post("/sandboxes", &body).await.ok(201);
    let path = format!("/sandboxes/{}", sandbox["sandboxID"].as_str().unwrap());
    let (admin, of_it) = (service.admin(), format!("/admin/teams/{id}"));

    let blocked = admin.patch(&of_it, &json!({"blockedReason": "unpaid"})).await.ok(200);
    assert_eq!(blocked["blockedReason"], "unpaid");
    assert!(second.post("/sandboxes", &body).await.error(403).contains("unpaid"));
    second.post(&format!("{path}/timeout"), &json!({"timeout": 9})).await.error(403);
    second.get(&path).await.ok(200);
    let keys = format!("{of_it}/api-keys");
    admin.post(&keys, &json!({"name": "x"})).await.error(403);
    assert_eq!(second.delete(&path).await.status, 204);
    admin.patch(&of_it, &json!({"blockedReason": null})).await.ok(200);
    second.post("/sandboxes", &body).await.ok(201);

    admin.patch(&of_it, &json!({"banned": true})).await.ok(200);
    second.get("/v2/sandboxes").await.error(403);
    admin.with("x-team-id", &id).get("/v2/sandboxes").await.error(403);
    service.client.get("/v2/sandboxes").await.ok(200);
    let killed = admin.post(&format!("{of_it}/sandboxes/kill"), &json!({})).await.ok(200);
    assert_eq!(killed, json!({"killedCount": 1, "failedCount": 0}));
    assert_eq!(service.node.count(), 0);
    admin.patch(&format!("/admin/teams/{NOBODY}"), &json!({})).await.error(404);
    admin.patch("/admin/teams/x", &json!({})).await.error(400);
    service.stop().await;
}

#[tokio::test]
async fn an_operator_ends_what_a_team_runs_and_counts_what_all_do() {
    let service = Service::start().await;
    let (id, second) = service.second_team("two").await;
    let counts = "/admin/sandboxes/running-counts";
    assert_eq!(service.admin().get(counts).await.ok(200), json!({}));
    let mut ids = Vec::new();
    for _ in 0..3 {
        let sandbox = second.post("/sandboxes", &json!({"templateID": "base"})).await.ok(201);
        ids.push(sandbox["sandboxID"].as_str().unwrap().to_owned());
    }
    let own = service.create(json!({})).await;
    let expected = json!({TEAM: 1, (&*id): 3});
    assert_eq!(service.admin().get(counts).await.ok(200), expected);

    let stuck = model::SandboxId::parse(&ids[0]).unwrap();
    service.node.set_stuck(&stuck, true);
    let kill = format!("/admin/teams/{id}/sandboxes/kill");
    let killed = service.admin().post(&kill, &json!({})).await.ok(200);
    assert_eq!(killed, json!({"killedCount": 2, "failedCount": 1}));
    assert!(service.node.has(&own));
    let nobody = format!("/admin/teams/{NOBODY}/sandboxes/kill");
    let killed = service.admin().post(&nobody, &json!({})).await.ok(200);
    assert_eq!(killed, json!({"killedCount": 0, "failedCount": 0}));
    service.admin().post("/admin/teams/x/sandboxes/kill", &json!({})).await.error(400);
    let cancel = format!("/admin/teams/{id}/builds/cancel");
    let cancelled = service.admin().post(&cancel, &json!({})).await.ok(200);
    assert_eq!(cancelled, json!({"cancelledCount": 0, "failedCount": 0}));
    for path in [counts, "/admin/teams"] {
        service.client.get(path).await.error(401);
        service.admin().with("x-admin-token", "wrong").get(path).await.error(401);
    }
    service.stop().await;
}

#[tokio::test]
async fn keys_of_any_team_are_the_operators_to_make_and_take_back() {
    let service = Service::start().await;
    let (id, second) = service.second_team("two").await;
    let keys = format!("/admin/teams/{id}/api-keys");
    let listed = service.admin().get(&keys).await.ok(200);
    let key = listed[0]["id"].as_str().unwrap();
    // Of another team there is no such key.
    let foreign = format!("/admin/teams/{TEAM}/api-keys/{key}");
    service.admin().delete(&foreign).await.error(404);
    second.get("/v2/sandboxes").await.ok(200);
    assert_eq!(service.admin().delete(&format!("{keys}/{key}")).await.status, 204);
    second.get("/v2/sandboxes").await.error(401);
    service.admin().delete(&format!("{keys}/{key}")).await.error(404);
    service.admin().delete(&format!("{keys}/x")).await.error(400);
    let nobody = format!("/admin/teams/{NOBODY}/api-keys");
    service.admin().post(&nobody, &json!({"name": "x"})).await.error(404);
    service.admin().get(&nobody).await.error(404);
    service.stop().await;
}

#[tokio::test]
async fn a_team_sees_how_much_it_did() {
    let service = Service::start().await;
    let ended = service.create(json!({})).await;
    assert_eq!(service.client.delete(&format!("/sandboxes/{ended}")).await.status, 204);
    service.create(json!({})).await;
    service.create(json!({})).await;
    let metrics = format!("/teams/{TEAM}/metrics");
    let points = service.client.get(&metrics).await.ok(200);
    let last = points.as_array().unwrap().last().unwrap();
    assert!(last["concurrentSandboxes"].as_u64().unwrap() >= 2, "{last}");
    assert!(last["sandboxStartRate"].as_f64().unwrap() > 0.0, "{last}");
    assert!(last["timestamp"].is_string() && last["timestampUnix"].is_i64());
    assert_eq!(points[0]["concurrentSandboxes"], 0);
    let most =
        service.client.get(&format!("{metrics}/max?metric=concurrent_sandboxes")).await.ok(200);
    assert!(most["value"].as_f64().unwrap() >= 2.0, "{most}");
    service.client.get(&format!("{metrics}/max")).await.error(400);
    service.client.get(&format!("{metrics}?start=2&end=1")).await.error(400);
    // Others are not told apart from those that are not.
    let (other, _) = service.second_team("two").await;
    let unlike = |id: &str, answer: crate::client::Answer| answer.error(403).replace(id, "ID");
    let path = |id: &str| format!("/teams/{id}/metrics");
    let theirs = unlike(&other, service.client.get(&path(&other)).await);
    assert_eq!(theirs, unlike(NOBODY, service.client.get(&path(NOBODY)).await));
    service.stop().await;
}
