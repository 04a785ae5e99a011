//! Snapshots: taken, listed, started and deleted.

use model::SandboxId;
use node_wire::PauseError;
use serde_json::{Value, json};

use crate::client::{Answer, Client};
use crate::fake_node::Fault;
use crate::service::{Service, wait_for};

async fn take(service: &Service, id: &SandboxId, body: Value) -> Answer {
    service.client.post(&format!("/sandboxes/{id}/snapshots"), &body).await
}

/// The id of a new snapshot.
async fn taken(service: &Service, id: &SandboxId, body: Value) -> String {
    take(service, id, body).await.ok(201)["snapshotID"].as_str().unwrap().to_owned()
}

async fn ids(client: &Client, query: &str) -> Vec<String> {
    let rows = client.get(&format!("/snapshots{query}")).await.ok(200);
    let id = |row: &Value| row["snapshotID"].as_str().unwrap().to_owned();
    rows.as_array().unwrap().iter().map(id).collect()
}

fn encoded(id: &str) -> String {
    format!("/templates/{}", id.replace('/', "%2F").replace(':', "%3A"))
}

async fn start(client: &Client, template: &str) -> Answer {
    client.post("/sandboxes", &json!({"templateID": template})).await
}

impl Service {
    /// The client of another team.
    pub(crate) async fn other_team(&self) -> Client {
        let team = json!({"name": "Other", "slug": "other"});
        let made = self.admin().post("/admin/teams", &team).await.ok(201);
        let id = made["teamID"].as_str().unwrap();
        Client::new(self.addr)
            .with("x-admin-token", crate::service::ADMIN_TOKEN)
            .with("x-team-id", id)
    }
}

/// As at E2B: a request that brings variables brings all of them.
#[tokio::test]
async fn one_made_of_a_snapshot_has_the_variables_of_its_source_unless_it_brings_its_own() {
    let service = Service::start().await;
    let id = service.create(json!({"envVars": {"A": "1", "B": "2"}})).await;
    let snapshot = taken(&service, &id, json!({"name": "n"})).await;
    let env = || {
        let env = service.node.last_spec().env;
        env.into_iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>()
    };
    start(&service.client, &snapshot).await.ok(201);
    assert_eq!(env(), ["A=1", "B=2"]);
    let body = json!({"templateID": snapshot, "envVars": {"A": "3"}});
    let made = service.client.post("/v2/sandboxes", &body).await.ok(201);
    assert_eq!(env(), ["A=3"]);
    // One more build of it has what its source has.
    let other: SandboxId = made["sandboxID"].as_str().unwrap().parse().unwrap();
    assert_eq!(taken(&service, &other, json!({"name": "n"})).await, snapshot);
    let service = service.restart(|_| {}).await;
    let none = json!({"templateID": snapshot, "envVars": {}});
    let made = service.client.post("/sandboxes", &none).await.ok(201);
    let spec = service.node.last_spec();
    assert_eq!(spec.env.into_iter().collect::<Vec<_>>(), [("A".to_owned(), "3".to_owned())]);
    // They are its own then, and are there when it starts anew.
    let id: SandboxId = made["sandboxID"].as_str().unwrap().parse().unwrap();
    assert_eq!(service.pause(&id, json!({"memory": false})).await, 204);
    assert_eq!(service.connect(&id).await, 201);
    assert_eq!(service.node.last_spec().env.len(), 1);
    service.stop().await;
}

#[tokio::test]
async fn a_snapshot_is_started_by_its_id_and_its_source_runs_on() {
    let service = Service::start().await;
    let id = service.create(json!({})).await;
    let before = service.detail(&id).await;
    let made = take(&service, &id, json!({})).await.ok(201);
    assert_eq!(made["names"], json!([]));
    let snapshot = made["snapshotID"].as_str().unwrap();
    let bare = snapshot.strip_suffix(":default").unwrap();
    assert_eq!(bare.len(), 20);
    assert_eq!(service.detail(&id).await, before);
    for name in [snapshot, bare] {
        let sandbox = start(&service.client, name).await.ok(201);
        assert_eq!(sandbox["templateID"], bare);
        let alias = encoded(name).replace("templates", "templates/aliases");
        let told = service.client.get(&alias).await.ok(200);
        assert_eq!(told, json!({"templateID": bare, "public": false}), "its team's alone");
    }
    assert_eq!(ids(&service.client, "").await, [snapshot]);
    assert_eq!(ids(&service.client, &format!("?sandboxID={id}")).await, [snapshot]);
    assert_eq!(ids(&service.client, "?sandboxID=iother").await, [""; 0]);
    let templates = service.client.get("/templates").await.ok(200);
    assert_eq!(templates.as_array().unwrap().len(), 1, "it is none of everybody's: {templates}");
    service.stop().await;
}

#[tokio::test]
async fn a_name_has_tags_and_a_tag_that_is_used_again_gets_another_build() {
    let service = Service::start().await;
    let (first, second) = (service.create(json!({})).await, service.create(json!({})).await);
    let made = take(&service, &first, json!({"name": "App"})).await.ok(201);
    assert_eq!(made, json!({"snapshotID": "default/app:default", "names": ["default/app"]}));
    assert_eq!(taken(&service, &first, json!({"name": "default/app:v1"})).await, "default/app:v1");
    let template = async |name: &str| {
        start(&service.client, name).await.ok(201)["templateID"].as_str().unwrap().to_owned()
    };
    let before = template("app").await;
    assert_ne!(template("app:v1").await, before);
    assert_eq!(taken(&service, &second, json!({"name": "app"})).await, "default/app:default");
    assert_eq!(template("default/app").await, before, "one more build of the same");
    assert_eq!(service.node.snapshots(), 2);
    assert_eq!(ids(&service.client, "?name=app").await.len(), 2, "any tag");
    assert_eq!(ids(&service.client, "?name=app:default").await, ["default/app:default"]);
    assert_eq!(ids(&service.client, "?name=default%2Fapp%3Av1").await, ["default/app:v1"]);
    assert_eq!(ids(&service.client, "?name=nope").await, [""; 0]);
    assert_eq!(ids(&service.client, "?name=elsewhere/app").await, [""; 0]);
    start(&service.client, "app:v2").await.error(404);
    for name in ["a b", "elsewhere/app", "app:11111111-2222-4333-8444-555555555555", "a:b:c"] {
        take(&service, &first, json!({"name": name})).await.error(400);
    }
    service.stop().await;
}

#[tokio::test]
async fn a_deleted_snapshot_is_gone_to_its_users_and_from_its_node_after_the_last_of_them() {
    let service = Service::start().await;
    let id = service.create(json!({})).await;
    taken(&service, &id, json!({"name": "app"})).await;
    taken(&service, &id, json!({"name": "app:v1"})).await;
    let other = taken(&service, &id, json!({})).await;
    let user = start(&service.client, "app").await.ok(201);
    // The tag does not count: all of the name go.
    let path = encoded("default/app:v1");
    assert_eq!(service.client.delete(&path).await.status, 204);
    service.client.delete(&path).await.error(404);
    start(&service.client, "app").await.error(404);
    assert_eq!(ids(&service.client, "").await, [other.as_str()]);
    assert_eq!(service.node.snapshots(), 2, "one is in use");
    let user = user["sandboxID"].as_str().unwrap();
    service.client.get(&format!("/sandboxes/{user}")).await.ok(200);
    // The name is free again.
    assert_eq!(taken(&service, &id, json!({"name": "app"})).await, "default/app:default");
    service.client.delete(&format!("/sandboxes/{user}")).await;
    service.compare();
    wait_for(async || service.node.snapshots() == 2).await;
    assert_eq!(service.client.delete(&encoded(&other)).await.status, 204);
    assert_eq!(service.node.snapshots(), 1);
    assert_eq!(ids(&service.client, "").await, ["default/app:default"]);
    service.stop().await;
}

#[tokio::test]
async fn snapshots_outlive_their_sandbox_and_the_control_plane() {
    let service = Service::start().await;
    let id = service.create(json!({})).await;
    taken(&service, &id, json!({"name": "app"})).await;
    service.client.delete(&format!("/sandboxes/{id}")).await;
    let service = service.restart(|_| {}).await;
    assert_eq!(ids(&service.client, "").await, ["default/app:default"]);
    start(&service.client, "app").await.ok(201);
    service.client.delete("/templates/base").await.error(501);
    service.stop().await;
}

#[tokio::test]
async fn nothing_of_another_team_can_be_told_from_what_never_was() {
    let service = Service::start().await;
    let id = service.create(json!({})).await;
    let snapshot = taken(&service, &id, json!({"name": "app"})).await;
    let bare = taken(&service, &id, json!({})).await;
    let stranger = service.other_team().await;
    assert_eq!(ids(&stranger, "").await, [""; 0]);
    assert_eq!(ids(&stranger, "?name=app").await, [""; 0]);
    assert_eq!(ids(&stranger, &format!("?sandboxID={id}")).await, [""; 0]);
    let never = "default/never:default";
    for (known, unknown) in [
        (snapshot.as_str(), never),
        ("app", "never"),
        (bare.as_str(), "aaaaaaaaaaaaaaaaaaaa:default"),
    ] {
        let same = |a: Answer, b: Answer| {
            let (a, b) = (a.error(404), b.error(404));
            let bare = |text: &str| {
                text.split('/').next_back().unwrap().split(':').next().unwrap().to_owned()
            };
            assert_eq!(
                a.replace(known, "X").replace(&bare(known), "X"),
                b.replace(unknown, "X").replace(&bare(unknown), "X")
            );
        };
        same(start(&stranger, known).await, start(&stranger, unknown).await);
        same(stranger.delete(&encoded(known)).await, stranger.delete(&encoded(unknown)).await);
    }
    for what in ["pause", "resume", "fork", "snapshots", "connect"] {
        let path = format!("/sandboxes/{id}/{what}");
        stranger.post(&path, &json!({"timeout": 15})).await.error(404);
    }
    assert_eq!(ids(&service.client, "").await.len(), 2, "nothing of it was deleted");
    // The same name is another team's own.
    let body = json!({"templateID": "base"});
    let theirs = stranger.post("/sandboxes", &body).await.ok(201);
    let path = format!("/sandboxes/{}/snapshots", theirs["sandboxID"].as_str().unwrap());
    let made = stranger.post(&path, &json!({"name": "app"})).await.ok(201);
    assert_eq!(made["snapshotID"], "other/app:default");
    service.stop().await;
}

#[tokio::test]
async fn a_list_has_pages_and_a_team_a_limit() {
    let service = Service::start_with(|config| config.limits.team_snapshots = 3).await;
    let id = service.create(json!({})).await;
    for n in 0..3 {
        taken(&service, &id, json!({"name": format!("s{n}")})).await;
    }
    let full = take(&service, &id, json!({})).await;
    assert!(full.error(429).contains("3 snapshots"));
    assert_eq!(taken(&service, &id, json!({"name": "s0"})).await, "default/s0:default");
    let first = service.client.get("/snapshots?limit=2").await;
    let token = first.header("x-next-token").unwrap().to_owned();
    assert_eq!(first.json().as_array().unwrap().len(), 2);
    assert_eq!(first.json()[0]["snapshotID"], "default/s2:default", "the newest first");
    let second = service.client.get(&format!("/snapshots?limit=2&nextToken={token}")).await;
    assert_eq!(second.header("x-next-token"), None);
    assert_eq!(
        second.json(),
        json!([{"snapshotID": "default/s0:default", "names": ["default/s0"]}])
    );
    for query in
        ["?limit=0", "?limit=101", "?limit=x", "?nextToken=x", "?name=a%20b", "?sandboxID=A"]
    {
        service.client.get(&format!("/snapshots{query}")).await.error(400);
    }
    service.stop().await;
}

#[tokio::test]
async fn a_snapshot_that_fails_leaves_nothing_and_one_whose_answer_is_lost_is_found() {
    let service = Service::start().await;
    let id = service.create(json!({})).await;
    for (error, status) in [
        (PauseError::Busy("i".into()), 503),
        (PauseError::DiskFull { free_mib: 1, reserve_mib: 2 }, 503),
        (PauseError::Limit("too deep".into()), 400),
        (PauseError::Failed("/secret".into()), 500),
    ] {
        service.node.fail_next_pause(error);
        take(&service, &id, json!({"name": "app"})).await.error(status);
        assert_eq!(ids(&service.client, "").await, [""; 0]);
    }
    // Nobody knows whether the node did it: it did.
    service.node.set_fault(Some(Fault::AnswersLost));
    take(&service, &id, json!({"name": "app"})).await.error(503);
    service.node.set_fault(None);
    service.compare();
    wait_for(async || ids(&service.client, "").await == ["default/app:default"]).await;
    // And here it did not.
    service.node.set_fault(Some(Fault::Unreachable));
    take(&service, &id, json!({"name": "other"})).await.error(503);
    service.node.set_fault(None);
    service.compare();
    wait_for(async || take(&service, &id, json!({"name": "other"})).await.status == 201).await;
    service.pause(&id, json!({})).await;
    take(&service, &id, json!({})).await.error(404);
    service.stop().await;
}

#[tokio::test]
async fn what_a_node_has_no_more_is_not_listed_and_what_it_has_for_nobody_stays() {
    let service = Service::start().await;
    let id = service.create(json!({})).await;
    taken(&service, &id, json!({"name": "app"})).await;
    let service = service.restart_without_records(|_| {}).await;
    assert_eq!(ids(&service.client, "").await, [""; 0]);
    assert_eq!(service.node.snapshots(), 1, "it may be all that is left of somebody's work");
    taken(&service, &id, json!({"name": "app"})).await;
    service.node.forget_snapshots();
    service.compare();
    wait_for(async || ids(&service.client, "").await.is_empty()).await;
    service.stop().await;
}
