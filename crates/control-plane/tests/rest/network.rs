//! What a sandbox may reach, and who may reach it.

use e2b_wire::TokenSeed;
use model::{Egress, HeaderRule, SandboxId, Secret, SocksProxy};
use serde_json::{Value, json};

use crate::fake_node::Fault;
use crate::service::{SEED, Service};

fn egress(allow: &[&str], deny: &[&str]) -> Egress {
    let ranges = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect();
    Egress { allow: ranges(allow), deny: ranges(deny), ..Egress::default() }
}

async fn network(service: &Service, id: &SandboxId) -> (Option<Value>, Value) {
    let detail = service.client.get(&format!("/sandboxes/{id}")).await.ok(200);
    (detail.get("network").cloned(), detail["allowInternetAccess"].clone())
}

#[tokio::test]
async fn a_private_sandbox_has_a_token_that_its_owner_and_the_edge_know() {
    let service = Service::start().await;
    let asked = json!({"allowPublicTraffic": false, "maskRequestHost": "h:${PORT}"});
    let body = json!({"templateID": "base", "secure": true, "network": asked});
    let made = service.client.post("/sandboxes", &body).await.ok(201);
    let id: SandboxId = made["sandboxID"].as_str().unwrap().parse().unwrap();
    let token = TokenSeed::new(SEED).traffic_token(id.as_str());
    assert_eq!(made["trafficAccessToken"], token);
    let known = service.routes.ingress(&id).unwrap();
    assert_eq!(known.traffic_token.as_ref().unwrap().expose(), token);
    assert_eq!(known.agent_token.as_ref().unwrap().expose(), made["envdAccessToken"]);
    assert_eq!(known.mask_host.as_deref(), Some("h:${PORT}"));
    assert_eq!(network(&service, &id).await, (Some(asked), Value::Null));

    let connect = format!("/sandboxes/{id}/connect");
    let again = service.client.post(&connect, &json!({"timeout": 60})).await.ok(200);
    assert_eq!(again["trafficAccessToken"], token);
    // The edge that comes next is told the same.
    let service = service.restart(|_| {}).await;
    assert_eq!(service.routes.ingress(&id), Some(known));

    let public = service.create(json!({"network": {"allowPublicTraffic": true}})).await;
    let known = service.routes.ingress(&public).unwrap();
    assert_eq!((known.traffic_token, known.mask_host), (None, None));
    service.stop().await;
}

#[tokio::test]
async fn ports_that_speak_tls_are_known_to_the_edge_over_updates_pauses_and_restarts() {
    let service = Service::start().await;
    let asked = json!({"httpsPorts": [8443, 3000, 8443]});
    let id = service.create(json!({"network": asked})).await;
    let known = service.routes.ingress(&id).unwrap();
    assert_eq!(known.https_ports.iter().map(|port| port.get()).collect::<Vec<_>>(), [3000, 8443]);
    assert_eq!(network(&service, &id).await.0, Some(asked.clone()));
    // An update is of what goes out: it does not say anything of them, whatever it says.
    let update = json!({"denyOut": ["8.8.8.8"], "httpsPorts": []});
    let updated = service.client.put(&format!("/sandboxes/{id}/network"), &update).await;
    assert_eq!(updated.status, 204);
    assert_eq!(network(&service, &id).await.0.unwrap()["httpsPorts"], asked["httpsPorts"]);
    assert_eq!(service.pause(&id, json!({})).await, 204);
    assert_eq!(service.connect(&id).await, 201);
    assert_eq!(service.routes.ingress(&id).as_ref(), Some(&known));
    let service = service.restart(|_| {}).await;
    assert_eq!(service.routes.ingress(&id).as_ref(), Some(&known));
    let fork = format!("/sandboxes/{id}/fork");
    let forks = service.client.post(&fork, &json!({})).await.ok(201);
    let fork: SandboxId = forks[0]["sandbox"]["sandboxID"].as_str().unwrap().parse().unwrap();
    assert_eq!(service.routes.ingress(&fork).unwrap().https_ports, known.https_ports);
    let many: Vec<u16> = (1..=101).collect();
    for ports in [json!([49983]), json!([0]), json!([65536]), json!([-1]), json!(many)] {
        let body = json!({"templateID": "base", "network": {"httpsPorts": ports}});
        let refused = service.client.post("/sandboxes", &body).await;
        assert!(refused.error(400).contains("httpsPorts"), "{ports}");
    }
    service.stop().await;
}

#[tokio::test]
async fn rules_reach_the_node_with_the_order_and_with_every_change() {
    let service = Service::start().await;
    let rules = json!({"allowOut": ["1.1.1.1"], "denyOut": ["0.0.0.0/0"]});
    let id = service.create(json!({"network": rules})).await;
    let spec = service.node.last_spec();
    assert_eq!((spec.internet, spec.egress), (true, egress(&["1.1.1.1"], &["0.0.0.0/0"])));
    assert_eq!(network(&service, &id).await, (Some(rules), Value::Null));

    let path = format!("/sandboxes/{id}/network");
    let password = Secret::new("secret".into());
    for (body, rules, told, internet) in [
        (
            json!({"denyOut": ["8.8.8.0/24"]}),
            egress(&[], &["8.8.8.0/24"]),
            json!({"denyOut": ["8.8.8.0/24"]}),
            Value::Null,
        ),
        (
            json!({"allowOut": ["1.1.1.1"], "allow_internet_access": false}),
            egress(&["1.1.1.1"], &["0.0.0.0/0"]),
            json!({"allowOut": ["1.1.1.1"]}),
            json!(false),
        ),
        (
            json!({
                "allowOut": ["*.a.com"],
                "denyOut": ["0.0.0.0/0"],
                "egressProxy": {"address": "p:1", "username": "u", "password": "secret"},
            }),
            Egress {
                domains: vec!["*.a.com".parse().unwrap()],
                proxy: Some(SocksProxy::new("p:1", Some("u".into()), Some(password)).unwrap()),
                ..egress(&[], &["0.0.0.0/0"])
            },
            json!({
                "allowOut": ["*.a.com"],
                "denyOut": ["0.0.0.0/0"],
                "egressProxy": {"address": "p:1", "username": "u"},
            }),
            Value::Null,
        ),
        (
            json!({"rules": {
                "API.example.com": [{"transform": {"headers": {"Authorization": "Bearer k"}}}],
            }}),
            Egress {
                headers: vec![HeaderRule {
                    requests: "api.example.com".parse().unwrap(),
                    headers: vec![("authorization".into(), Secret::new("Bearer k".into()))],
                }],
                ..Egress::default()
            },
            json!({"rules": {
                "api.example.com": [{"transform": {"headers": {"Authorization": "Bearer k"}}}],
            }}),
            Value::Null,
        ),
        (json!({}), Egress::default(), json!({}), Value::Null),
    ] {
        assert_eq!(service.client.put(&path, &body).await.status, 204, "{body}");
        assert_eq!(service.node.rules(&id), Some(rules), "{body}");
        assert_eq!(network(&service, &id).await, (Some(told), internet), "{body}");
    }
    service.stop().await;
}

#[tokio::test]
async fn a_change_that_is_refused_or_fails_changes_nothing() {
    let service = Service::start().await;
    let rules = json!({"denyOut": ["8.8.8.8"]});
    let id = service.create(json!({"network": rules})).await;
    let path = format!("/sandboxes/{id}/network");
    for (body, status) in [
        (json!({"allowOut": ["example.com"]}), 400),
        (json!({"denyOut": ["example.com"]}), 400),
        (json!({"rules": {"*": [{}]}}), 400),
        (json!({"rules": {"a.com": [{"transform": {"headers": {"host": "b"}}}]}}), 400),
        (json!({"denyOut": "8.8.8.8"}), 400),
    ] {
        service.client.put(&path, &body).await.error(status);
    }
    service.client.put("/sandboxes/inobody/network", &json!({})).await.error(404);
    service.client.without("x-api-key").put(&path, &json!({})).await.error(401);
    service.node.set_fault(Some(Fault::Internal));
    service.client.put(&path, &json!({})).await.error(500);
    service.node.set_fault(None);
    assert_eq!(service.node.rules(&id), None);
    assert_eq!(network(&service, &id).await.0, Some(rules));
    service.stop().await;
}
