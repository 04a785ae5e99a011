use e2b_wire::{AccessToken, ApiKey};
use serde_json::json;

use crate::client::Client;
use crate::service::{ADMIN_TOKEN, Service, wait_for};

const TEAM: &str = "c0ffe7da-0000-4000-8000-000000000001";

/// Looks after the keys of the first team.
fn keeper(service: &Service) -> Client {
    service.admin().with("x-team-id", TEAM)
}

#[tokio::test]
async fn a_key_is_made_shown_once_renamed_used_and_taken_back_at_once() {
    let service = Service::start().await;
    let keeper = keeper(&service);
    let made = keeper.post("/api-keys", &json!({"name": " ci "})).await.ok(201);
    let (id, key) = (made["id"].as_str().unwrap(), made["key"].as_str().unwrap());
    assert_eq!(made["name"], "ci");
    assert_eq!(made["mask"]["prefix"], "e2b_");
    assert_eq!(made["mask"]["valueLength"], 40);
    assert!(key.ends_with(made["mask"]["maskedValueSuffix"].as_str().unwrap()), "{made}");
    let user = service.client.with("x-api-key", key);
    user.get("/v2/sandboxes").await.ok(200);

    let path = format!("/api-keys/{id}");
    assert_eq!(keeper.patch(&path, &json!({"name": "builds"})).await.status, 202);
    let of_it = async || {
        let listed = keeper.get("/api-keys").await.ok(200);
        assert!(!listed.to_string().contains(key), "the key is told once");
        listed.as_array().unwrap().iter().find(|row| row["id"] == id).cloned()
    };
    wait_for(async || of_it().await.unwrap()["lastUsed"].is_string()).await;
    assert_eq!(of_it().await.unwrap()["name"], "builds");

    assert_eq!(keeper.delete(&path).await.status, 204);
    user.get("/v2/sandboxes").await.error(401);
    assert_eq!(of_it().await, None);
    let gone = keeper.delete(&path).await;
    assert_eq!(
        (gone.status.as_u16(), gone.header("content-type")),
        (404, Some("text/plain; charset=utf-8"))
    );
    assert_eq!(keeper.patch(&path, &json!({"name": "x"})).await.status, 404);
    keeper.delete("/api-keys/x").await.error(400);
    keeper.post("/api-keys", &json!({"name": ""})).await.error(400);
    service.stop().await;
    let database = service.database();
    assert!(!database.windows(40).any(|window| window == &key.as_bytes()[4..]));
}

#[tokio::test]
async fn keys_outlive_a_restart_and_the_configured_one_cannot_be_taken_back() {
    let service = Service::start().await;
    let made = keeper(&service).post("/api-keys", &json!({"name": "ci"})).await.ok(201);
    let service = service.restart(|_| {}).await;
    service.client.with("x-api-key", made["key"].as_str().unwrap()).get("/snapshots").await;
    let user = service.client.with("x-api-key", made["key"].as_str().unwrap());
    user.get("/v2/sandboxes").await.ok(200);
    let listed = keeper(&service).get("/api-keys").await.ok(200);
    let configured =
        listed.as_array().unwrap().iter().find(|row| row["name"] == "default").unwrap();
    let path = format!("/api-keys/{}", configured["id"].as_str().unwrap());
    assert!(keeper(&service).delete(&path).await.error(409).contains("credentials.env"));
    service.client.get("/v2/sandboxes").await.ok(200);
    service.stop().await;
}

#[tokio::test]
async fn a_key_does_not_look_after_keys() {
    let service = Service::start().await;
    let json = json!({"name": "x"});
    assert!(service.client.get("/api-keys").await.error(401).contains("does not manage keys"));
    service.client.post("/api-keys", &json).await.error(401);
    service.client.post("/access-tokens", &json).await.error(401);
    service.client.get("/teams").await.error(401);
    // Nor the admin token alone: it does not say for which team.
    service.admin().get("/api-keys").await.error(401);
    service.stop().await;
}

#[tokio::test]
async fn an_access_token_stands_for_its_team_where_people_are_meant() {
    let service = Service::start().await;
    let made = keeper(&service).post("/access-tokens", &json!({"name": "ann"})).await.ok(201);
    let (id, token) = (made["id"].as_str().unwrap(), made["token"].as_str().unwrap());
    assert_eq!(made["mask"]["prefix"], "sk_e2b_");
    let nobody = Client::new(service.addr);
    let person = nobody.with("authorization", &format!("Bearer {token}"));
    let teams = person.get("/teams").await.ok(200);
    assert_eq!(teams[0]["teamID"], TEAM);
    let key = teams[0]["apiKey"].as_str().unwrap();
    nobody.with("x-api-key", key).get("/v2/sandboxes").await.ok(200);
    person.get("/templates").await.ok(200);
    person.get("/api-keys").await.ok(200);
    // Sandboxes are for keys.
    person.get("/v2/sandboxes").await.error(401);
    // A token and a key of the same bytes are two secrets.
    let as_key = format!("e2b_{}", token.strip_prefix("sk_e2b_").unwrap());
    nobody.with("x-api-key", &as_key).get("/v2/sandboxes").await.error(401);
    let as_token = format!("Bearer sk_{}", service.key.expose());
    nobody.with("authorization", &as_token).get("/teams").await.error(401);
    for wrong in ["Bearer x.y.z", "Bearer sk_e2b_", "", &AccessToken::generate().expose()] {
        nobody.with("authorization", wrong).get("/teams").await.error(401);
    }
    assert_eq!(person.delete(&format!("/access-tokens/{id}")).await.status, 204);
    person.get("/teams").await.error(401);
    service.stop().await;
}

#[tokio::test]
async fn of_several_credentials_the_first_that_holds_counts_and_of_failures_the_first_is_told() {
    let service = Service::start().await;
    let made = keeper(&service).post("/access-tokens", &json!({"name": "ann"})).await.ok(201);
    let token = format!("Bearer {}", made["token"].as_str().unwrap());
    let unknown = ApiKey::generate().expose();
    let person = Client::new(service.addr).with("authorization", &token);
    person.with("x-api-key", &unknown).get("/templates").await.ok(200);
    let wrong = person.with("x-admin-token", "wrong").with("x-team-id", TEAM);
    wrong.get("/api-keys").await.ok(200);
    let all_wrong = wrong.with("authorization", "Bearer x").with("x-api-key", &unknown);
    assert!(all_wrong.get("/templates").await.error(401).contains("API key is not known"));
    all_wrong.with("x-admin-token", ADMIN_TOKEN).get("/templates").await.ok(200);
    service.stop().await;
}

#[tokio::test]
async fn a_team_has_only_so_many_keys() {
    let service = Service::start_with(|config| config.limits.team_keys = 3).await;
    let keeper = keeper(&service);
    let json = json!({"name": "x"});
    for _ in 0..2 {
        keeper.post("/api-keys", &json).await.ok(201);
    }
    assert!(keeper.post("/api-keys", &json).await.error(409).contains("as many as it may"));
    // Those that a login makes, too.
    keeper.get("/teams").await.error(409);
    keeper.post("/access-tokens", &json).await.ok(201);
    let service = service.restart(|_| {}).await;
    service.client.get("/v2/sandboxes").await.ok(200);
    service.stop().await;
}
