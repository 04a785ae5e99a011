//! The guest agent of a real sandbox is replaced while its programs run.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use guest_wire::ENVD_PORT;
use guest_wire::rest::{InitRequest, TOKEN_HEADER};
use http_body_util::{BodyExt as _, Full};
use hyper_util::rt::TokioIo;
use lifecycle::Budget;
use model::{EndReason, Keep, SandboxSpec, Secret};
use node_wire::{JournalMark, NodeApi};
use testkit::{TestNode, in_view, wait_for, with_view};

use crate::guest::run_with;
use crate::requirements::id;

const LIMIT: Duration = Duration::from_secs(60);
const TOKEN: &str = "token-of-this-test";

/// Asks the agent at `addr` to become `binary`. The status and text of a refusal; `None` if it has
/// become another, which answers nothing.
async fn upgrade(addr: IpAddr, binary: Vec<u8>) -> Option<(u16, String)> {
    let stream = tokio::net::TcpStream::connect(SocketAddr::new(addr, ENVD_PORT)).await.unwrap();
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
    let request = hyper::Request::post("/upgrade").header("host", "guest");
    let request = request.header(TOKEN_HEADER, TOKEN);
    let request = request.body(Full::new(bytes::Bytes::from(binary))).unwrap();
    let exchange = async {
        let response = sender.send_request(request).await.ok()?;
        let status = response.status().as_u16();
        let text = response.into_body().collect().await.unwrap().to_bytes();
        Some((status, String::from_utf8(text.to_vec()).unwrap()))
    };
    tokio::select! {
        answer = exchange => answer,
        _closed = connection => None,
    }
}

/// When the first process began, and how many descriptors it has.
async fn first_process(addr: IpAddr) -> (String, usize) {
    let look = "ls /proc/1/fd | wc -l; busybox stat -c %Y /proc/1";
    let output = run_with(addr, "root", Some(TOKEN), look).await;
    let (descriptors, began) = output.stdout.trim().split_once('\n').unwrap();
    (began.to_owned(), descriptors.parse().unwrap())
}

async fn sh(addr: IpAddr, command: &str) -> String {
    let output = run_with(addr, "user", Some(TOKEN), command).await;
    assert_eq!(output.code, 0, "{output:?}");
    output.stdout.trim().to_owned()
}

/// It is the first process of its container, with the rights, the system calls and the mounts that
/// sandboxes have; what it becomes is the agent as it is shipped.
#[test]
fn an_agent_that_is_replaced_is_kept_paused_adopted_and_ended_like_any_other() {
    let dir = with_view(async move |view| {
        let test = TestNode::start(view, |_| {}).await;
        let access_token = Some(Secret::new(TOKEN.to_owned()));
        let spec = SandboxSpec { access_token, ..test.spec("i1") };
        let addr = test.node.create(spec, LIMIT).await.unwrap().route.addr;
        let child = sh(addr, "sleep 1000 >/dev/null 2>&1 & echo $!").await;
        let before = first_process(addr).await;
        assert!(before.1 > 3, "{before:?}");
        let first = JournalMark::default();
        let noted = test.node.journal(&id("i1"), &first).await.unwrap().unwrap();

        let refused = upgrade(addr, b"no program".to_vec()).await.unwrap();
        assert_eq!(refused.0, 500, "{refused:?}");
        assert_eq!(sh(addr, &format!("kill -0 {child}; echo $?")).await, "0");

        let binary = std::fs::read(testkit::agent()).unwrap();
        assert_eq!(upgrade(addr, binary).await, None);
        let agent = SocketAddr::new(addr, ENVD_PORT);
        wait_for("the next agent", LIMIT, async || guest_wire::client::health(agent).await.is_ok())
            .await;
        let request = InitRequest { access_token: Some(TOKEN.into()), ..InitRequest::default() };
        guest_wire::client::init(agent, Some(TOKEN), &request).await.unwrap();
        assert_eq!(sh(addr, &format!("kill -0 {child}; echo $?")).await, "0");
        // Connections of calls that were answered are closed a moment later.
        wait_for("as many descriptors as before", LIMIT, async || {
            let (began, descriptors) = first_process(addr).await;
            assert_eq!(began, before.0, "it is the same process");
            descriptors <= before.1
        })
        .await;
        let more = test.node.journal(&id("i1"), &first).await.unwrap().unwrap();
        assert_eq!(more.run, noted.run);
        assert_eq!(more.lines[..noted.lines.len()], noted.lines);

        test.node.pause(&id("i1"), Keep::Memory).await.unwrap();
        assert!(test.node.resume(test.spec("i1"), Keep::Memory, LIMIT).await.unwrap().memory);
        assert_eq!(sh(addr, &format!("kill -0 {child}; echo $?")).await, "0");
        let report = test.node.leave(Budget::within(LIMIT)).await;
        assert_eq!((report.left, report.errors), (1, Vec::new()));
        test.into_dir()
    });
    in_view(async move |view| {
        let next = TestNode::start_in(dir, view, |_| {}).await;
        let addr = next.node.list().await.unwrap()[0].addr.unwrap();
        assert_eq!(sh(addr, "echo on").await, "on");
        next.node.pause(&id("i1"), Keep::Files).await.unwrap();
        let access_token = Some(Secret::new(TOKEN.to_owned()));
        let spec = SandboxSpec { access_token, ..next.spec("i1") };
        let resumed = next.node.resume(spec, Keep::Memory, LIMIT).await.unwrap();
        assert_eq!(sh(resumed.started.route.addr, "echo on").await, "on");
        next.node.kill(&id("i1"), EndReason::Request).await.unwrap();
        next.wait_no_sandbox_objects().await;
        next.stop().await;
    });
}
