//! The agent is replaced while everything goes on.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::{Bytes, BytesMut};
use http::StatusCode;
use http_body_util::BodyExt as _;
use serde_json::{Value, json};

use crate::connect::{Frames, base64};
use crate::program::{Envd, is_alive, wait_until};
use crate::wire::{Answer, Headers};

/// Says numbers for ever, but not so many that those are forgotten which nobody listens to while
/// the agent is replaced.
const TALKER: &str = "i=0; while :; do
    end=$((i+50)); while [ $i -lt $end ]; do echo $i; i=$((i+1)); done; sleep 0.005
done";

/// The program the tests run, to be upgraded to.
pub(crate) fn same_program() -> Bytes {
    Bytes::from(std::fs::read(env!("CARGO_BIN_EXE_envd")).unwrap())
}

/// Asks for an upgrade. `None` if the connection was closed without an answer.
pub(crate) async fn ask(envd: &Envd, headers: Headers<'_>, body: Bytes) -> Option<Answer> {
    envd.try_post("/upgrade", headers, body).await
}

pub(crate) async fn init(envd: &Envd, body: Value) -> Answer {
    envd.post("/init", &[], body.to_string()).await
}

/// Upgrades to the same program, and gives what `/init` tells of it.
pub(crate) async fn upgrade_with(envd: &Envd, token: Value) -> Value {
    let shown = token["accessToken"].as_str().unwrap_or_default().to_owned();
    let refused = ask(envd, &[("x-access-token", &shown)], same_program()).await;
    assert!(refused.is_none(), "{refused:?}");
    let answer = init(envd, token).await;
    assert_eq!(answer.status, StatusCode::NO_CONTENT, "{}", answer.text());
    serde_json::from_str(answer.header("x-envd-handover").unwrap()).unwrap()
}

pub(crate) async fn upgrade(envd: &Envd) -> Value {
    upgrade_with(envd, json!({})).await
}

pub(crate) fn told(procs: usize, retained: usize, watchers: usize) -> Value {
    json!({
        "failed": false, "procs": procs, "procs_failed": 0, "retained": retained,
        "retained_failed": 0, "watchers": watchers, "watchers_failed": 0,
    })
}

/// An agent that may be upgraded.
pub(crate) async fn initialised() -> Envd {
    let envd = Envd::start();
    open(&envd).await;
    envd
}

/// Initialises, and waits until the agent has no connection any more.
pub(crate) async fn open(envd: &Envd) {
    let sockets = envd.sockets();
    assert_eq!(init(envd, json!({})).await.status, StatusCode::NO_CONTENT);
    wait_until("the connection is gone", || envd.sockets() == sockets).await;
}

pub(crate) async fn connect(envd: &Envd, pid: u64) -> Frames {
    let request = json!({"process": {"pid": pid}});
    let mut frames = envd.stream("process.Process/Connect", request, &[]).await;
    assert_eq!(frames.started().await, pid);
    frames
}

pub(crate) async fn kill(envd: &Envd, pid: u64) {
    envd.ok("process.Process/SendSignal", json!({"process": {"pid": pid}, "signal": 9})).await;
}

/// Reads a stream until it breaks off, and gives all output that came. It must not break off
/// within a frame.
async fn until_cut(frames: Frames, output: &'static str) -> String {
    let (mut body, mut received): (_, BytesMut) = frames.into_parts();
    while let Some(Ok(frame)) = body.frame().await {
        received.extend_from_slice(frame.data_ref().unwrap());
    }
    let mut all = Vec::new();
    let mut left = &received[..];
    while let Some((head, rest)) = left.split_first_chunk::<5>() {
        let length = u32::from_be_bytes([head[1], head[2], head[3], head[4]]);
        let (payload, rest) = rest.split_at(usize::try_from(length).unwrap());
        let message: Value = serde_json::from_slice(payload).unwrap();
        if let Some(data) = message["event"]["data"][output].as_str() {
            all.extend(STANDARD.decode(data).unwrap());
        }
        left = rest;
    }
    assert!(left.is_empty(), "{} bytes of a frame", left.len());
    String::from_utf8(all).unwrap()
}

/// All whole lines are the numbers from 0 on.
fn assert_counts(said: &str) {
    let (whole, _part) = said.rsplit_once('\n').unwrap();
    for (expected, line) in whole.lines().enumerate() {
        assert_eq!(line.parse(), Ok(expected), "after {expected} lines");
    }
}

#[tokio::test]
async fn what_a_process_says_meanwhile_comes_once_and_in_order() {
    let envd = initialised().await;
    for (pty, output) in [(false, "stdout"), (true, "pty")] {
        let command = if pty { format!("stty -onlcr; {TALKER}") } else { TALKER.to_owned() };
        let mut request = json!({"process": {"cmd": "/bin/sh", "args": ["-c", command]}});
        if pty {
            request["pty"] = json!({});
        }
        let mut frames = envd.stream("process.Process/Start", request, &[]).await;
        let pid = frames.started().await;
        let mut said = frames.until(output, "1000\n").await;
        for _ in 0..2 {
            // One who listens to the end of the old agent, and then nobody for a while.
            let listener = tokio::spawn(until_cut(frames, output));
            let report = upgrade(&envd).await;
            assert_eq!((&report["procs"], &report["procs_failed"]), (&json!(1), &json!(0)));
            said += &listener.await.unwrap();
            frames = connect(&envd, pid).await;
            said += &frames.until(output, "000\n").await;
        }
        assert_counts(&said);
        kill(&envd, pid).await;
        assert_eq!(frames.rest(pid).await.end["status"], "signal: killed");
    }
}

#[tokio::test]
async fn what_nobody_listened_to_is_still_there_after_two_upgrades() {
    let envd = initialised().await;
    let sockets = envd.sockets();
    let go = envd.text_path("go");
    let wait = format!("until [ -e {go} ]; do sleep 0.01; done");
    let command = format!("{wait}; echo out; echo err >&2; echo more; exec sed 's/^/got /'");
    let mut frames = envd.shell(&command, &[]).await;
    let pid = frames.started().await;
    drop(frames);
    wait_until("the connection is gone", || envd.sockets() == sockets).await;
    std::fs::write(&go, "").unwrap();
    for number in 0..2 {
        upgrade(&envd).await;
        let data = base64(format!("{number}\n").as_bytes());
        let input = json!({"process": {"pid": pid}, "input": {"stdin": data}});
        envd.ok("process.Process/SendInput", input).await;
    }
    envd.ok("process.Process/CloseStdin", json!({"process": {"pid": pid}})).await;
    let outcome = connect(&envd, pid).await.rest(pid).await;
    assert_eq!(outcome.stdout, "out\nmore\ngot 0\ngot 1\n");
    assert_eq!((outcome.stderr.as_str(), &outcome.error), ("err\n", &Value::Null));
    assert_eq!(outcome.end, json!({"exited": true, "status": "exit status 0"}));
}

#[tokio::test]
async fn a_terminal_is_typed_to_and_resized_as_before() {
    let envd = initialised().await;
    let request = json!({
        "process": {"cmd": "/bin/sh", "args": ["-i"], "envs": {"PS1": ""}},
        "pty": {"size": {"cols": 80, "rows": 24}}, "tag": "shell",
    });
    let mut frames = envd.stream("process.Process/Start", request, &[]).await;
    let pid = frames.started().await;
    let typed = |text: &str| {
        let data = base64(text.as_bytes());
        json!({"process": {"tag": "shell"}, "input": {"pty": data}})
    };
    envd.ok("process.Process/SendInput", typed("echo a$((1+1))b\n")).await;
    frames.until("pty", "a2b").await;
    assert_eq!(upgrade(&envd).await, told(1, 0, 0));
    let request = json!({"process": {"tag": "shell"}});
    let mut frames = envd.stream("process.Process/Connect", request, &[]).await;
    assert_eq!(frames.started().await, pid);
    let size = json!({"process": {"pid": pid}, "pty": {"size": {"cols": 132, "rows": 50}}});
    envd.ok("process.Process/Update", size).await;
    envd.ok("process.Process/SendInput", typed("stty size\n")).await;
    frames.until("pty", "50 132").await;
    let close = envd.fails("process.Process/CloseStdin", json!({"process": {"pid": pid}})).await;
    assert!(close.2.contains("cannot close stdin for PTY process"), "{}", close.2);
    envd.ok("process.Process/SendInput", typed("exit 3\n")).await;
    let end = frames.rest(pid).await.end;
    assert_eq!((&end["exitCode"], &end["status"]), (&json!(3), &json!("exit status 3")));
}

#[tokio::test]
async fn a_write_to_a_process_that_does_not_read_holds_up_nothing() {
    let envd = initialised().await;
    let go = envd.text_path("go");
    let command = format!("until [ -e {go} ]; do sleep 0.01; done; exec tail -c 5");
    let mut frames = envd.shell(&command, &[]).await;
    let pid = frames.started().await;
    let stdin = |data: &[u8]| {
        json!({"process": {"pid": pid}, "input": {"stdin": base64(data)}}).to_string()
    };
    let headers = [("content-type", "application/json")];
    let blocked = envd.try_post("/process.Process/SendInput", &headers, stdin(&[b'x'; 1 << 20]));
    let upgraded = async {
        let pipe = std::fs::File::open(format!("/proc/{pid}/fd/0")).unwrap();
        let bytes = || rustix::io::ioctl_fionread(&pipe).unwrap();
        wait_until("the pipe is full", || bytes() >= 65_536).await;
        drop(pipe);
        upgrade(&envd).await
    };
    let (blocked, report) = tokio::join!(blocked, upgraded);
    assert!(blocked.is_none());
    assert_eq!(report, told(1, 0, 0));
    std::fs::write(&go, "").unwrap();
    envd.ok("process.Process/SendInput", serde_json::from_str(&stdin(b"after")).unwrap()).await;
    envd.ok("process.Process/CloseStdin", json!({"process": {"pid": pid}})).await;
    assert_eq!(connect(&envd, pid).await.rest(pid).await.stdout, "after");
}

#[tokio::test]
async fn processes_are_listed_signalled_and_end_as_if_nothing_had_been() {
    let envd = initialised().await;
    let mut pids = Vec::new();
    for tag in ["one", "two"] {
        let request = json!({
            "process": {"cmd": "sleep", "args": ["1000"], "envs": {"A": "1"}}, "tag": tag,
            "stdin": false,
        });
        let mut frames = envd.stream("process.Process/Start", request, &[]).await;
        pids.push(frames.started().await);
    }
    let list = || async {
        let mut all = envd.ok("process.Process/List", json!({})).await["processes"].clone();
        all.as_array_mut().unwrap().sort_by_key(|process| process["pid"].as_u64());
        all
    };
    let before = list().await;
    assert_eq!(upgrade(&envd).await, told(2, 0, 0));
    assert_eq!(list().await, before);
    let first = connect(&envd, pids[0]).await;
    let signal = json!({"process": {"tag": "one"}, "signal": "SIGNAL_SIGTERM"});
    envd.ok("process.Process/SendSignal", signal).await;
    let error = "signal: terminated";
    let end = json!({"exitCode": -1, "status": error, "error": error});
    assert_eq!(first.rest(pids[0]).await.end, end);
    let input = json!({"process": {"pid": pids[1]}, "input": {"stdin": base64(b"x")}});
    let refused = envd.fails("process.Process/SendInput", input).await;
    assert_eq!(refused.2, "error writing to stdin: stdin not enabled or closed");
    kill(&envd, pids[1]).await;
}

#[tokio::test]
async fn a_limit_goes_on_with_what_is_left_of_it() {
    let envd = initialised().await;
    let limit = ("connect-timeout-ms", "3000");
    let mut frames = envd.shell("exec sleep 1000", &[limit]).await;
    let pid = frames.started().await;
    upgrade(&envd).await;
    let outcome = connect(&envd, pid).await.rest(pid).await;
    assert_eq!(outcome.end["status"], "signal: killed");
}

/// The processes end while the agent is replaced, just before, and just after.
#[tokio::test]
async fn no_end_is_lost_whenever_it_comes() {
    let envd = initialised().await;
    let go = envd.text_path("go");
    let mut pids = Vec::new();
    for number in 0_u64..20 {
        // Spread over the upgrade: each waits for one turn of a loop more than the one before.
        let wait = format!("until [ -e {go} ]; do sleep 0.005; done; sleep 0.0{number:02}");
        let command = format!("{wait}; echo last $$; exit {}", number + 1);
        let mut frames = envd.shell(&command, &[]).await;
        pids.push(frames.started().await);
    }
    std::fs::write(&go, "").unwrap();
    let report = upgrade(&envd).await;
    let count = |name: &str| report[name].as_u64().unwrap();
    assert_eq!((count("procs") + count("retained"), count("procs_failed")), (20, 0), "{report}");
    for (pid, code) in pids.into_iter().zip(1..) {
        let outcome = connect(&envd, pid).await.rest(pid).await;
        let status = format!("exit status {code}");
        assert_eq!((outcome.end["exitCode"].as_i64(), outcome.end["status"].as_str()), {
            (Some(code), Some(status.as_str()))
        });
        // The first listener may have had it.
        assert!(["", &format!("last {pid}\n")].contains(&outcome.stdout.as_str()));
    }
}

#[tokio::test]
async fn an_end_is_remembered_with_its_last_words() {
    let envd = initialised().await;
    let sockets = envd.sockets();
    let go = envd.text_path("go");
    let command = format!("until [ -e {go} ]; do sleep 0.01; done; echo bye; exit 7");
    let request = json!({"process": {"cmd": "/bin/sh", "args": ["-c", command]}, "tag": "t"});
    let mut frames = envd.stream("process.Process/Start", request, &[]).await;
    let pid = frames.started().await;
    drop(frames);
    wait_until("the connection is gone", || envd.sockets() == sockets).await;
    std::fs::write(&go, "").unwrap();
    while envd.ok("process.Process/List", json!({})).await != json!({}) {}
    assert_eq!(upgrade(&envd).await, told(0, 1, 0));
    let request = json!({"process": {"tag": "t"}});
    let mut frames = envd.stream("process.Process/Connect", request, &[]).await;
    assert_eq!(frames.started().await, pid);
    let outcome = frames.rest(pid).await;
    assert_eq!((outcome.stdout.as_str(), &outcome.end["exitCode"]), ("bye\n", &json!(7)));
}

#[tokio::test]
async fn output_that_outlives_its_process_is_waited_for_as_before() {
    let envd = initialised().await;
    let go = envd.text_path("go");
    let child = format!("(until [ -e {go} ]; do sleep 0.01; done; echo child) & exit 5");
    let mut frames = envd.shell(&format!("echo $$; {child}"), &[]).await;
    let pid = frames.started().await;
    frames.until("stdout", "\n").await;
    let number = u32::try_from(pid).unwrap();
    wait_until("it has ended", || !is_alive(number)).await;
    assert_eq!(upgrade(&envd).await, told(1, 0, 0));
    let frames = connect(&envd, pid).await;
    std::fs::write(&go, "").unwrap();
    let outcome = frames.rest(pid).await;
    assert_eq!((outcome.stdout.as_str(), &outcome.end["exitCode"]), ("child\n", &json!(5)));
}

#[tokio::test]
async fn a_watcher_tells_what_it_had_and_what_comes() {
    let envd = initialised().await;
    let root = envd.path("watched");
    std::fs::create_dir_all(root.join("below")).unwrap();
    let request = json!({"path": root, "recursive": true});
    let made = envd.ok("filesystem.Filesystem/CreateWatcher", request).await;
    let id = json!({"watcherId": made["watcherId"]});
    let write = |name: &str| std::fs::write(root.join(name), "").unwrap();
    let mut names = Vec::new();
    write("before");
    for number in 0..2 {
        assert_eq!(upgrade(&envd).await, told(0, 0, 1));
        write(&format!("below/{number}"));
    }
    while !names.contains(&json!("below/1")) {
        let taken = envd.ok("filesystem.Filesystem/GetWatcherEvents", id.clone()).await;
        let events = taken["events"].as_array().cloned().unwrap_or_default();
        let created = events.iter().filter(|event| event["type"] == "EVENT_TYPE_CREATE");
        names.extend(created.map(|event| event["name"].clone()));
    }
    assert_eq!(names, ["before", "below/0", "below/1"]);
    envd.ok("filesystem.Filesystem/RemoveWatcher", id.clone()).await;
    let gone = envd.fails("filesystem.Filesystem/GetWatcherEvents", id).await;
    assert_eq!(gone.1, "not_found");
}
