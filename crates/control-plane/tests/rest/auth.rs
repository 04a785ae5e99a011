use control_plane::Config;
use e2b_wire::ApiKey;
use model::Secret;

use crate::client::Client;
use crate::service::{ADMIN_TOKEN, Service};

const TEAM: &str = "c0ffe7da-0000-4000-8000-000000000001";

#[tokio::test]
async fn without_the_right_key_nothing_is_answered() {
    let service = Service::start().await;
    let nobody = Client::new(service.addr);
    assert!(nobody.get("/v2/sandboxes").await.error(401).contains("X-API-Key"));
    let bearer = nobody.with("authorization", "Bearer sk_e2b_00");
    assert!(bearer.get("/v2/sandboxes").await.error(401).contains("X-API-Key"));
    for key in ["", "nope", "e2b_", "e2b_xyz", "e2b_00", &ApiKey::generate().expose()] {
        let client = nobody.with("x-api-key", key);
        for path in ["/v2/sandboxes", "/sandboxes/iabc", "/templates", "/snapshots", "/volumes"] {
            client.get(path).await.error(401);
        }
        client.post("/sandboxes", &serde_json::json!("not even looked at")).await.error(401);
    }
    service.client.get("/v2/sandboxes").await.ok(200);
    service.stop().await;
}

#[tokio::test]
async fn an_operator_acts_for_a_team() {
    let service = Service::start().await;
    let admin = Client::new(service.addr).with("x-admin-token", ADMIN_TOKEN);
    admin.get("/v2/sandboxes").await.error(401);
    admin.with("x-team-id", TEAM).get("/v2/sandboxes").await.ok(200);
    admin.with("x-team-id", &TEAM.to_uppercase()).get("/v2/sandboxes").await.ok(200);
    admin.with("x-team-id", "x").get("/v2/sandboxes").await.error(400);
    let other = TEAM.replace("01", "02");
    admin.with("x-team-id", &other).get("/v2/sandboxes").await.error(404);
    let wrong = admin.with("x-admin-token", "wrong").with("x-team-id", TEAM);
    wrong.get("/v2/sandboxes").await.error(401);
    let both = wrong.with("x-api-key", &service.key.expose());
    both.get("/v2/sandboxes").await.ok(200);
    service.stop().await;
}

#[tokio::test]
async fn an_empty_admin_token_opens_nothing() {
    let empty = |config: &mut Config| config.admin_token = Secret::new(String::new());
    let service = Service::start_with(empty).await;
    let admin = Client::new(service.addr).with("x-admin-token", "");
    admin.get("/nodes").await.error(401);
    admin.with("x-team-id", TEAM).get("/v2/sandboxes").await.error(401);
    service.stop().await;
}

#[tokio::test]
async fn a_new_key_replaces_the_old_one_and_neither_is_in_the_database() {
    let service = Service::start().await;
    let old = service.key.clone();
    let new = ApiKey::generate();
    let service = service.restart_with_key(new.clone()).await;
    service.client.get("/v2/sandboxes").await.ok(200);
    let stale = Client::new(service.addr).with("x-api-key", &old.expose());
    stale.get("/v2/sandboxes").await.error(401);
    service.stop().await;
    let database = service.database();
    for key in [&old, &new] {
        let text = key.expose();
        let hex = text.strip_prefix("e2b_").unwrap();
        assert!(!database.windows(hex.len()).any(|window| window == hex.as_bytes()));
    }
}
