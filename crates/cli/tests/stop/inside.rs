//! Programs, shells and files inside a sandbox, in the hands of whoever has the credentials file.

mod copies;
mod shell;

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::process::{Child, ChildStdout, Command, Output, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::kit::{Client, Service, data_dir, said, turn};

/// `cofferdam sandbox exec ID OPTIONS -- WORDS`.
fn exec(service: &Client, id: &str, options: &[&str], words: &[&str]) -> Command {
    let mut command = service.about_sandboxes(&[&["exec", id], options].concat());
    command.arg("--").args(words);
    command
}

/// Its exit code and both outputs.
fn run(service: &Client, id: &str, options: &[&str], words: &[&str]) -> (i32, String, String) {
    let Output { status, stdout, stderr } = exec(service, id, options, words).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (status.code().unwrap(), text(stdout), text(stderr))
}

/// Runs a program that must end well; what it says.
fn script(service: &Client, id: &str, options: &[&str], script: &str) -> String {
    let (code, told, complaint) = run(service, id, options, &["sh", "-c", script]);
    assert_eq!((code, complaint.as_str()), (0, ""), "{script}: {told}");
    told
}

/// Starts one, and waits until it has said `ready`.
fn start(mut command: Command) -> (Child, BufReader<ChildStdout>) {
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut out = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    out.read_line(&mut line).unwrap();
    assert_eq!(line, "ready\n", "{}", complaint(&mut child));
    (child, out)
}

fn complaint(child: &mut Child) -> String {
    let mut text = String::new();
    child.stderr.take().unwrap().read_to_string(&mut text).unwrap();
    text
}

/// Every byte there is, in an order without a short period.
fn bytes(length: usize) -> Vec<u8> {
    let mut state = 1_u32;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        state.to_be_bytes()[0]
    };
    (0..length).map(|_| next()).collect()
}

#[test]
fn a_program_runs_as_if_it_ran_here() {
    let Some(_turn) = turn() else { return };
    let data = data_dir();
    let service = Service::start(data.path(), &[]);
    let id = service.create();
    let shell = |script: &str| run(&service, &id, &[], &["sh", "-c", script]);
    let both = (7, "out\n".to_owned(), "err\n".to_owned());
    assert_eq!(shell("echo out; echo err >&2; exit 7"), both);
    assert_eq!(shell("kill -9 $$").0, 137);
    assert_eq!(shell("exit 255").0, 255);
    let (code, _, complaint) = run(&service, &id, &[], &["no-such-program"]);
    assert!(code == 127 && complaint.contains("not found"), "{code} {complaint}");
    // Words stay words, and what looks like an option of ours is none behind the dashes.
    let words = ["echo", "-n", "a  b", "--json", "$HOME", "*"];
    assert_eq!(run(&service, &id, &[], &words).1, "a  b --json $HOME *");
    let around = ["--user", "root", "--cwd", "/etc", "--env", "A=1=2", "--env", "B="];
    let told = script(&service, &id, &around, "id -u; pwd; echo \"$A,$B,$HOME\"");
    assert_eq!(told, "0\n/etc\n1=2,,/root\n");
    assert_eq!(script(&service, &id, &[], "id -u; pwd"), "1000\n/home/user\n");

    for (options, why) in [
        (["--cwd", "/no/such"], "cwd '/no/such' does not exist"),
        (["--user", "nobody-here"], "invalid username: 'nobody-here'"),
    ] {
        let (code, told, complaint) = run(&service, &id, &options, &["true"]);
        assert_eq!((code, told.as_str()), (125, ""));
        assert!(complaint.contains(why), "{complaint}");
    }
    service.kill(&id);
    service.finish();
}

#[test]
fn what_goes_in_comes_out_byte_by_byte() {
    let Some(_turn) = turn() else { return };
    let data = data_dir();
    let service = Service::start(data.path(), &[]);
    let id = service.create();
    let sent = bytes(8 * 1024 * 1024);
    let feed = |options: &[&str], words: &[&str]| {
        let mut command = exec(&service, &id, options, words);
        let command = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut input = child.stdin.take().unwrap();
        std::thread::scope(|scope| {
            // One that reads nothing closes its input.
            scope.spawn(|| drop(input.write_all(&sent).map(|()| drop(input))));
            child.wait_with_output().unwrap()
        })
    };
    let output = feed(&["-i"], &["cat"]);
    assert!(output.status.success(), "{}", said(&output));
    assert!(output.stdout == sent, "{} bytes came back", output.stdout.len());
    // Without -i there is nothing to read, whatever comes here.
    let output = feed(&[], &["sh", "-c", "cat; echo end"]);
    assert_eq!(said(&output), "end\n");
    // One that does not read ends when it ends.
    let output = feed(&["-i"], &["sh", "-c", "exit 3"]);
    assert_eq!(output.status.code(), Some(3));

    // Nobody reads on here; then nobody writes on there.
    let command = ["sh", "-c", "echo ready; echo $$ > /home/user/pid; exec busybox yes"];
    let (mut child, out) = start(exec(&service, &id, &[], &command));
    drop(out);
    assert_eq!(child.wait().unwrap().code(), Some(141), "{}", complaint(&mut child));
    let is_gone = "while kill -0 $(cat /home/user/pid) 2>/dev/null; do sleep 0.01; done; echo gone";
    assert_eq!(script(&service, &id, &[], is_gone), "gone\n");
    service.kill(&id);
    service.finish();
}

#[test]
fn a_signal_here_is_one_for_the_program_and_for_what_it_started() {
    let Some(_turn) = turn() else { return };
    let data = data_dir();
    let service = Service::start(data.path(), &[]);
    let id = service.create();
    for (signal, name, code) in [(Signal::INT, "INT", 5), (Signal::TERM, "TERM", 6)] {
        // A shell looks at its traps when what it waits for has ended: so that has to get it, too,
        // and says itself that it is there. Before it has put off its shell's traps it would lose it.
        let waits = "sh -c 'echo ready; exec sleep 1000'";
        let traps = format!("trap 'echo got; exit {code}' {name}; {waits}");
        let (mut child, mut out) = start(exec(&service, &id, &[], &["sh", "-c", &traps]));
        kill_process(Pid::from_child(&child), signal).unwrap();
        let mut rest = String::new();
        out.read_to_string(&mut rest).unwrap();
        assert_eq!(child.wait().unwrap().code(), Some(code), "{}", complaint(&mut child));
        assert_eq!(rest, "got\n");
    }
    // One that does nothing about it ends by it.
    let (mut child, _out) =
        start(exec(&service, &id, &[], &["sh", "-c", "echo ready; sleep 1000"]));
    kill_process(Pid::from_child(&child), Signal::INT).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(130), "{}", complaint(&mut child));
    service.kill(&id);
    service.finish();
}

#[test]
fn a_detached_program_runs_on_and_its_number_is_told() {
    let Some(_turn) = turn() else { return };
    let data = data_dir();
    let service = Service::start(data.path(), &[]);
    let id = service.create();
    let (code, pid, complaint) = run(&service, &id, &["-d"], &["sleep", "1000"]);
    assert_eq!((code, complaint.as_str()), (0, ""));
    let pid: u32 = pid.trim_end().parse().unwrap();
    let told = script(&service, &id, &[], &format!("busybox tr '\\0' ' ' < /proc/{pid}/cmdline"));
    assert_eq!(told, "sleep 1000 ");
    let (code, _, complaint) = run(&service, &id, &["-d", "-i"], &["true"]);
    assert!(code == 2 && complaint.contains("cannot be used with"), "{complaint}");
    service.kill(&id);
    service.finish();
}

#[test]
fn the_end_of_the_sandbox_is_told_and_not_taken_for_that_of_the_program() {
    let Some(_turn) = turn() else { return };
    let data = data_dir();
    let service = Service::start(data.path(), &[]);
    let command = ["sh", "-c", "echo ready; sleep 1000"];
    for (method, path, why) in
        [("DELETE", "", "has ended; see"), ("POST", "/pause", "was paused meanwhile")]
    {
        let id = service.create();
        let (mut child, _out) = start(exec(&service, &id, &[], &command));
        let (status, body) = service.api(method, &format!("/sandboxes/{id}{path}"), &json!({}));
        assert_eq!(status, 204, "{body}");
        assert_eq!(child.wait().unwrap().code(), Some(125));
        let complaint = complaint(&mut child);
        assert!(complaint.contains(&format!("sandbox {id} {why}")), "{complaint}");
        service.api("DELETE", &format!("/sandboxes/{id}"), &Value::Null);
    }
    service.finish();
}

#[test]
fn a_paused_sandbox_goes_on_unless_it_is_to_stay_as_it_is() {
    let Some(_turn) = turn() else { return };
    let data = data_dir();
    let service = Service::start(data.path(), &[]);
    let id = service.create();
    script(&service, &id, &[], "echo kept > /home/user/file");
    let state = || {
        let (_, body) = service.api("GET", &format!("/sandboxes/{id}"), &Value::Null);
        serde_json::from_str::<Value>(&body).unwrap()["state"].clone()
    };
    for how in [&["pause", &id][..], &["pause", &id, "--files-only"]] {
        assert_eq!(service.sandbox(how).0, 0);
        let (code, told, complaint) = run(&service, &id, &["--no-resume"], &["true"]);
        assert_eq!((code, told.as_str()), (125, ""));
        assert!(complaint.contains("is paused; leave out --no-resume"), "{complaint}");
        assert_eq!(state(), "paused");
        let (code, told, complaint) = run(&service, &id, &[], &["cat", "/home/user/file"]);
        assert_eq!((code, told.as_str()), (0, "kept\n"), "{complaint}");
        let remark = format!("cofferdam: sandbox {id} was paused; it goes on, for 5m00s\n");
        assert_eq!((complaint, state()), (remark, json!("running")));
    }
    service.kill(&id);
    service.finish();
}

#[test]
fn a_sandbox_is_looked_for_among_those_of_all_teams_and_nobody_gets_in_without_the_token() {
    let Some(_turn) = turn() else { return };
    let data = data_dir();
    let service = Service::start(data.path(), &[]);
    assert_eq!(service.team(&["create", "Others"]).0, 0);
    let (code, key, _) = service.key(&["create", "ci", "--team", "others"]);
    assert_eq!(code, 0);
    let body = json!({"templateID": "busybox", "timeout": 1800, "secure": true}).to_string();
    let (status, made) =
        service.call("POST", "/sandboxes", &[("X-API-Key", key.trim_end())], &body);
    assert_eq!(status, 201, "{made}");
    let made: Value = serde_json::from_str(&made).unwrap();
    let id = made["sandboxID"].as_str().unwrap();
    assert!(made["envdAccessToken"].is_string(), "{made}");

    assert_eq!(script(&service, id, &[], "echo in"), "in\n");
    let mut command = exec(&service, id, &[], &["echo", "in"]);
    let output = command.env("COFFERDAM_ADMIN_TOKEN", "0".repeat(64)).output().unwrap();
    assert_eq!(output.status.code(), Some(125));
    assert!(said(&output).contains("the admin token is wrong"), "{}", said(&output));

    let (code, told, complaint) = run(&service, "inosuch", &[], &["true"]);
    assert_eq!((code, told.as_str()), (125, ""));
    assert!(complaint.contains("no node has a sandbox inosuch"), "{complaint}");
    for words in [&["cp", "inosuch:/etc/passwd", "/nowhere"][..], &["logs", "inosuch"]] {
        let (code, told, complaint) = service.sandbox(words);
        assert_eq!((code, told.as_str()), (4, ""), "{complaint}");
        assert!(complaint.contains("inosuch"), "{complaint}");
    }
    assert_eq!(service.sandbox(&["kill", id]).0, 0);
    service.finish();
}

#[test]
fn the_log_of_a_sandbox_is_shown_to_its_end_and_after_it() {
    let Some(_turn) = turn() else { return };
    let data = data_dir();
    let service = Service::start(data.path(), &[]);
    let id = service.create();
    assert_eq!(script(&service, &id, &[], "echo s3cr3t | tr 3 4"), "s4cr4t\n");
    let (code, told, complaint) = service.sandbox(&["logs", &id]);
    assert_eq!((code, complaint.as_str()), (0, ""), "{told}");
    let at = |what: &str| told.lines().position(|line| line.contains(what));
    let places = [
        at("  info   sandbox started"),
        at("command=sh -c echo s3cr3t | tr 3 4  event_type=process_start  logger=process"),
        at("exit_code=0  logger=process"),
    ];
    assert!(places[0].is_some() && places.is_sorted(), "{told}");
    assert!(places.iter().all(Option::is_some), "{told}");
    assert!(!told.contains("s4cr4t"), "what programs write is theirs: {told}");
    let mut following = service.about_sandboxes(&["logs", &id, "-f", "--json"]);
    let mut following = following.stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(following.stdout.take().unwrap()).lines();
    let mut next = || -> Option<Value> {
        lines.next().map(|line| serde_json::from_str(&line.unwrap()).unwrap())
    };
    let first = told.lines().count();
    for _ in 0..first {
        assert_eq!(next().unwrap()["level"], "info");
    }
    assert_eq!(script(&service, &id, &[], "echo last"), "last\n");
    service.kill(&id);
    let rest: Vec<Value> = std::iter::from_fn(next).collect();
    assert!(following.wait().unwrap().success());
    assert!(rest.iter().any(|line| line["message"] == "sandbox ended"), "{rest:?}");
    let ends = rest.iter().filter(|line| line["fields"]["event_type"] == "process_end");
    assert_eq!(ends.count(), 1, "its last line did not go with it: {rest:?}");

    let (code, told, _) = service.sandbox(&["logs", &id]);
    assert_eq!((code, told.lines().count()), (0, first + rest.len()), "each line once: {told}");
    assert_eq!(
        service.sandbox(&["logs", &id, "--level", "error"]),
        (0, String::new(), String::new())
    );
    assert_eq!(service.sandbox(&["logs", &id, "--since", "1h"]).1, told);
    service.finish();
}
