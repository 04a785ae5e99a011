//! What an agent is like that has taken the place of another.

use std::io::Write as _;

use bytes::Bytes;
use guest_wire::client;
use http::StatusCode;
use serde_json::json;

use crate::program::{Envd, is_alive, wait_until};
use crate::upgrade::{
    ask, connect, init, initialised, kill, open, same_program, told, upgrade, upgrade_with,
};

#[tokio::test]
async fn an_upgraded_agent_ends_when_it_is_told_to() {
    let mut envd = initialised().await;
    let mut frames = envd.shell("exec sleep 1000", &[]).await;
    let child = u32::try_from(frames.started().await).unwrap();
    upgrade(&envd).await;
    let pid = rustix::process::Pid::from_raw(i32::try_from(envd.pid()).unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    assert_eq!(envd.child().wait().unwrap().code(), Some(0));
    assert!(!is_alive(child));
}

#[tokio::test]
async fn a_request_that_is_never_sent_in_full_holds_up_nothing() {
    let envd = initialised().await;
    let sockets = envd.sockets();
    let mut half = std::net::TcpStream::connect(envd.addr).unwrap();
    let head = b"POST /init HTTP/1.1\r\nhost: sandbox\r\ncontent-length: 10\r\n\r\n{";
    half.write_all(head).unwrap();
    wait_until("it is accepted", || envd.sockets() > sockets).await;
    assert_eq!(upgrade(&envd).await, told(0, 0, 0));
}

#[tokio::test]
async fn the_new_agent_is_closed_until_who_knew_the_token_opens_it() {
    let envd = Envd::start();
    let settings = json!({"accessToken": "tok", "envVars": {"A": "1"}, "defaultWorkdir": "/tmp"});
    assert_eq!(init(&envd, settings).await.status, StatusCode::NO_CONTENT);
    let token = [("x-access-token", "tok")];
    assert!(ask(&envd, &token, same_program()).await.is_none());
    assert_eq!(envd.get("/health", &[]).await.status, StatusCode::NO_CONTENT);
    let closed = (401, "envd not initialized".to_owned());
    for path in ["/envs", "/metrics", "/files?path=/etc/passwd", "/nowhere"] {
        assert_eq!(envd.get(path, &token).await.error(), closed, "{path}");
    }
    assert_eq!(envd.call("process.Process/List", json!({}), &token).await.error(), closed);
    let binary = Bytes::from_static(b"not looked at");
    assert_eq!(ask(&envd, &token, binary).await.unwrap().error(), closed);
    for (body, text) in [
        (json!({}), "access token reset not authorized"),
        (json!({"accessToken": "other"}), "access token validation failed"),
    ] {
        let refused = init(&envd, body).await;
        assert_eq!((refused.status.as_u16(), refused.text()), (401, text));
        assert!(refused.header("x-envd-handover").is_some());
        assert_eq!(envd.get("/envs", &token).await.error(), closed);
    }
    let opened = init(&envd, json!({"accessToken": "tok"})).await;
    assert_eq!(opened.status, StatusCode::NO_CONTENT);
    assert_eq!(envd.get("/envs", &token).await.json()["A"], "1");
    assert_eq!(envd.get("/envs", &[]).await.status, StatusCode::UNAUTHORIZED);
    assert_eq!(upgrade_with(&envd, json!({"accessToken": "tok"})).await, told(0, 0, 0));
}

#[tokio::test]
async fn it_stays_one_process_with_the_same_descriptors_and_limits() {
    let limit = ["/bin/sh", "-c", "ulimit -Sn 300; exec \"$@\"", "sh"];
    let envd = Envd::start_by(&limit, &[], &[("E2B_SANDBOX_ID", "sbx")]);
    open(&envd).await;
    let sockets = envd.sockets();
    let mut frames = envd.shell("exec sleep 1000", &[]).await;
    let pid = frames.started().await;
    let request = json!({"process": {"cmd": "sh"}, "pty": {}});
    let terminal = envd.stream("process.Process/Start", request, &[]).await;
    drop((frames, terminal));
    envd.ok("filesystem.Filesystem/CreateWatcher", json!({"path": "/tmp"})).await;
    let is_quiet = || envd.sockets() == sockets;
    wait_until("the connections are gone", is_quiet).await;
    let before = envd.descriptors();
    for _ in 0..2 {
        assert_eq!(upgrade(&envd).await, told(2, 0, 1));
        wait_until("the connections are gone", is_quiet).await;
        assert_eq!(envd.descriptors(), before);
    }
    // Neither what was handed on nor what the agent has besides reaches a process.
    let listed = envd.run("ls /proc/self/fd; ulimit -Sn; echo $E2B_SANDBOX_ID").await.stdout;
    assert_eq!(listed, "0\n1\n2\n3\n300\nsbx\n");
    let name = std::fs::read_to_string(format!("/proc/{}/comm", envd.pid())).unwrap();
    assert_eq!(name, "envd\n");
    kill(&envd, pid).await;
}

#[tokio::test]
async fn what_is_noted_goes_on_in_the_same_journal() {
    let envd = initialised().await;
    let mut frames = envd.shell("echo before; read line; echo after", &[]).await;
    let pid = frames.started().await;
    frames.until("stdout", "before\n").await;
    let before = client::journal(envd.addr, None, "", 0).await.unwrap().unwrap();
    upgrade(&envd).await;
    let frames = connect(&envd, pid).await;
    let input = json!({"process": {"pid": pid}, "input": {"stdin": "Cg=="}});
    envd.ok("process.Process/SendInput", input).await;
    frames.rest(pid).await;
    let after = client::journal(envd.addr, None, &before.run, 0).await.unwrap().unwrap();
    assert_eq!((after.run, &after.lines[0]), (before.run, &before.lines[0]));
    assert_eq!((after.lines.len(), after.lines[1].number), (2, 2));
    assert_eq!(after.lines[1].fields["stdout_bytes"], "13", "of both agents");
}
