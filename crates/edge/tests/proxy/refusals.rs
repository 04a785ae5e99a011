use std::net::SocketAddr;
use std::time::Duration;

use edge::Config;
use http::Response;
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpSocket};
use tokio::sync::{mpsc, watch};

use crate::kit::{LOOPBACK, SANDBOX, config, full, in_world, text, to_host, to_port};

const MOZILLA: &str = "Mozilla/5.0 (X11; Linux x86_64) Firefox/140.0";

fn parse(text: &str) -> Value {
    serde_json::from_str(text).unwrap()
}

/// A port that nobody listens on, and that nobody else is given.
fn closed_port() -> (TcpSocket, SocketAddr) {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_reuseaddr(true).unwrap();
    socket.bind((LOOPBACK, 0).into()).unwrap();
    let addr = socket.local_addr().unwrap();
    (socket, addr)
}

#[tokio::test]
async fn an_unknown_sandbox_is_502_in_json_for_programs_and_a_page_for_people() {
    in_world(config(), async |world| {
        let request = || to_host("49983-inobody.e2b.app");
        let (status, kind, body) = world.text(request()).await;
        assert_eq!((status, kind.as_str()), (502, "application/json; charset=utf-8"));
        assert_eq!(
            body,
            r#"{"sandboxId":"inobody","message":"The sandbox was not found","code":502}"#
        );

        let mut browser = request();
        browser.headers_mut().insert("user-agent", MOZILLA.parse().unwrap());
        let (status, kind, body) = world.text(browser).await;
        assert_eq!((status, kind.as_str()), (502, "text/html; charset=utf-8"));
        assert!(body.contains("<title>Sandbox Not Found</title>") && body.contains("inobody"));

        let mut script = request();
        script.headers_mut().insert("user-agent", MOZILLA.parse().unwrap());
        script.headers_mut().insert("sec-fetch-mode", "cors".parse().unwrap());
        assert_eq!(world.text(script).await.1, "application/json; charset=utf-8");
    })
    .await;
}

#[tokio::test]
async fn a_closed_port_is_502_with_the_port() {
    in_world(config(), async |world| {
        let (_held, addr) = closed_port();
        let (status, _, body) = world.text(to_port(addr.port(), "/")).await;
        assert_eq!(status, 502);
        assert_eq!(
            parse(&body),
            json!({
                "sandboxId": SANDBOX,
                "message": "The sandbox is running but port is not open",
                "port": addr.port(),
                "code": 502,
            })
        );
    })
    .await;
}

#[tokio::test]
async fn a_port_that_opens_late_is_waited_for() {
    in_world(config(), async |world| {
        let (socket, addr) = closed_port();
        let mut client = world.client().await;
        let answer = client.send_request(to_port(addr.port(), "/"));
        tokio::pin!(answer);
        // The first try fails before the port opens: it is under way when the first pause of the
        // edge has begun, which only time can tell.
        let early = Duration::from_millis(50);
        lifecycle::Budget::within(early).run("early", answer.as_mut()).await.unwrap_err();
        let server = world.sandbox_on(socket.listen(8).unwrap(), |socket| async move {
            let mut socket = socket;
            crate::kit::read_head(&mut socket).await;
            let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nlate";
            tokio::io::AsyncWriteExt::write_all(&mut socket, answer).await.unwrap();
        });
        assert_eq!(text(answer.await.unwrap()).await.2, "late");
        assert_eq!(server.connections(), 1);
    })
    .await;
}

#[tokio::test]
async fn a_sandbox_that_ends_while_its_port_is_waited_for_is_not_found() {
    in_world(config(), async |world| {
        let (_held, addr) = closed_port();
        let mut client = world.client().await;
        let answer = client.send_request(to_port(addr.port(), "/"));
        tokio::pin!(answer);
        let early = Duration::from_millis(50);
        lifecycle::Budget::within(early).run("early", answer.as_mut()).await.unwrap_err();
        world.withdraw(SANDBOX, "one");
        let (status, _, body) = text(answer.await.unwrap()).await;
        assert_eq!((status, &parse(&body)["message"]), (502, &"The sandbox was not found".into()));
        assert!(parse(&body).get("port").is_none());
    })
    .await;
}

#[tokio::test]
async fn control_paths_of_the_guest_agent_are_hidden_before_the_sandbox_is_looked_up() {
    in_world(config(), async |world| {
        for sandbox in [SANDBOX, "inobody"] {
            for path in [
                "/init",
                "//init",
                "/x/../init",
                "/%69nit",
                "/journal?run=a&after=1",
                "/%6aournal/",
                "/upgrade/?x=1",
                "/fsthaw",
            ] {
                for method in ["GET", "POST"] {
                    let mut request = to_host(&format!("49983-{sandbox}.x"));
                    *request.uri_mut() = path.parse().unwrap();
                    *request.method_mut() = method.parse().unwrap();
                    let (status, _, body) = world.text(request).await;
                    let body = parse(&body);
                    assert_eq!((status, &body["code"]), (404, &json!(404)), "{method} {path}");
                    assert_eq!(body["path"], path.split('?').next().unwrap());
                    assert!(body.get("sandboxId").is_none());
                }
            }
        }
    })
    .await;
}

#[tokio::test]
async fn the_same_paths_on_other_ports_belong_to_the_user() {
    in_world(config(), async |world| {
        let server = world.sandbox_http(|_request| async { Response::new(full("mine")) }).await;
        assert_eq!(world.text(server.get("/init")).await.2, "mine");
    })
    .await;
}

#[tokio::test]
async fn a_sandbox_that_hangs_up_without_an_answer_is_502() {
    in_world(config(), async |world| {
        let server = world
            .sandbox_raw(|mut socket| async move {
                crate::kit::read_head(&mut socket).await;
            })
            .await;
        let (status, _, body) = world.text(server.get("/")).await;
        assert_eq!((status, &parse(&body)["port"]), (502, &json!(server.port)));
        assert_eq!(server.connections(), 1, "a new connection that dies is not tried again");
    })
    .await;
}

#[tokio::test]
async fn one_request_too_many_for_a_sandbox_is_429_and_the_next_one_passes() {
    let config = Config { max_exchanges_per_sandbox: 1, ..config() };
    in_world(config, async |world| {
        let (release, released) = watch::channel(false);
        let (reached, mut reaches) = mpsc::channel(2);
        let server = world
            .sandbox_http(move |_request| {
                let (mut released, reached) = (released.clone(), reached.clone());
                async move {
                    reached.send(()).await.unwrap();
                    released.wait_for(|released| *released).await.unwrap();
                    Response::new(full("done"))
                }
            })
            .await;
        let mut client = world.client().await;
        let first = client.send_request(server.get("/"));
        let second = async {
            reaches.recv().await.unwrap();
            let refused = world.send(server.get("/")).await;
            release.send(true).unwrap();
            refused
        };
        let (first, refused) = tokio::join!(first, second);
        assert_eq!(refused.status(), 429);
        assert_eq!(refused.headers()["retry-after"], "1");
        let body = parse(&text(refused).await.2);
        assert_eq!((&body["code"], &body["connectionLimit"]), (&json!(429), &json!(1)));
        assert_eq!(text(first.unwrap()).await.2, "done");
        assert_eq!(world.text(server.get("/")).await.2, "done");
    })
    .await;
}

#[tokio::test]
async fn one_request_too_many_for_all_sandboxes_is_503() {
    let config = Config { max_exchanges: 0, ..config() };
    in_world(config, async |world| {
        let response = world.send(to_port(80, "/")).await;
        assert_eq!(
            (response.status().as_u16(), &response.headers()["retry-after"]),
            (503, &"1".parse().unwrap())
        );
        assert_eq!(parse(&text(response).await.2)["code"], 503);
    })
    .await;
}

#[tokio::test]
async fn connect_is_refused() {
    in_world(config(), async |world| {
        let listener = TcpListener::bind((LOOPBACK, 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let answer = world
            .raw(&format!(
                "CONNECT {port}-{SANDBOX}.x:80 HTTP/1.1\r\nHost: {port}-{SANDBOX}.x:80\r\nConnection: close\r\n\r\n"
            ))
            .await;
        assert!(answer.starts_with("HTTP/1.1 405"), "{answer}");
    })
    .await;
}
