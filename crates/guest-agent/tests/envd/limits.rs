//! What happens at the limits: an answer at once, and everything else goes on.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use http::StatusCode;
use serde_json::{Value, json};

use crate::connect::{Frames, frame};
use crate::program::{Envd, wait_until};

/// An answer that does not have to wait for anything comes within this.
const AT_ONCE: Duration = Duration::from_secs(30);

/// An agent with so few descriptors that it has places for 100 streams and 200 connections.
fn small() -> Envd {
    Envd::start_by(&["/bin/sh", "-c", "ulimit -n 400; exec \"$@\"", "sh"], &[], &[])
}

async fn sleeper(envd: &Envd) -> (Frames, u64) {
    let mut frames = envd.shell("exec sleep 1000", &[]).await;
    let pid = frames.started().await;
    (frames, pid)
}

async fn connect(envd: &Envd, pid: u64) -> Frames {
    let request = json!({"process": {"pid": pid}});
    envd.stream("process.Process/Connect", request, &[]).await
}

#[tokio::test]
async fn one_stream_too_many_is_refused_at_once_and_other_calls_are_answered() {
    let envd = small();
    let (first, pid) = sleeper(&envd).await;
    let mut streams = vec![first];
    for _ in 1..100 {
        let mut frames = connect(&envd, pid).await;
        frames.started().await;
        streams.push(frames);
    }

    let refused_at = Instant::now();
    let watch = json!({"path": "/"});
    let start = json!({"process": {"cmd": "true"}});
    for refused in [
        connect(&envd, pid).await,
        envd.stream("process.Process/Start", start, &[]).await,
        envd.stream("filesystem.Filesystem/WatchDir", watch, &[]).await,
        stream_input(&envd).await,
    ] {
        let error = refused.outcome().await.error;
        assert_eq!(error["code"], "resource_exhausted", "{error}");
        assert!(error["message"].as_str().unwrap().contains("100 streams"), "{error}");
    }
    assert_eq!(envd.get("/health", &[]).await.status, StatusCode::NO_CONTENT);
    assert_eq!(envd.post("/init", &[], "{}").await.status, StatusCode::NO_CONTENT);
    let list = envd.ok("process.Process/List", json!({})).await;
    assert_eq!(list["processes"].as_array().unwrap().len(), 1, "one was started: {list}");
    assert!(refused_at.elapsed() < AT_ONCE);

    streams.pop();
    let place_is_free = async {
        loop {
            if connect(&envd, pid).await.message().await.is_ok() {
                return;
            }
        }
    };
    tokio::select! {
        () = place_is_free => {}
        () = tokio::time::sleep(AT_ONCE) => panic!("a stream that was closed made no room"),
    }
    envd.ok("process.Process/SendSignal", json!({"process": {"pid": pid}, "signal": 9})).await;
    assert_eq!(streams.pop().unwrap().rest(pid).await.end["status"], "signal: killed");
}

async fn stream_input(envd: &Envd) -> Frames {
    let headers = [("content-type", "application/connect+json")];
    let start = json!({"start": {"process": {"tag": "none"}}}).to_string();
    envd.raw_stream("process.Process/StreamInput", frame(0, start.as_bytes()), &headers).await
}

#[tokio::test]
async fn one_connection_too_many_is_told_and_closed_and_a_closed_one_makes_room() {
    let envd = small();
    let open = || TcpStream::connect(envd.addr).unwrap();
    let is_healthy = |connection: &mut TcpStream| {
        let asked = connection.write_all(b"GET /health HTTP/1.1\r\nhost: sandbox\r\n\r\n");
        let mut status = [0; 12];
        asked.and_then(|()| connection.read_exact(&mut status)).is_ok()
            && &status == b"HTTP/1.1 204"
    };
    let mut connections: Vec<_> = (0..200).map(|_| open()).collect();
    // They are accepted in turn.
    assert!(is_healthy(&mut connections[199]));

    let mut refused = open();
    refused.set_read_timeout(Some(AT_ONCE)).unwrap();
    let mut answer = String::new();
    refused.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 429 ") && head.contains("connection: close"), "{head}");
    assert!(head.contains(&format!("content-length: {}\r\n", body.len())), "{head}");
    let body: Value = serde_json::from_str(body).unwrap();
    assert_eq!(body["code"], "resource_exhausted");

    // Those that are open are served.
    assert!(is_healthy(&mut connections[0]));
    connections.pop();
    wait_until("there is room again", || is_healthy(&mut open())).await;
}

#[tokio::test]
async fn the_agent_has_more_descriptors_than_the_processes_it_starts() {
    let limit = "ulimit -Sn 300; exec \"$@\"";
    let envd = Envd::start_by(&["/bin/sh", "-c", limit, "sh"], &[], &[]);
    let outcome = envd.run("ulimit -Sn; ulimit -Hn").await;
    let hard = rustix::process::getrlimit(rustix::process::Resource::Nofile).maximum.unwrap();
    assert_eq!(outcome.stdout, format!("300\n{hard}\n"));
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", envd.pid())).unwrap();
    let line = limits.lines().find(|line| line.starts_with("Max open files")).unwrap();
    let words: Vec<_> = line.split_whitespace().collect();
    assert_eq!(words[3..5], [hard.to_string(), hard.to_string()]);
}

#[tokio::test]
async fn hundreds_of_clients_that_do_not_read_cost_little_memory() {
    const CLIENTS: usize = 400;
    let envd = Envd::start();
    let before_kib = envd.resident_kib();
    let mut stalled = Vec::new();
    for _ in 0..CLIENTS {
        let mut frames = envd.shell("exec yes", &[]).await;
        frames.started().await;
        stalled.push(frames);
    }
    envd.stands_still().await;
    let grown_kib = envd.resident_kib().saturating_sub(before_kib);
    assert!(grown_kib < 64 * 1024, "the agent grew by {grown_kib} KiB");
    // And nobody waits for them.
    assert_eq!(envd.run("head -c 10000000 /dev/zero").await.stdout.len(), 10_000_000);
}
