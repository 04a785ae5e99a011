//! Questions to name servers: those for names that are not allowed come to none.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, UdpSocket};
use std::sync::{Arc, mpsc};
use std::thread;

use lifecycle::Budget;
use model::{Egress, EndReason, Ipv4Range};
use node_wire::NodeApi;
use testkit::{TestNode, in_view, wait_for, with_view};

use super::world::{Asked, answer_name, escape, serve_each};
use super::{LIMIT, names, sandbox, start, text};
use crate::guest::run;
use crate::network::{INTERNET, Internet};
use crate::requirements::id;

const BOTH: [&str; 2] = ["udp", "tcp"];
/// A name of which the server says nothing.
const SILENT: &str = "silent.below.example";

/// Answers questions in `internet` until the process ends, and notes what it was asked for.
fn serve_names(internet: &Internet) -> Asked {
    let asked = Asked::default();
    let (ready, is_ready) = mpsc::channel();
    let known = Arc::clone(&asked);
    internet.within(move || {
        let packets = UdpSocket::bind(("0.0.0.0", 53)).unwrap();
        let by_stream = Arc::clone(&known);
        serve_each(53, move |mut stream| {
            let mut len = [0; 2];
            while stream.read_exact(&mut len).is_ok() {
                let mut message = vec![0; usize::from(u16::from_be_bytes(len))];
                stream.read_exact(&mut message)?;
                if let Some(answer) = note(&by_stream, &message) {
                    stream.write_all(&sized(&answer))?;
                }
            }
            Ok(())
        });
        thread::spawn(move || {
            let mut packet = [0; 4096];
            while let Ok((len, from)) = packets.recv_from(&mut packet) {
                if let Some(answer) = note(&known, &packet[..len]) {
                    packets.send_to(&answer, from).unwrap();
                }
            }
        });
        ready.send(()).unwrap();
    });
    is_ready.recv().unwrap();
    asked
}

fn note(asked: &Asked, message: &[u8]) -> Option<Vec<u8>> {
    let read = answer_name(message);
    let name = read.as_ref().map_or("?", |(name, _)| name).to_owned();
    asked.lock().push(name.clone());
    read.filter(|_| name != SILENT).map(|(_, answer)| answer)
}

fn sized(message: &[u8]) -> Vec<u8> {
    [&u16::try_from(message.len()).unwrap().to_be_bytes(), message].concat()
}

fn question(name: &str) -> Vec<u8> {
    let mut message = vec![7, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.') {
        message.push(u8::try_from(label.len()).unwrap());
        message.extend(label.as_bytes());
    }
    message.extend([0, 0, 1, 0, 1]);
    message
}

/// The code of the answer that a program gets which asks for `name`, if it gets one.
async fn ask(addr: IpAddr, protocol: &str, server: Ipv4Addr, name: &str) -> Option<u8> {
    let (message, skip) = match protocol {
        "tcp" => (sized(&question(name)), 2),
        _ => (question(name), 0),
    };
    let ask = format!(
        "exec 3<>/dev/{protocol}/{server}/53 && printf \"{}\" >&3 && \
         busybox dd bs=4096 count=1 <&3 | busybox od -An -v -tx1",
        escape(&message)
    );
    let said = run(addr, "user", &format!("timeout 10 bash -c '{ask}'")).await;
    let bytes = said.stdout.split_whitespace().skip(skip);
    let bytes: Vec<u8> = bytes.map(|byte| u8::from_str_radix(byte, 16).unwrap()).collect();
    assert!(bytes.is_empty() || bytes.starts_with(&[7, 7]), "{said:?}");
    bytes.get(3).map(|code| code & 0x0f)
}

#[test]
fn a_name_that_is_not_allowed_comes_to_no_server_and_is_said_not_to_be() {
    let internet = Internet::new();
    let asked = serve_names(&internet);
    in_view(async move |view| {
        let test = start(view).await;
        let allowed = ["allowed.example", "*.below.example"];
        let addr = sandbox(&test, "i1", names(&allowed)).await;
        for protocol in BOTH {
            for (name, code) in [
                ("allowed.example", 0),
                ("a.below.example", 0),
                ("secret.other.example", 3),
                ("secret.allowed.example", 3),
                ("below.example", 3),
            ] {
                let answer = ask(addr, protocol, INTERNET, name).await;
                assert_eq!(answer, Some(code), "{protocol} {name}");
            }
        }
        // What the C library makes of it, and what is no question at all.
        let unknown =
            run(addr, "user", "timeout 4 bash -c 'exec 3<>/dev/tcp/other.example/80'").await;
        assert!(unknown.stderr.contains("Name or service not known"), "{unknown:?}");
        for word in [
            "exec 3<>/dev/udp/198.51.100.2/53; echo secret >&3",
            "exec 3<>/dev/tcp/198.51.100.2/53; echo secret >&3",
        ] {
            run(addr, "user", &format!("timeout 4 bash -c '{word}'")).await;
        }
        let both = ["allowed.example", "a.below.example"];
        assert_eq!(*asked.lock(), [both, both].concat());

        let set = async |rules: Egress| test.node.set_egress(&id("i1"), rules).await.unwrap();
        set(names(&["other.example"])).await;
        for protocol in BOTH {
            assert_eq!(ask(addr, protocol, INTERNET, "other.example").await, Some(0));
            assert_eq!(ask(addr, protocol, INTERNET, "allowed.example").await, Some(3));
        }
        // Whoever allows the address of a server trusts it, and by address nobody looks.
        let trusted = Egress { allow: vec![Ipv4Range::new(INTERNET, 32)], ..names(&allowed) };
        for rules in [trusted, Egress::default()] {
            set(rules).await;
            assert_eq!(ask(addr, "udp", INTERNET, "free.other.example").await, Some(0));
            assert_eq!(ask(addr, "tcp", INTERNET, "free.other.example").await, Some(0));
        }
        set(names(&allowed)).await;
        asked.lock().clear();
        for protocol in BOTH {
            assert_eq!(ask(addr, protocol, INTERNET, "secret.other.example").await, Some(3));
        }
        assert!(asked.lock().is_empty());
        test.stop().await;
    });
    drop(internet);
}

#[test]
fn without_a_daemon_no_question_gets_out_and_the_next_one_passes_on_the_same() {
    let internet = Internet::new();
    let asked = serve_names(&internet);
    let (dir, addr) = with_view(async |view| {
        let test = start(view).await;
        let addr = sandbox(&test, "i1", names(&["allowed.example", "*.below.example"])).await;
        assert_eq!(ask(addr, "udp", INTERNET, "allowed.example").await, Some(0));
        let report = test.node.leave(Budget::within(LIMIT)).await;
        assert_eq!((report.left, report.errors), (1, Vec::new()));
        (test.into_dir(), addr)
    });
    asked.lock().clear();
    let dir = with_view(async move |_view| {
        for protocol in BOTH {
            assert_eq!(ask(addr, protocol, INTERNET, "allowed.example").await, None, "{protocol}");
        }
        dir
    });
    assert!(asked.lock().is_empty());
    in_view(async move |view| {
        let next = TestNode::start_in(dir, view, |config| config.resolvers = vec![INTERNET]).await;
        for protocol in BOTH {
            let is_served =
                async || ask(addr, protocol, INTERNET, "allowed.example").await == Some(0);
            wait_for("the next to serve", LIMIT, is_served).await;
            let refused = ask(addr, protocol, INTERNET, "secret.other.example").await;
            assert_eq!(refused, Some(3), "{protocol}");
        }
        // It ends with questions that wait for an answer.
        for protocol in BOTH {
            let message = question(SILENT);
            let message = if protocol == "tcp" { sized(&message) } else { message };
            let wait = format!(
                "exec 3<>/dev/{protocol}/{}/53; printf \"{}\" >&3; exec cat <&3",
                text(INTERNET),
                escape(&message)
            );
            let wait = format!("busybox setsid bash -c '{wait}' </dev/null >/dev/null 2>&1 &");
            assert_eq!(run(addr, "user", &wait).await.code, 0);
        }
        let waits = || async { asked.lock().iter().filter(|name| *name == SILENT).count() >= 2 };
        wait_for("both to be asked", LIMIT, waits).await;
        assert!(!asked.lock().iter().any(|name| name.contains("secret")));
        next.node.kill(&id("i1"), EndReason::Request).await.unwrap();
        next.wait_no_sandbox_objects().await;
        next.stop().await;
    });
    drop(internet);
}

#[test]
fn name_servers_of_a_sandbox_are_asked_for_allowed_names_and_serve_what_else_they_serve() {
    let internet = Internet::new();
    let asked = serve_names(&internet);
    internet.within(|| serve_each(853, |mut stream| stream.write_all(b"encrypted")));
    in_view(async move |view| {
        let test =
            TestNode::start(view, |config| config.resolvers = vec![Ipv4Addr::new(203, 0, 113, 1)])
                .await;
        let rules = Egress {
            allow: vec![Ipv4Range::new(INTERNET, 32)],
            name_servers: Some(vec![INTERNET]),
            ..names(&["allowed.example"])
        };
        let addr = sandbox(&test, "i1", rules).await;
        for protocol in BOTH {
            assert_eq!(ask(addr, protocol, INTERNET, "allowed.example").await, Some(0));
            assert_eq!(ask(addr, protocol, INTERNET, "secret.example").await, Some(3));
        }
        assert_eq!(*asked.lock(), ["allowed.example"; 2]);
        let other = super::world::talk(addr, (&text(INTERNET), 853), b"").await;
        assert_eq!(other.stdout, "encrypted", "all traffic to it is allowed: {other:?}");
        test.stop().await;
    });
    drop(internet);
}
