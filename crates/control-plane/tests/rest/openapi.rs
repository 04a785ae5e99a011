use serde_json::Value;

use crate::client::Client;
use crate::service::Service;

const METHODS: [&str; 5] = ["GET", "POST", "PUT", "PATCH", "DELETE"];

#[tokio::test]
async fn everybody_gets_the_document() {
    let service = Service::start().await;
    let answer = Client::new(service.addr).get("/openapi.json").await;
    assert_eq!(answer.header("content-type"), Some("application/json"));
    let document = answer.ok(200);
    assert!(document["openapi"].as_str().unwrap().starts_with("3."));
    service.stop().await;
}

/// The paths are compared with the router's inside of the crate; this is about their methods.
#[tokio::test]
async fn the_document_has_the_methods_of_every_path_and_no_others() {
    let service = Service::start().await;
    let nobody = Client::new(service.addr);
    let document = nobody.get("/openapi.json").await.ok(200);
    for (path, operations) in document["paths"].as_object().unwrap() {
        let concrete = concrete(path);
        for method in METHODS {
            let answer = nobody.send(method, &concrete, "").await;
            let unknown = answer.text.contains("there is no endpoint");
            let told = operations.get(method.to_lowercase()).is_some();
            assert_eq!(told, !unknown, "{method} {path}: {}", answer.text);
        }
    }
    service.stop().await;
}

#[tokio::test]
async fn without_credentials_every_endpoint_that_needs_some_says_so() {
    let service = Service::start().await;
    let nobody = Client::new(service.addr);
    let document = nobody.get("/openapi.json").await.ok(200);
    for (path, operations) in document["paths"].as_object().unwrap() {
        for (method, operation) in operations.as_object().unwrap() {
            let answer = nobody.send(&method.to_uppercase(), &concrete(path), "").await;
            if operation["security"] == Value::Array(Vec::new()) {
                assert_eq!(answer.status, 200, "{method} {path}");
            } else {
                answer.error(401);
                assert!(operation["responses"].get("401").is_some(), "{method} {path}");
            }
        }
    }
    service.stop().await;
}

/// With something in the place of each parameter.
fn concrete(path: &str) -> String {
    let segment =
        |part: &str| if part.starts_with('{') { "x1".to_owned() } else { part.to_owned() };
    path.split('/').map(segment).collect::<Vec<_>>().join("/")
}
