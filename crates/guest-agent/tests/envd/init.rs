//! What the node tells, who may ask, and the small REST surface.

use std::net::SocketAddr;

use guest_wire::rest::InitRequest;
use guest_wire::{ENVD_VERSION, client};
use http::Method;
use serde_json::{Value, json};

use crate::program::Envd;

async fn init(envd: &Envd, body: &Value) -> (u16, String) {
    let answer = envd.post("/init", &[], body.to_string()).await;
    assert_eq!(answer.header("x-envd-version"), Some(ENVD_VERSION));
    (answer.status.as_u16(), answer.text().to_owned())
}

const DONE: (u16, String) = (204, String::new());

#[tokio::test]
async fn the_nodes_client_and_the_agent_understand_each_other() {
    let envd = Envd::start();
    client::health(envd.addr).await.unwrap();
    let request = InitRequest {
        access_token: Some("tok".into()),
        env_vars: Some([("A".into(), "1".into())].into()),
        timestamp: Some("2026-01-01T00:00:00.5Z".into()),
        ..InitRequest::default()
    };
    let reply = client::init(envd.addr, None, &request).await.unwrap();
    assert_eq!(reply.envd_version, ENVD_VERSION);
    client::health(envd.addr).await.unwrap();
    let metrics = client::metrics(envd.addr, Some("tok")).await.unwrap();
    assert!(metrics.cpu_count > 0 && metrics.mem_total > metrics.mem_used);
    assert!(metrics.disk_total >= metrics.disk_used && metrics.ts > 1_700_000_000);
    assert!(client::metrics(envd.addr, None).await.is_err());
}

#[tokio::test]
async fn variables_are_replaced_whole_and_kept_when_absent() {
    let variables = [("E2B_SANDBOX_ID", "sbx"), ("E2B_TEMPLATE_ID", "tpl")];
    let envd = Envd::start_with(&[], &variables);
    let own = json!({"E2B_SANDBOX": "true", "E2B_SANDBOX_ID": "sbx", "E2B_TEMPLATE_ID": "tpl"});
    let with = |name: &str| {
        let mut all = own.clone();
        all[name] = json!("1");
        all
    };
    assert_eq!(envd.get("/envs", &[]).await.json(), own);
    for (name, body) in [
        ("A", json!({"envVars": {"A": "1", "E2B_SANDBOX_ID": "forged"}})),
        ("A", json!({})),
        ("B", json!({"envVars": {"B": "1"}})),
    ] {
        assert_eq!(init(&envd, &body).await, DONE);
        assert_eq!(envd.get("/envs", &[]).await.json(), with(name));
    }
    assert_eq!(envd.run("echo $A$B $E2B_SANDBOX_ID").await.stdout, "1 sbx\n");
    for (name, value) in [("E2B_SANDBOX", "true"), ("E2B_SANDBOX_ID", "sbx")] {
        assert_eq!(std::fs::read_to_string(envd.path(&format!("run/.{name}"))).unwrap(), value);
    }
}

#[tokio::test]
async fn an_older_request_changes_nothing_and_is_answered_all_the_same() {
    let envd = Envd::start();
    let at = |second: u32, value: &str| json!({"timestamp": format!("2026-01-01T00:00:0{second}Z"), "envVars": {"A": value}});
    for (body, value) in
        [(at(5, "first"), "first"), (at(4, "older"), "first"), (at(5, "again"), "again")]
    {
        assert_eq!(init(&envd, &body).await, DONE);
        assert_eq!(envd.get("/envs", &[]).await.json()["A"], value);
    }
}

#[tokio::test]
async fn only_who_knows_the_token_may_set_it_again() {
    let envd = Envd::start();
    let token = |token: &str| json!({"accessToken": token});
    assert_eq!(init(&envd, &token("one")).await, DONE);
    assert_eq!(init(&envd, &token("one")).await, DONE);
    let wrong = (401, "access token validation failed".to_owned());
    assert_eq!(init(&envd, &token("two")).await, wrong);
    let missing = (401, "access token reset not authorized".to_owned());
    assert_eq!(init(&envd, &json!({})).await, missing);
    let header = envd.post("/init", &[("x-access-token", "one")], "{}").await;
    assert_eq!(header.status.as_u16(), 401, "the header plays no part");
}

#[tokio::test]
async fn with_a_token_everything_else_needs_it() {
    let envd = Envd::start();
    init(&envd, &json!({"accessToken": "tok"})).await;
    let message = "unauthorized access, please provide a valid access token or method signing if \
                   supported";
    for path in ["/metrics", "/envs", "/nope", "/health/"] {
        assert_eq!(envd.get(path, &[]).await.error(), (401, message.to_owned()), "{path}");
    }
    let list = "process.Process/List";
    let rpc = envd.call(list, json!({}), &[]).await;
    assert_eq!((rpc.error().0, &rpc.json()["code"]), (401, &json!(401)));
    assert_eq!(envd.call(list, json!({}), &[("x-access-token", "no")]).await.error().0, 401);
    let allowed = envd.call(list, json!({}), &[("x-access-token", "tok")]).await;
    assert_eq!(allowed.status.as_u16(), 200);
    assert_eq!(envd.get("/health", &[]).await.status.as_u16(), 204);
}

#[tokio::test]
async fn a_body_that_makes_no_sense_is_refused() {
    let envd = Envd::start();
    for body in ["{", "[]", r#"{"timestamp":"now"}"#, r#"{"accessToken":""}"#, r#"{"envVars":1}"#] {
        let answer = envd.post("/init", &[], body).await;
        assert_eq!((answer.status.as_u16(), answer.text()), (400, ""), "{body}");
    }
    assert_eq!(init(&envd, &json!({"envVars": {"A=B": "1"}})).await.0, 400);
    let volumes = json!({"volumeMounts": [{"nfs_target": "host:/v", "path": "/v"}]});
    let (status, text) = init(&envd, &volumes).await;
    assert_eq!(status, 400);
    assert!(text.contains("volumeMounts are not supported"), "{text}");
    assert_eq!(init(&envd, &json!({"caBundle": "hello"})).await.0, 400);
    let empty = envd.post("/init", &[], "").await;
    assert_eq!(empty.status.as_u16(), 204);
    let large = envd.post("/init", &[], vec![b' '; 5 << 20]).await;
    assert_eq!(large.status.as_u16(), 413);
}

#[tokio::test]
async fn the_default_user_and_directory_are_those_of_the_node() {
    let envd = Envd::start();
    let here = envd.text_path("work");
    std::fs::create_dir(&here).unwrap();
    let body = json!({"defaultUser": "root", "defaultWorkdir": here, "hyperloopIP": "192.0.2.1"});
    assert_eq!(init(&envd, &body).await, DONE);
    assert_eq!(envd.run("pwd").await.stdout.trim(), here);
    // A relative path starts at the home all the same.
    let listed = envd.ok("filesystem.Filesystem/Stat", json!({"path": ""})).await;
    assert_eq!(listed["entry"]["path"], here);
    assert_eq!(init(&envd, &json!({"defaultUser": "no-such-user"})).await, DONE);
    let (status, code, message) =
        envd.fails("filesystem.Filesystem/Stat", json!({"path": "/"})).await;
    let expected = (401, "unauthenticated".to_owned(), "invalid default user: 'no-such-user'");
    assert_eq!((status, code, message.as_str()), expected);
}

#[tokio::test]
async fn many_requests_at_once_end_in_one_state() {
    let envd = Envd::start();
    let body = json!({"accessToken": "tok", "timestamp": "2026-01-01T00:00:00Z"});
    let all = futures::future::join_all((0..50).map(|_| init(&envd, &body))).await;
    assert!(all.iter().all(|answer| *answer == DONE), "{all:?}");
}

#[tokio::test]
async fn browsers_are_answered_before_any_token_is_asked_for() {
    let envd = Envd::start();
    init(&envd, &json!({"accessToken": "tok"})).await;
    let asked = [
        ("origin", "https://example.com"),
        ("access-control-request-method", "POST"),
        ("access-control-request-headers", "x-access-token,content-type"),
    ];
    let answer = envd.send(Method::OPTIONS, "/files", &asked, bytes::Bytes::new()).await;
    assert_eq!(answer.status.as_u16(), 204);
    for (name, value) in [
        ("access-control-allow-origin", "*"),
        ("access-control-allow-methods", "POST"),
        ("access-control-allow-headers", "x-access-token,content-type"),
        ("access-control-max-age", "7200"),
        ("vary", "Origin, Access-Control-Request-Method, Access-Control-Request-Headers"),
    ] {
        assert_eq!(answer.header(name), Some(value));
    }
    let refused = envd.get("/envs", &[("origin", "https://example.com")]).await;
    assert_eq!(refused.status.as_u16(), 401);
    assert_eq!(refused.header("access-control-allow-origin"), Some("*"));
    assert!(refused.header("access-control-expose-headers").unwrap().contains("Grpc-Status"));
    assert_eq!(envd.get("/health", &[]).await.header("access-control-allow-origin"), None);
}

#[tokio::test]
async fn unknown_paths_and_methods_are_told_apart() {
    let envd = Envd::start();
    assert_eq!(envd.get("/nope", &[]).await.status.as_u16(), 404);
    assert_eq!(envd.post("/health", &[], "").await.status.as_u16(), 405);
    assert_eq!(envd.get("/process.Process/List", &[]).await.status.as_u16(), 405);
    let headers = [("content-type", "text/plain")];
    let other = envd.post("/process.Process/List", &headers, "{}").await;
    assert_eq!(other.status.as_u16(), 415);
}

#[tokio::test]
async fn a_socket_that_listens_already_is_taken_over() {
    use std::io::{BufRead as _, BufReader};
    use std::os::fd::AsRawFd as _;
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let addr: SocketAddr = listener.local_addr().unwrap();
    // The shell hands it on under the number 3.
    let fd = listener.as_raw_fd();
    rustix::io::fcntl_setfd(&listener, rustix::io::FdFlags::empty()).unwrap();
    let script = format!("exec 3<&{fd} {fd}<&-; exec \"$@\"");
    let (script, fd_arguments) = if fd == 3 {
        ("exec \"$@\"".to_owned(), ["--listen-fd", "3"])
    } else {
        (script, ["--listen-fd", "3"])
    };
    let run_dir = tempfile::tempdir().unwrap();
    let mut child = crate::program::command("bash")
        .args(["-c", &script, "sh", env!("CARGO_BIN_EXE_envd")])
        .args(fd_arguments)
        .arg("--no-cgroups")
        .arg("--run-dir")
        .arg(run_dir.path())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    drop(listener);
    // The request needs no other try: the socket has listened all along.
    let healthy = client::health(addr).await;
    let mut said = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut said).unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    healthy.unwrap();
    assert_eq!(said, format!("envd: listening on {addr}\n"));
}
