use std::time::Duration;

use serde_json::json;

use crate::service::{Service, wait_for};

#[tokio::test]
async fn a_body_that_is_wrong_is_refused_with_what_is_wrong() {
    let service = Service::start().await;
    let json = service.client.with("content-type", "application/json");
    for (body, part) in [
        ("", "not a JSON object"),
        ("{", "EOF"),
        ("[]", "not a JSON object"),
        ("{}", "templateID"),
        (r#"{"templateID":1}"#, "string"),
        (r#"{"templateID":"base","timeout":"x"}"#, "i32"),
        ("\u{7f}", "not a JSON object"),
    ] {
        let message = json.send("POST", "/sandboxes", body).await.error(400);
        assert!(message.starts_with("validation error: "), "{message}");
        assert!(message.contains(part), "{body:?}: {message}");
    }
    let plain = service.client.with("content-type", "text/plain");
    let message = plain.send("POST", "/sandboxes", r#"{"templateID":"base"}"#).await.error(400);
    assert!(message.contains("application/json"), "{message}");
    let charset = service.client.with("content-type", "Application/JSON; charset=utf-8");
    charset.send("POST", "/sandboxes", r#"{"templateID":"base"}"#).await.ok(201);
    service.stop().await;
}

#[tokio::test]
async fn a_body_over_the_cap_is_413_and_one_under_it_is_read() {
    let service = Service::start_with(|config| config.limits.body_bytes = 1000).await;
    let json = service.client.with("content-type", "application/json");
    let body = |length| format!(r#"{{"templateID":"base","x":"{}"}}"#, "y".repeat(length));
    json.send("POST", "/sandboxes", body(900)).await.ok(201);
    assert!(json.send("POST", "/sandboxes", body(1000)).await.error(413).contains("1000 bytes"));
    service.stop().await;
}

#[tokio::test]
async fn what_is_not_there_is_a_json_404() {
    let service = Service::start().await;
    for path in ["/", "/nope", "/sandboxes/", "/v3/sandboxes", "/sandboxes/a/b/c"] {
        service.client.get(path).await.error(404);
    }
    service.client.send("PUT", "/sandboxes", "").await.error(404);
    service.client.send("PATCH", "/health", "").await.error(404);
    service.stop().await;
}

#[tokio::test]
async fn every_endpoint_of_later_versions_says_so_at_once() {
    let service = Service::start().await;
    let calls = [
        ("POST", "/v3/templates"),
        ("POST", "/v2/templates"),
        ("POST", "/templates"),
        ("PATCH", "/v2/templates/base"),
        ("PATCH", "/templates/base"),
        ("GET", "/templates/base/tags/count"),
        ("DELETE", "/templates/base"),
        ("GET", "/templates/base/files/00"),
        ("POST", "/v2/templates/base/builds/b"),
        ("GET", "/templates/base/builds/b/status"),
        ("GET", "/templates/base/builds/b/logs"),
        ("POST", "/templates/tags"),
        ("DELETE", "/templates/tags"),
        ("GET", "/templates/base/tags"),
        ("GET", "/volumes"),
        ("POST", "/volumes"),
        ("DELETE", "/volumes/v"),
        ("GET", "/secrets"),
        ("POST", "/secrets/s"),
    ];
    for (method, path) in calls {
        let message = service.client.send(method, path, "").await.error(501);
        assert!(message.contains("not supported by this version of Cofferdam; "), "{path}");
        service.client.without("x-api-key").send(method, path, "").await.error(401);
    }
    service.client.send("DELETE", "/templates/team%2Fx%3Adefault", "").await.error(404);
    service.stop().await;
}

#[tokio::test]
async fn what_is_asked_of_a_sandbox_that_is_not_there_is_404_whether_it_can_be_done_or_not() {
    let service = Service::start().await;
    let id = service.create(json!({})).await;
    assert_eq!(service.client.delete(&format!("/sandboxes/{id}")).await.status, 204);
    for what in ["pause", "resume", "fork", "snapshots"] {
        for id in [id.as_str(), "inobody"] {
            let path = format!("/sandboxes/{id}/{what}");
            service.client.send("POST", &path, "").await.error(404);
        }
    }
    service.client.send("POST", "/sandboxes/NO/pause", "").await.error(400);
    service.stop().await;
}

#[tokio::test]
async fn a_list_is_not_read_as_the_fields_of_an_object() {
    let service = Service::start().await;
    let json = service.client.with("content-type", "application/json");
    let fields = r#"["base",300,null,null,null,null,null,null,null,null,null,null,null]"#;
    let message = json.send("POST", "/sandboxes", fields).await.error(400);
    assert_eq!(message, "validation error: the body is not a JSON object");
    assert_eq!(service.list("").await.len(), 0);
    json.send("POST", "/sandboxes", " {\"templateID\":\"base\"}").await.ok(201);
    service.stop().await;
}

#[tokio::test]
async fn browsers_may_ask_from_anywhere_and_see_the_paging_headers() {
    let service = Service::start().await;
    let browser = service.client.with("origin", "https://page.test");
    let answer = browser.get("/v2/sandboxes").await;
    assert_eq!(answer.header("access-control-allow-origin"), Some("*"));
    let exposed = answer.header("access-control-expose-headers").unwrap();
    for name in ["x-next-token", "x-total-running", "retry-after", "ratelimit-limit"] {
        assert!(exposed.contains(name), "{exposed}");
    }
    let preflight = browser
        .without("x-api-key")
        .with("access-control-request-method", "POST")
        .send("OPTIONS", "/sandboxes", "")
        .await;
    assert_eq!(preflight.status, 200);
    let allowed = preflight.header("access-control-allow-headers").unwrap();
    for name in ["x-api-key", "content-type", "sdk_runtime", "x-team-id"] {
        assert!(allowed.contains(name), "{allowed}");
    }
    assert!(preflight.header("access-control-allow-methods").unwrap().contains("DELETE"));
    service.stop().await;
}

#[tokio::test]
async fn a_request_that_takes_too_long_is_408_and_its_sandbox_runs_all_the_same() {
    let limit = Duration::from_millis(50);
    let service = Service::start_with(|config| config.limits.request = limit).await;
    service.node.hold_creates(true);
    let answer = service.client.post("/sandboxes", &json!({"templateID": "base"})).await;
    assert!(answer.error(408).contains("may still happen"));
    service.node.hold_creates(false);
    wait_for(async || service.routes.count() == 1).await;
    service.stop().await;
}

#[tokio::test]
async fn requests_over_the_bound_are_turned_away_with_a_time_to_return() {
    let service = Service::start_with(|config| config.limits.requests = 1).await;
    service.node.hold_creates(true);
    let body = json!({"templateID": "base"});
    let create = service.client.post("/sandboxes", &body);
    let other = async {
        let mut begun = service.node.begun.subscribe();
        begun.wait_for(|begun| *begun == 1).await.unwrap();
        let busy = service.client.get("/v2/sandboxes").await;
        busy.error(503);
        assert_eq!(busy.header("retry-after"), Some("1"));
        service.node.hold_creates(false);
    };
    let (created, ()) = tokio::join!(create, other);
    created.ok(201);
    service.stop().await;
}
