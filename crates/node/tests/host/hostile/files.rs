//! The guest agent's file calls: whatever a path says, it leads to a file of the sandbox, and no
//! name, however odd, ends the agent.

use std::net::IpAddr;

use bytes::Bytes;
use hyper::{Method, StatusCode};
use node_wire::NodeApi as _;
use serde_json::json;
use testkit::{TestNode, in_view};

use super::escape::Marks;
use super::{LIMIT, ask, call, encoded, open, put};
use crate::guest::run;

const EMPTY: (&str, Bytes) = ("application/json", Bytes::new());

/// Every call that takes a path, with `path` as that: what was asked, and what was answered.
async fn every_call(addr: IpAddr, path: &str) -> Vec<(&'static str, StatusCode, String)> {
    let query = encoded(path);
    let mut all = Vec::new();
    for (name, uri) in [
        ("GET /files", format!("/files?path={query}")),
        ("GET /files as user", format!("/files?username=user&path={query}")),
    ] {
        let (status, body) = ask(addr, Method::GET, &uri, "root", EMPTY).await;
        all.push((name, status, body));
    }
    let compose = json!({"source_paths": [path], "destination": "/tmp/composed"});
    let body = ("application/json", Bytes::from(compose.to_string()));
    let (status, body) = ask(addr, Method::POST, "/files/compose", "root", body).await;
    all.push(("POST /files/compose", status, body));
    for (name, message) in [
        ("Stat", json!({"path": path})),
        ("ListDir", json!({"path": path, "depth": 2})),
        ("CreateWatcher", json!({"path": path})),
        ("Move", json!({"source": path, "destination": "/tmp/moved"})),
    ] {
        let (status, body) = call(addr, &format!("filesystem.Filesystem/{name}"), message).await;
        all.push((name, status, body));
    }
    let (status, body) = open(addr, "filesystem.Filesystem/WatchDir", json!({"path": path})).await;
    all.push(("WatchDir", status, body));
    let process = json!({"cmd": "/bin/ls", "cwd": path});
    let start = json!({"process": process, "stdin": false});
    let (status, body) = open(addr, "process.Process/Start", start).await;
    all.push(("Start", status, body));
    all
}

/// How a file comes to a path.
#[derive(Debug, Clone, Copy)]
enum Writing {
    /// As the body of a request.
    Put,
    /// As a part of a form that names it.
    Form,
    /// Out of parts.
    Compose,
    /// From elsewhere in the sandbox.
    Move,
}

impl Writing {
    const ALL: [Self; 4] = [Self::Put, Self::Form, Self::Compose, Self::Move];

    /// Has a file of `user` with the content "mine" come to `path`.
    async fn to(self, addr: IpAddr, path: &str, user: &str) -> (StatusCode, String) {
        const MINE: Bytes = Bytes::from_static(b"mine");
        const PART: &str = "/tmp/part";
        if matches!(self, Self::Compose | Self::Move) {
            assert_eq!(put(addr, PART, user, MINE).await, 200);
        }
        match self {
            Self::Put => (put(addr, path, user, MINE).await, String::new()),
            Self::Form => {
                let form = format!(
                    "--cut\r\nContent-Disposition: form-data; name=\"file\"; filename=\"{path}\"\r\n\
                     \r\nmine\r\n--cut--\r\n"
                );
                let content = ("multipart/form-data; boundary=cut", Bytes::from(form));
                ask(addr, Method::POST, &format!("/files?username={user}"), user, content).await
            }
            Self::Compose => {
                let message =
                    json!({"source_paths": [PART], "destination": path, "username": user});
                let content = ("application/json", Bytes::from(message.to_string()));
                ask(addr, Method::POST, "/files/compose", user, content).await
            }
            Self::Move => {
                let message = json!({"source": PART, "destination": path});
                call(addr, "filesystem.Filesystem/Move", message).await
            }
        }
    }
}

/// Ways to write the path of something that the host has and the sandbox does not.
fn ways_out(path: &str) -> Vec<String> {
    let up = "../".repeat(40);
    vec![
        path.to_owned(),
        format!("/{up}{path}"),
        format!("{up}{path}"),
        format!("~/{up}{path}"),
        format!("/proc/self/root/{up}{path}"),
        format!("/proc/1/root/{up}{path}"),
        format!("/proc/1/cwd/{up}{path}"),
        format!("/proc/1/task/1/root/{path}"),
        format!("/tmp/leads/out/{path}"),
        format!("/tmp/./leads/../leads/up{path}"),
    ]
}

const LEADS: &str = "busybox mkdir -p /tmp/leads && busybox ln -s / /tmp/leads/out && \
                     busybox ln -s ../../../../../../../../.. /tmp/leads/up";

#[test]
fn no_path_leads_the_agent_out_of_its_sandbox() {
    in_view(async |view| {
        let test = TestNode::start(view, |_| {}).await;
        let marks = Marks::new();
        let addr = test.node.create(test.spec("i1"), LIMIT).await.unwrap().route.addr;
        run(addr, "root", LEADS).await;
        // What is refused below is not refused because nothing is ever taken.
        for (name, message) in [
            ("filesystem.Filesystem/WatchDir", json!({"path": "/tmp"})),
            ("process.Process/Start", json!({"process": {"cmd": "/bin/ls", "cwd": "/tmp"}})),
        ] {
            let (status, body) = open(addr, name, message).await;
            assert_eq!(status, 200, "{name}: {body}");
        }
        // Where one call would be refused because it is a file, another is because it is none.
        let directory = marks.dir.path().display().to_string();
        for way in [ways_out(&marks.path()), ways_out(&directory)].concat() {
            for (name, status, body) in every_call(addr, &way).await {
                assert!(status.is_client_error(), "{name} {way}: {status} {body}");
                assert!(!body.contains("untouched"), "{name} {way}: {body}");
            }
            // What there is not is removed with success; that is E2B's wire.
            call(addr, "filesystem.Filesystem/Remove", json!({"path": way})).await;
            marks.assert_untouched();
        }
        // Writing makes a file of the sandbox, with the directories above it, of the user named.
        for way in ways_out(&marks.path()) {
            for writing in Writing::ALL {
                let (status, body) = writing.to(addr, &way, "user").await;
                assert_eq!(status, 200, "{writing:?} {way}: {body}");
                let look = format!("cat {0}; busybox stat -c %u {0}; rm {0}", marks.path());
                let out = run(addr, "root", &look).await;
                assert_eq!(out.stdout, "mine1000\n", "{writing:?} {way}: {out:?}");
            }
            let made = json!({"path": format!("{way}.d/deep")});
            let (status, body) = call(addr, "filesystem.Filesystem/MakeDir", made).await;
            assert_eq!(status, 200, "{way}: {body}");
            let gone = json!({"path": format!("{}.d", marks.path())});
            call(addr, "filesystem.Filesystem/Remove", gone).await;
            marks.assert_untouched();
        }
        test.stop().await;
    });
}

#[test]
fn odd_names_are_refused_or_taken_and_the_agent_goes_on() {
    in_view(async |view| {
        let test = TestNode::start(view, |_| {}).await;
        let addr = test.node.create(test.spec("i1"), LIMIT).await.unwrap().route.addr;
        let odd = [
            "/a\0b".to_owned(),
            "\0".to_owned(),
            format!("/{}", "n".repeat(256)),
            "/d".repeat(3000),
            format!("/{}", "../".repeat(2000)),
            "~root/.ssh".to_owned(),
        ];
        for path in &odd {
            let shown: String = path.chars().take(40).collect();
            for (name, status, body) in every_call(addr, path).await {
                assert_ne!(status, 200, "{name} {shown:?}: {body}");
            }
            for writing in Writing::ALL {
                let (status, _body) = writing.to(addr, path, "root").await;
                assert_ne!(status, 200, "{writing:?} {shown:?}");
            }
            for name in ["MakeDir", "Remove"] {
                let name = format!("filesystem.Filesystem/{name}");
                let (status, _body) = call(addr, &name, json!({"path": path})).await;
                assert_ne!(status, 200, "{name} {shown:?}");
            }
        }
        for path in ["/tmp/line\nbreak", "/tmp/..x", "/tmp/\u{202e}evil", "/tmp/ ", "/tmp/-rf"] {
            assert_eq!(put(addr, path, "user", Bytes::from_static(b"x")).await, 200, "{path:?}");
            let uri = format!("/files?path={}", encoded(path));
            let (status, body) = ask(addr, Method::GET, &uri, "user", EMPTY).await;
            assert_eq!((status.as_u16(), body.as_str()), (200, "x"), "{path:?}");
        }
        assert_eq!(run(addr, "user", "echo alive").await.stdout, "alive\n");
        test.stop().await;
    });
}

/// A directory becomes a link and a directory again, as fast as the kernel does it.
const SWAP: &str = "cd /tmp && busybox mkdir -p real/sub && busybox ln -s $OUT link; \
    (while [ ! -e /tmp/stop ]; do mv real was; mv link real; mv real link; mv was real; done) \
    >/dev/null 2>&1 & echo";

/// Watches what is a directory of the sandbox or a link, and sees nothing of what comes to be and
/// goes in the host's. Whether there was something to watch.
async fn watch(addr: IpAddr, marks: &Marks) -> bool {
    let watched = json!({"path": "/tmp/real", "recursive": true});
    open(addr, "filesystem.Filesystem/WatchDir", watched.clone()).await;
    let (status, body) = call(addr, "filesystem.Filesystem/CreateWatcher", watched).await;
    let hosts = marks.dir.path().join("of-the-host");
    std::fs::write(&hosts, "").unwrap();
    std::fs::remove_file(&hosts).unwrap();
    if status != 200 {
        return false;
    }
    let watcher: serde_json::Value = serde_json::from_str(&body).unwrap();
    for name in ["GetWatcherEvents", "RemoveWatcher"] {
        let (status, body) =
            call(addr, &format!("filesystem.Filesystem/{name}"), watcher.clone()).await;
        assert_eq!(status, 200, "{name}: {body}");
        assert!(!body.contains("of-the-host"), "{body}");
    }
    true
}

#[test]
fn directories_that_become_links_while_calls_run_lead_nowhere_else() {
    in_view(async |view| {
        let test = TestNode::start(view, |_| {}).await;
        let marks = Marks::new();
        let addr = test.node.create(test.spec("i1"), LIMIT).await.unwrap().route.addr;
        let swap = SWAP.replace("$OUT", &marks.dir.path().display().to_string());
        run(addr, "root", &swap).await;
        let (mut met, mut missed, mut watched) = (0, 0, 0);
        for round in 0..200 {
            let inside = format!("/tmp/real/sub/{round}");
            match put(addr, &inside, "user", Bytes::from_static(b"x")).await.as_u16() {
                200 => met += 1,
                _ => missed += 1,
            }
            for writing in [Writing::Form, Writing::Compose] {
                writing.to(addr, &format!("/tmp/real/sub/other{round}"), "user").await;
            }
            watched += u32::from(watch(addr, &marks).await);
            for (name, message) in [
                ("MakeDir", json!({"path": format!("/tmp/real/made{round}/deep")})),
                ("Move", json!({"source": inside, "destination": "/tmp/real/marker"})),
                ("ListDir", json!({"path": "/tmp/real", "depth": 3})),
                ("Remove", json!({"path": "/tmp/real/marker"})),
                ("Remove", json!({"path": "/tmp/real/sub"})),
            ] {
                call(addr, &format!("filesystem.Filesystem/{name}"), message).await;
            }
            let uri = format!("/files?path={}", encoded("/tmp/real/marker"));
            let (_status, body) = ask(addr, Method::GET, &uri, "root", EMPTY).await;
            assert!(!body.contains("untouched"), "{body}");
            let stolen =
                json!({"source_paths": ["/tmp/real/marker"], "destination": "/tmp/stolen"});
            let content = ("application/json", Bytes::from(stolen.to_string()));
            ask(addr, Method::POST, "/files/compose", "root", content).await;
            let (_status, body) =
                ask(addr, Method::GET, "/files?path=/tmp/stolen", "root", EMPTY).await;
            assert!(!body.contains("untouched"), "{body}");
        }
        println!("{met} files were written, {missed} were not");
        assert!(met > 0 && watched > 0, "the agent works while names change");
        marks.assert_untouched();
        assert_eq!(run(addr, "user", "echo > /tmp/stop; echo alive").await.stdout, "alive\n");
        test.stop().await;
    });
}
