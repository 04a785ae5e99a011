//! What templates there are, as lists and one by one.

use serde_json::{Value, json};

use crate::client::Client;
use crate::fake_node::template;
use crate::service::Service;

async fn ids(client: &Client, path: &str) -> Vec<String> {
    let rows = client.get(path).await.ok(200);
    let id = |row: &Value| row["templateID"].as_str().unwrap().to_owned();
    rows.as_array().unwrap().iter().map(id).collect()
}

async fn service_with_five() -> Service {
    let service = Service::start().await;
    let all = ["c", "a", "e", "b", "d"].map(|letter| template(&letter.repeat(20), letter));
    service.node.set_templates(all.to_vec());
    // One that is not known has the control plane ask.
    service.client.get("/templates/aliases/nope").await.error(404);
    service
}

#[tokio::test]
async fn pages_of_templates_have_each_once_and_in_the_order_of_the_whole_list() {
    let service = service_with_five().await;
    let all = ids(&service.client, "/templates").await;
    assert_eq!(all.len(), 5);
    assert_eq!(ids(&service.client, "/v2/templates").await, all);
    let (mut paged, mut path) = (Vec::new(), "/v2/templates?limit=2".to_owned());
    loop {
        paged.extend(ids(&service.client, &path).await);
        let answer = service.client.get(&path).await;
        let Some(next) = answer.header("x-next-token") else { break };
        path = format!("/v2/templates?limit=2&nextToken={next}");
    }
    assert_eq!(paged, all);
    for wrong in ["limit=0", "limit=101", "nextToken=x", "teamID=other"] {
        service.client.get(&format!("/v2/templates?{wrong}")).await.error(400);
    }
    service.client.without("x-api-key").get("/v2/templates").await.error(401);
    let defaults = ids(&service.client, "/default-templates").await;
    assert!(defaults.is_sorted() && defaults.len() == 5, "{defaults:?}");
    service.stop().await;
}

#[tokio::test]
async fn a_template_is_told_by_its_id_with_the_build_in_use_and_a_snapshot_to_its_team() {
    let service = service_with_five().await;
    let id = "a".repeat(20);
    let one = service.client.get(&format!("/templates/{id}")).await.ok(200);
    let (listed, builds) = (&one, one["builds"].as_array().unwrap());
    assert_eq!((&listed["aliases"], &listed["isDefault"]), (&json!(["a"]), &json!(true)));
    assert_eq!((builds.len(), &builds[0]["status"]), (1, &json!("ready")));
    assert_eq!(builds[0]["buildID"], listed["buildID"]);
    for unknown in ["a", "nope"] {
        service.client.get(&format!("/templates/{unknown}")).await.error(404);
    }
    let source = service.client.post("/sandboxes", &json!({"templateID": "a"})).await.ok(201);
    let path = format!("/sandboxes/{}/snapshots", source["sandboxID"].as_str().unwrap());
    let made = service.client.post(&path, &json!({})).await.ok(201);
    let snapshot = made["snapshotID"].as_str().unwrap().strip_suffix(":default").unwrap();
    let told = service.client.get(&format!("/templates/{snapshot}")).await.ok(200);
    assert_eq!((&told["public"], &told["isDefault"]), (&json!(false), &json!(false)));
    let other = service.other_team().await;
    other.get(&format!("/templates/{snapshot}")).await.error(404);
    other.get(&format!("/templates/{id}")).await.ok(200);
    assert_eq!(ids(&service.client, "/templates").await.len(), 5, "it is none of the templates");
    service.stop().await;
}
