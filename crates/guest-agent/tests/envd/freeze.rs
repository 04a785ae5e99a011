//! Control groups of users' processes: who is in them, and that they stand still and go on.

use guest_wire::ENVD_VERSION;
use serde_json::{Value, json};

use crate::cgroup::Cgroup;
use crate::connect::{Frames, base64, basic};
use crate::program::{Envd, is_root, wait_until};
use crate::upgrade::{ask, connect, init, open, same_program};
use crate::wire::Answer;

fn start(group: &Cgroup) -> Envd {
    Envd::start_with(&["--cgroup-root", group.root()], &[])
}

/// A process that echoes what it is sent, its number, and its stream.
async fn echo(envd: &Envd, request: Value) -> (Frames, u32) {
    let mut request = request;
    request["process"] = json!({"cmd": "/bin/cat"});
    let mut frames = envd.stream("process.Process/Start", request, &[]).await;
    let pid = frames.started().await;
    (frames, u32::try_from(pid).unwrap())
}

async fn send(envd: &Envd, pid: u32, kind: &str, text: &str) {
    let input = json!({"process": {"pid": pid}, "input": {kind: base64(text.as_bytes())}});
    envd.ok("process.Process/SendInput", input).await;
}

/// The counts of a report, without its times.
fn counts(answer: &Answer) -> Value {
    assert_eq!(answer.status.as_u16(), 200, "{}", answer.text());
    let mut report = answer.json();
    for time in ["sweepMs", "waitMs"] {
        let took = report.as_object_mut().unwrap().remove(time);
        assert!(took.unwrap().is_u64());
    }
    report
}

fn status(answer: &Answer) -> (u16, &str) {
    (answer.status.as_u16(), answer.text())
}

#[tokio::test]
async fn each_process_is_in_the_group_of_its_kind_before_its_program_runs() {
    let Some(group) = Cgroup::make() else { return };
    let envd = start(&group);
    let own = group.path("").file_name().unwrap().to_str().unwrap().to_owned();
    for _ in 0..20 {
        let pipes = envd.run("cat /proc/self/cgroup").await.stdout;
        assert!(pipes.contains(&format!("/{own}/user\n")), "{pipes}");
    }
    if is_root() {
        let request = json!({"process": {"cmd": "cat", "args": ["/proc/self/cgroup"], "cwd": "/"}});
        let headers = [("authorization", basic("nobody"))];
        let headers = headers.each_ref().map(|(name, value)| (*name, value.as_str()));
        let frames = envd.stream("process.Process/Start", request, &headers).await;
        let other = frames.outcome().await.stdout;
        assert!(other.contains(&format!("/{own}/user\n")), "{other}");
    }
    let request = |more: Value| {
        let mut request = json!({"process": {"cmd": "/bin/cat", "args": ["/proc/self/cgroup"]}});
        request.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        envd.stream("process.Process/Start", request, &[])
    };
    let terminal = request(json!({"pty": {"size": {"cols": 80, "rows": 24}}})).await.outcome();
    let terminal = terminal.await.terminal;
    assert!(terminal.contains(&format!("/{own}/ptys\r\n")), "{terminal}");
    let host = request(json!({"tag": "_system"})).await.outcome().await.stdout;
    assert!(!host.contains(&own), "{host}");
    assert!(group.processes("socats").is_empty());
}

#[tokio::test]
async fn a_group_that_cannot_be_entered_keeps_nothing_from_starting() {
    let Some(group) = Cgroup::make() else { return };
    let said = tempfile::NamedTempFile::new().unwrap();
    let script = format!("exec \"$@\" 2>{}", said.path().display());
    let wrapper = ["/bin/sh", "-c", &script, "sh"];
    let envd = Envd::start_by(&wrapper, &["--cgroup-root", group.root()], &[]);
    std::fs::remove_dir(group.path("user")).unwrap();
    for _ in 0..3 {
        assert_eq!(envd.run("echo here").await.stdout, "here\n");
    }
    let expected = "envd: a process could not enter its control group: ";
    let said = std::fs::read_to_string(said.path()).unwrap();
    assert!(said.starts_with(expected) && said.lines().count() == 1, "{said}");
}

#[tokio::test]
async fn users_processes_stand_still_until_they_are_let_go() {
    let Some(group) = Cgroup::make() else { return };
    let envd = start(&group);
    let (mut pipes, pid) = echo(&envd, json!({"stdin": true})).await;
    let terminal = json!({"pty": {"size": {"cols": 80, "rows": 24}}});
    let (mut terminal, terminal_pid) = echo(&envd, terminal).await;
    let expected = json!({
        "mode": "legacy", "visited": 2, "allowlisted": 0, "truncated": false, "preFrozen": 0,
        "requested": 2, "frozen": 2, "notFrozen": 0, "failed": 0, "unobservable": 0,
    });
    // As often as asked: what the agent froze itself was not frozen by others.
    for _ in 0..2 {
        let answer = envd.post("/freeze?maxWaitMs=60000", &[], "").await;
        assert_eq!(counts(&answer), expected);
        assert!(group.is_frozen("user") && group.is_frozen("ptys"));
    }
    send(&envd, pid, "stdin", "once\n").await;
    send(&envd, terminal_pid, "pty", "once\n").await;
    // What the host does while everything stands still.
    let host = json!({"process": {"cmd": "echo", "args": ["on"]}, "tag": "_system"});
    let host = envd.stream("process.Process/Start", host, &[]).await.outcome().await;
    assert_eq!(host.stdout, "on\n");
    assert!(group.is_frozen("user"));
    assert_eq!(status(&envd.post("/unfreeze", &[], "").await), (204, ""));
    pipes.until("stdout", "once\n").await;
    // The terminal's own echo, and then that of the program.
    terminal.until("pty", "once\r\nonce\r\n").await;
    assert!(!group.is_frozen("user") && !group.is_frozen("ptys"));
    assert_eq!(status(&envd.post("/unfreeze", &[], "").await), (204, ""));
}

#[tokio::test]
async fn a_freeze_that_is_not_waited_for_comes_about_and_the_node_ends_it() {
    let Some(group) = Cgroup::make() else { return };
    let envd = start(&group);
    let token = json!({"accessToken": "tok", "timestamp": "2026-01-01T00:00:09Z"}).to_string();
    assert_eq!(envd.post("/init", &[], token.clone()).await.status.as_u16(), 204);
    let (mut frames, pid) = {
        let start = json!({"process": {"cmd": "/bin/cat"}});
        let headers = [("x-access-token", "tok")];
        let mut frames = envd.stream("process.Process/Start", start, &headers).await;
        let pid = frames.started().await;
        (frames, pid)
    };
    let headers = [("x-access-token", "tok")];
    for path in ["/freeze", "/freeze?maxWaitMs=0", "/freeze?maxWaitMs=-5&mode=legacy"] {
        assert_eq!(envd.post(path, &[], "").await.status.as_u16(), 401, "{path}");
        assert_eq!(status(&envd.post(path, &headers, "").await), (204, ""), "{path}");
    }
    wait_until("the freeze", || group.is_frozen("user")).await;
    for body in ["{}", "{\"accessToken\":\"wrong\"}", "{"] {
        let refused = envd.post("/init", &[], body).await;
        assert!(refused.status.is_client_error() && group.is_frozen("user"), "{body}");
    }
    // Neither one that is too old nor one that asks for what cannot be leaves it frozen.
    for (body, expected) in [
        (json!({"accessToken": "tok", "timestamp": "2026-01-01T00:00:08Z"}), 204),
        (json!({"accessToken": "tok", "envVars": {"A=B": "1"}}), 400),
    ] {
        assert_eq!(envd.post("/freeze?maxWaitMs=60000", &headers, "").await.json()["frozen"], 2);
        let answer = envd.post("/init", &[], body.to_string()).await;
        assert_eq!(answer.status.as_u16(), expected);
        assert_eq!(answer.header("x-envd-freeze-audit"), None);
        wait_until("the thaw", || !group.is_frozen("user")).await;
    }
    let input = json!({"process": {"pid": pid}, "input": {"stdin": base64(b"awake\n")}});
    envd.call("process.Process/SendInput", input, &headers).await;
    frames.until("stdout", "awake\n").await;
}

#[tokio::test]
async fn of_the_whole_hierarchy_the_agent_and_what_others_need_go_on() {
    let Some(group) = Cgroup::make() else { return };
    for name in ["init.scope", "system.slice/envd.service", "system.slice/cron.service/below"] {
        group.add(name);
    }
    group.add("system.slice/systemd-journald.service");
    group.add("user.slice/held");
    group.add("stopped");
    group.ask("stopped", true);
    group.ask("user.slice/held", true);
    let enter = format!("echo 0 >{}/system.slice/envd.service/cgroup.procs", group.root());
    let script = format!("{enter}; exec \"$@\"");
    let wrapper = ["/bin/sh", "-c", &script, "sh"];
    let envd = Envd::start_by(&wrapper, &["--cgroup-root", group.root()], &[]);
    assert_eq!(group.processes("system.slice/envd.service"), [envd.pid()]);
    let (mut frames, pid) = echo(&envd, json!({"stdin": true})).await;

    let answer = envd.post("/freeze?mode=hierarchy&maxWaitMs=60000", &[], "").await;
    // user, ptys, cron.service and user.slice; socats, init.scope, journald and the way to the
    // agent; and what somebody else has stopped.
    let expected = json!({
        "mode": "hierarchy", "visited": 10, "allowlisted": 5, "truncated": false, "preFrozen": 1,
        "requested": 4, "frozen": 4, "notFrozen": 0, "failed": 0, "unobservable": 0,
    });
    assert_eq!(counts(&answer), expected);
    for frozen in ["user", "ptys", "user.slice", "system.slice/cron.service/below", "stopped"] {
        assert!(group.is_frozen(frozen), "{frozen}");
    }
    for running in ["init.scope", "socats", "system.slice", "system.slice/systemd-journald.service"]
    {
        assert!(!group.is_frozen(running), "{running}");
    }

    // One that somebody thaws, and one that came later.
    group.ask("user.slice", false);
    group.add("late");
    let host = json!({"process": {"cmd": "sleep", "args": ["1000"]}, "tag": "_system"});
    let mut host = envd.stream("process.Process/Start", host, &[]).await;
    let late = host.started().await.to_string();
    std::fs::write(group.path("late/cgroup.procs"), late).unwrap();
    let answer = envd.post("/init", &[], "{}").await;
    assert_eq!(status(&answer), (204, ""));
    assert_eq!(answer.header("x-envd-version"), Some(ENVD_VERSION));
    let audit: Value = serde_json::from_str(answer.header("x-envd-freeze-audit").unwrap()).unwrap();
    let expected = json!({
        "visited": 11, "frozen": 4, "escaped": 1, "violations": 1, "truncated": false
    });
    assert_eq!(audit, expected);
    send(&envd, pid, "stdin", "awake\n").await;
    frames.until("stdout", "awake\n").await;
    wait_until("the thaw", || !group.is_frozen("system.slice/cron.service")).await;
    assert!(group.is_frozen("stopped") && group.is_frozen("user.slice/held"));
    let again = envd.post("/init", &[], "{}").await;
    assert_eq!(again.header("x-envd-freeze-audit"), None);
}

#[tokio::test]
async fn of_too_many_groups_those_of_users_come_first() {
    let Some(group) = Cgroup::make() else { return };
    for name in ["a", "b", "c"] {
        group.add(name);
    }
    let envd = start(&group);
    let answer = envd.post("/freeze?mode=hierarchy&maxCgroups=2&maxWaitMs=60000", &[], "").await;
    let report = counts(&answer);
    assert_eq!((&report["visited"], &report["truncated"]), (&json!(2), &json!(true)));
    assert!(group.is_frozen("user") && group.is_frozen("ptys") && !group.is_frozen("a"));
}

#[tokio::test]
async fn an_agent_that_ends_or_begins_leaves_nobody_frozen() {
    let Some(group) = Cgroup::make() else { return };
    let mut envd = start(&group);
    let (_frames, pid) = echo(&envd, json!({})).await;
    let freeze = async |envd: &Envd| {
        let answer = envd.post("/freeze?maxWaitMs=60000", &[], "").await;
        assert_eq!(answer.json()["frozen"], 2);
    };
    freeze(&envd).await;
    let agent = rustix::process::Pid::from_raw(i32::try_from(envd.pid()).unwrap()).unwrap();
    rustix::process::kill_process(agent, rustix::process::Signal::TERM).unwrap();
    assert_eq!(envd.child().wait().unwrap().code(), Some(0));
    assert!(!group.is_frozen("user"));
    assert!(!crate::program::is_alive(pid));

    let mut envd = start(&group);
    freeze(&envd).await;
    envd.child().kill().unwrap();
    envd.child().wait().unwrap();
    assert!(group.is_frozen("user"));
    let _next = start(&group);
    wait_until("the thaw", || !group.is_frozen("user")).await;
}

#[tokio::test]
async fn what_stands_still_does_so_for_the_next_agent_too_until_it_is_let_go() {
    let Some(group) = Cgroup::make() else { return };
    let envd = start(&group);
    open(&envd).await;
    group.add("user/of-the-sandbox");
    group.ask("user/of-the-sandbox", true);
    let (_pipes, pid) = echo(&envd, json!({"stdin": true})).await;
    let answer = envd.post("/freeze?mode=hierarchy&maxWaitMs=60000", &[], "").await;
    assert_eq!(counts(&answer)["frozen"], counts(&answer)["requested"]);
    assert!(ask(&envd, &[], same_program()).await.is_none());
    assert_eq!(envd.get("/envs", &[]).await.error(), (401, "envd not initialized".to_owned()));
    assert!(group.is_frozen("user") && group.processes("user").contains(&pid));
    let opened = init(&envd, json!({})).await;
    assert_eq!(opened.status.as_u16(), 204);
    assert!(opened.header("x-envd-freeze-audit").is_some(), "it was frozen for this one");
    wait_until("users' processes go on", || !group.is_frozen("user")).await;
    assert!(group.is_frozen("user/of-the-sandbox"), "what others had frozen");
    let mut pipes = connect(&envd, u64::from(pid)).await;
    send(&envd, pid, "stdin", "on\n").await;
    pipes.until("stdout", "on\n").await;
}
