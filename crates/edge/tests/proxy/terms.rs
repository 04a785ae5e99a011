//! What sandboxes ask of their clients: private ones a token, others another host name.

use guest_wire::signature::{Operation, Signed};
use http::Request;
use hyper::body::Incoming;
use model::Secret;
use node_wire::Ingress;
use serde_json::{Value, json};

use crate::kit::{
    LIFECYCLE, LOOPBACK, SANDBOX, TestBody, config, empty, full, in_world, read_head, to_host,
    to_port,
};

const TOKEN: &str = "0123456789abcdef";
const HEADER: &str = "e2b-traffic-access-token";

fn private() -> Ingress {
    Ingress { traffic_token: Some(Secret::new(TOKEN.into())), ..Ingress::default() }
}

/// Answers with the host names it was sent.
async fn hosts(request: Request<Incoming>) -> http::Response<TestBody> {
    let header = |name| request.headers().get(name).map(|value| value.to_str().unwrap());
    let (host, asked) = (header("host").unwrap(), header("x-forwarded-host"));
    http::Response::new(full(format!("{host} {}", asked.unwrap_or("-"))))
}

fn shows(port: u16, tokens: &[&str]) -> Request<TestBody> {
    let mut request = to_port(port, "/");
    for token in tokens {
        request.headers_mut().append(HEADER, token.parse().unwrap());
    }
    request
}

#[tokio::test]
async fn a_private_sandbox_is_reached_with_its_token_and_without_another() {
    in_world(config(), async |world| {
        let server = world.sandbox_http(hosts).await;
        world.publish_under(SANDBOX, LIFECYCLE, private());
        for tokens in [&[][..], &[""], &["other"], &[TOKEN, "other"], &["other", TOKEN]] {
            let (status, _, text) = world.text(shows(server.port, tokens)).await;
            assert_eq!(status, 403, "{tokens:?}");
            let body: Value = serde_json::from_str(&text).unwrap();
            assert_eq!((&body["code"], &body["sandboxId"]), (&json!(403), &json!(SANDBOX)));
            assert!(body["message"].as_str().unwrap().contains(HEADER), "{body}");
        }
        assert_eq!(server.connections(), 0);
        assert_eq!(world.text(shows(server.port, &[TOKEN])).await.0, 200);
        world.publish(SANDBOX, LIFECYCLE);
        assert_eq!(world.text(shows(server.port, &[])).await.0, 200, "public again");
    })
    .await;
}

#[tokio::test]
async fn a_private_sandbox_tells_people_in_a_page_and_changes_no_protocol() {
    in_world(config(), async |world| {
        let server = world.sandbox_http(hosts).await;
        world.publish_under(SANDBOX, LIFECYCLE, private());
        let mut browser = shows(server.port, &[]);
        browser.headers_mut().insert("user-agent", "Mozilla/5.0".parse().unwrap());
        let (status, kind, page) = world.text(browser).await;
        assert_eq!((status, kind.as_str()), (403, "text/html; charset=utf-8"));
        assert!(page.contains("Missing Traffic Access Token"), "{page}");
        let mut upgrade = shows(server.port, &["other"]);
        upgrade.headers_mut().insert("connection", "upgrade".parse().unwrap());
        upgrade.headers_mut().insert("upgrade", "websocket".parse().unwrap());
        assert_eq!(world.text(upgrade).await.0, 403);
        assert_eq!(server.connections(), 0);
    })
    .await;
}

#[tokio::test]
async fn programs_see_the_masked_host_and_beside_it_the_one_that_was_asked_for() {
    in_world(config(), async |world| {
        let server = world.sandbox_http(hosts).await;
        let port = server.port;
        let asked = format!("{port}-{SANDBOX}.e2b.app");
        assert_eq!(world.text(to_host(&asked)).await.2, format!("{asked} -"));
        for (mask, seen) in
            [("h.example.com", "h.example.com".to_owned()), ("h:${PORT}", format!("h:{port}"))]
        {
            let mask_host = Some(mask.to_owned());
            world.publish_under(SANDBOX, LIFECYCLE, Ingress { mask_host, ..Ingress::default() });
            let mut request = to_host(&asked);
            request.headers_mut().insert("x-forwarded-host", "forged".parse().unwrap());
            assert_eq!(world.text(request).await.2, format!("{seen} {asked}"));
        }
    })
    .await;
}

#[tokio::test]
async fn the_guest_agent_is_reached_without_the_token_under_its_own_name_and_by_a_signature() {
    const AGENT_TOKEN: &str = "agent";
    in_world(config(), async |world| {
        let listener = world.agent_listener().await;
        let server = world.sandbox_on(listener, |mut socket| async move {
            let head = read_head(&mut socket).await;
            let length = head.len();
            let answer = format!(
                "HTTP/1.1 200 OK\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{head}"
            );
            tokio::io::AsyncWriteExt::write_all(&mut socket, answer.as_bytes()).await.unwrap();
        });
        assert_eq!(server.port, 49_983);
        let ingress = Ingress {
            agent_token: Some(Secret::new(AGENT_TOKEN.into())),
            mask_host: Some("masked".into()),
            ..private()
        };
        world.publish_at(SANDBOX, server.ip, ingress);
        let (status, _, head) = world.text(to_host(&format!("49983-{SANDBOX}.x"))).await;
        assert_eq!(status, 200, "{head}");
        assert!(head.contains(&format!("49983-{SANDBOX}.x")) && !head.contains("masked"), "{head}");

        // Others are looked at, too.
        world.publish_at("iother", LOOPBACK, Ingress::default());
        let other = Some(Secret::new("another".into()));
        world.publish_at("ithird", LOOPBACK, Ingress { agent_token: other, ..Ingress::default() });
        let signed =
            Signed { path: "a b", operation: Operation::Read, username: "", expiration: Some(7) };
        let signature = signed.signature(AGENT_TOKEN).replace('+', "%2B");
        let get = |query: &str| {
            let uri = format!("/files?{query}");
            Request::builder().uri(uri).header("host", "127.0.0.1:3000").body(empty()).unwrap()
        };
        let query = format!("path=a+b&signature_expiration=7&signature={signature}");
        let (status, _, head) = world.text(get(&query)).await;
        assert_eq!(status, 200, "{head}");
        assert!(head.starts_with(&format!("GET /files?{query} HTTP/1.1\r\n")), "{head}");

        let (status, _, text) = world.text(get(&query.replace("a+b", "b"))).await;
        assert_eq!(status, 401);
        let body: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(body["code"], 401);
        world.withdraw(SANDBOX, LIFECYCLE);
        assert_eq!(world.text(get(&query)).await.0, 401, "it has ended");
        assert_eq!(world.text(get("path=a")).await.2, "api /files", "nothing is signed");
    })
    .await;
}
