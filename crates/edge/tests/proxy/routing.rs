use http::Request;

use crate::kit::{SANDBOX, config, empty, full, in_world, to_host, to_port};

/// A server that answers with the head it was sent.
async fn echo_head(
    request: Request<hyper::body::Incoming>,
) -> http::Response<crate::kit::TestBody> {
    let mut lines = vec![format!("{} {}", request.method(), request.uri())];
    for (name, value) in request.headers() {
        lines.push(format!("{name}: {}", value.to_str().unwrap()));
    }
    http::Response::new(full(lines.join("\n")))
}

#[tokio::test]
async fn routing_headers_reach_the_sandbox_under_any_host_name() {
    in_world(config(), async |world| {
        let server = world.sandbox_http(echo_head).await;
        for host in ["localhost", "mybox:3002", "10.0.0.5", "[::1]:80", "sandbox.x", "api.e2b.app"]
        {
            let mut request = server.get("/where?q=%20");
            request.headers_mut().insert("host", host.parse().unwrap());
            let (status, _, text) = world.text(request).await;
            assert_eq!(status, 200, "{host}");
            assert!(text.starts_with("GET /where?q=%20\n"), "{text}");
            assert!(text.contains(&format!("host: {host}")), "{text}");
            assert!(text.contains("e2b-sandbox-id: isandbox"), "{text}");
        }
    })
    .await;
}

#[tokio::test]
async fn host_names_reach_the_sandbox_with_and_without_client_id_and_port() {
    in_world(config(), async |world| {
        let server = world.sandbox_http(echo_head).await;
        let port = server.port;
        for host in [
            format!("{port}-{SANDBOX}.e2b.app"),
            format!("{port}-{SANDBOX}.127.0.0.1.nip.io:3002"),
            format!("{port}-{SANDBOX}-6532622b.localhost:3000"),
        ] {
            let (status, _, text) = world.text(to_host(&host)).await;
            assert_eq!(status, 200, "{host}");
            assert!(text.contains(&format!("host: {host}")), "{text}");
        }
    })
    .await;
}

#[tokio::test]
async fn headers_win_over_the_host_name_and_a_whole_uri_over_the_host() {
    in_world(config(), async |world| {
        let server = world.sandbox_http(echo_head).await;
        let mut request = server.get("/");
        request.headers_mut().insert("host", "1-iother.e2b.app".parse().unwrap());
        assert_eq!(world.text(request).await.0, 200);

        let answer = world
            .raw(&format!(
                "GET http://{}-{SANDBOX}.e2b.app/p HTTP/1.1\r\nHost: 1-iother.x\r\nConnection: close\r\n\r\n",
                server.port
            ))
            .await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        assert!(answer.contains("GET /p\n"), "{answer}");
        assert!(answer.contains(&format!("host: {}-{SANDBOX}.e2b.app", server.port)), "{answer}");
    })
    .await;
}

#[tokio::test]
async fn everything_else_is_for_the_api() {
    in_world(config(), async |world| {
        for host in ["localhost:3000", "127.0.0.1", "api.e2b.app", "10-0-0-5.nip.io", "my-box.lan"]
        {
            assert_eq!(world.text(to_host(host)).await.2, "api /", "{host}");
        }
        let answer = world.raw("GET /old HTTP/1.0\r\n\r\n").await;
        assert!(answer.ends_with("api /old"), "{answer}");
    })
    .await;
}

#[tokio::test]
async fn a_bad_target_is_told_in_plain_text() {
    in_world(config(), async |world| {
        let mut answers = Vec::new();
        for host in ["0-iabc.x", "65536-iabc.x", "80-I.x"] {
            answers.push((host.to_owned(), world.text(to_host(host)).await));
        }
        for (id, port) in [("", "80"), ("iabc", ""), ("iabc", "0"), ("iabc", "x"), ("i-c", "80")] {
            let mut request = to_host("localhost");
            request.headers_mut().insert("e2b-sandbox-id", id.parse().unwrap());
            request.headers_mut().insert("e2b-sandbox-port", port.parse().unwrap());
            answers.push((format!("{id:?} {port:?}"), world.text(request).await));
        }
        for (sent, (status, kind, text)) in answers {
            assert_eq!((status, kind.as_str()), (400, "text/plain; charset=utf-8"), "{sent}");
            let known = ["missing header", "Invalid sandbox ID", "Invalid sandbox port"];
            assert!(known.iter().any(|start| text.starts_with(start)), "{sent}: {text}");
        }
        let answer = world
            .raw(
                "GET / HTTP/1.1\r\nHost: localhost\r\nHost: 80-iabc.x\r\nConnection: close\r\n\r\n",
            )
            .await;
        assert!(answer.starts_with("HTTP/1.1 400") && answer.contains("Invalid host"), "{answer}");
    })
    .await;
}

#[tokio::test]
async fn the_sandbox_sees_no_header_that_was_between_the_neighbours() {
    in_world(config(), async |world| {
        let server = world.sandbox_http(echo_head).await;
        let mut request = to_port(server.port, "/");
        let headers = request.headers_mut();
        for (name, value) in [
            ("connection", "x-hop, keep-alive"),
            ("x-hop", "1"),
            ("keep-alive", "timeout=9"),
            ("x-forwarded-for", "6.6.6.6"),
            ("x-forwarded-proto", "https"),
            ("forwarded", "for=6.6.6.6"),
            ("upgrade", "h2c"),
            ("x-access-token", "secret"),
            ("e2b-traffic-access-token", "other"),
        ] {
            headers.insert(name, value.parse().unwrap());
        }
        *request.body_mut() = empty();
        let (_, _, text) = world.text(request).await;
        let mut names: Vec<&str> =
            text.lines().skip(1).map(|line| line.split_once(':').unwrap().0).collect();
        names.sort_unstable();
        assert_eq!(
            names,
            [
                "e2b-sandbox-id",
                "e2b-sandbox-port",
                "e2b-traffic-access-token",
                "host",
                "x-access-token"
            ]
        );
    })
    .await;
}

#[tokio::test]
async fn the_client_sees_no_header_that_was_between_the_neighbours() {
    in_world(config(), async |world| {
        let server = world
            .sandbox_http(|request: Request<_>| async move {
                drop(request);
                http::Response::builder()
                    .status(207)
                    .header("connection", "x-hop")
                    .header("x-hop", "1")
                    .header("keep-alive", "timeout=5")
                    .header("set-cookie", "a=1")
                    .header("set-cookie", "b=2")
                    .header("location", "http://inside/")
                    .body(full("body"))
                    .unwrap()
            })
            .await;
        let response = world.send(server.get("/")).await;
        assert_eq!(response.status(), 207);
        let headers = response.headers();
        assert!(!headers.contains_key("x-hop") && !headers.contains_key("keep-alive"));
        assert_eq!(headers.get_all("set-cookie").iter().count(), 2);
        assert_eq!(headers["location"], "http://inside/");
        assert_eq!(headers["content-length"], "4");
    })
    .await;
}

#[tokio::test]
async fn head_keeps_the_length_and_has_no_body() {
    in_world(config(), async |world| {
        let server = world
            .sandbox_http(|_request| async { http::Response::new(full("twelve bytes")) })
            .await;
        let mut request = server.get("/");
        *request.method_mut() = http::Method::HEAD;
        let response = world.send(request).await;
        assert_eq!(response.headers()["content-length"], "12");
        assert_eq!(crate::kit::text(response).await.2, "");
    })
    .await;
}
