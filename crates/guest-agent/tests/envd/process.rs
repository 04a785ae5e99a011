//! Starting processes and hearing of them.

use buffa::Message as _;
use guest_wire::proto::process::process_event::Event;
use guest_wire::proto::process::process_event::data_event::Output;
use guest_wire::proto::process::{ProcessConfig, StartRequest, StartResponse};
use serde_json::{Value, json};

use crate::connect::{END_FLAG, basic, frame};
use crate::program::{Envd, command, is_alive, is_root, wait_until};

#[tokio::test]
async fn output_and_exit_code_come_in_order() {
    let envd = Envd::start();
    let outcome = envd.run("echo out; echo err >&2; exit 3").await;
    assert_eq!((outcome.stdout.as_str(), outcome.stderr.as_str()), ("out\n", "err\n"));
    let end = json!({
        "exitCode": 3, "exited": true, "status": "exit status 3", "error": "exit status 3"
    });
    assert_eq!((outcome.end, outcome.error), (end, Value::Null));
}

#[tokio::test]
async fn success_leaves_out_code_and_error() {
    let envd = Envd::start();
    let outcome = envd.run("true").await;
    assert_eq!(outcome.end, json!({"exited": true, "status": "exit status 0"}));
}

#[tokio::test]
async fn a_process_that_ends_at_once_never_loses_output() {
    let envd = Envd::start();
    for round in 0..200 {
        let outcome = envd.run("printf '%s' all; printf '%s' of it >&2").await;
        assert_eq!((outcome.stdout.as_str(), outcome.stderr.as_str()), ("all", "ofit"), "{round}");
    }
}

#[tokio::test]
async fn much_output_arrives_whole_and_in_order() {
    let envd = Envd::start();
    let outcome = envd.run("i=0; while [ $i -lt 20000 ]; do echo $i; i=$((i+1)); done").await;
    let expected: String = (0..20_000).map(|i| format!("{i}\n")).collect();
    assert!(outcome.stdout == expected, "{} bytes", outcome.stdout.len());
}

#[tokio::test]
async fn the_binary_codec_serves_as_well() {
    let envd = Envd::start();
    let request = StartRequest {
        process: ProcessConfig {
            cmd: "/bin/sh".into(),
            args: vec!["-c".into(), "printf hi; exit 300".into()],
            ..ProcessConfig::default()
        }
        .into(),
        ..StartRequest::default()
    };
    let headers = [("content-type", "application/connect+proto")];
    let body = frame(0, &request.encode_to_vec());
    let mut frames = envd.raw_stream("process.Process/Start", body, &headers).await;
    let mut events = Vec::new();
    loop {
        let (flags, payload) = frames.frame().await.unwrap();
        if flags & END_FLAG != 0 {
            assert_eq!(payload, "{}");
            break;
        }
        let response = StartResponse::decode_from_slice(&payload).unwrap();
        events.push(response.event.into_option().unwrap().event.unwrap());
    }
    let [Event::Start(start), Event::Data(data), Event::End(end)] = &events[..] else {
        panic!("{events:?}");
    };
    assert_ne!(start.pid, 0);
    assert_eq!(data.output, Some(Output::Stdout(b"hi".to_vec())));
    assert_eq!((end.exit_code, end.exited), (300 & 0xff, true));
}

#[tokio::test]
async fn an_unknown_program_is_127_and_one_that_is_none_126() {
    let envd = Envd::start();
    std::fs::write(envd.path("data"), "not a program").unwrap();
    for (program, code) in [
        ("no-such-program".to_owned(), 127),
        ("/no/such/program".to_owned(), 127),
        (envd.text_path("data"), 126),
        (envd.text_path(""), 126),
    ] {
        let request = json!({"process": {"cmd": program}});
        let outcome = envd.stream("process.Process/Start", request, &[]).await.outcome().await;
        assert_eq!(outcome.end["exitCode"], code, "{program}");
        assert!(outcome.stderr.contains(&program), "{}", outcome.stderr);
    }
}

#[tokio::test]
async fn a_program_is_found_along_the_search_path_of_its_own_variables() {
    let envd = Envd::start();
    // Without a first line that names an interpreter it is the shell's. Another program writes it: a
    // child that another test starts meanwhile would have this process's copy of the file open for
    // writing, and nobody could run it until that child execs.
    std::fs::write(envd.path("draft"), "echo \"$0 $1\"").unwrap();
    let mut install = command("install");
    let install = install.args(["-m", "755"]).args([envd.path("draft"), envd.path("mine")]);
    assert!(install.status().unwrap().success());
    let directory = envd.text_path("");
    let path = format!("/nowhere:{directory}:/usr/bin:/bin");
    let request = json!({"process": {"cmd": "mine", "args": ["x"], "envs": {"PATH": path}}});
    let outcome = envd.stream("process.Process/Start", request, &[]).await.outcome().await;
    assert!(outcome.stdout.ends_with("/mine x\n"), "{outcome:?}");
}

#[tokio::test]
async fn the_environment_is_made_and_not_inherited() {
    let envd = Envd::start_with(&[], &[("PATH", "/usr/bin:/bin"), ("SECRET", "of the agent")]);
    let request = json!({"process": {"cmd": "env", "envs": {"A": "1"}}});
    let outcome = envd.stream("process.Process/Start", request, &[]).await.outcome().await;
    let mut lines: Vec<_> = outcome.stdout.lines().collect();
    lines.sort_unstable();
    let home = lines.iter().find(|line| line.starts_with("HOME=")).copied().unwrap_or_default();
    let expected =
        ["A=1", "E2B_SANDBOX=true", home, "LOGNAME=root", "PATH=/usr/bin:/bin", "USER=root"];
    assert_eq!(lines, expected);
}

#[tokio::test]
async fn a_process_inherits_no_descriptor_and_starts_with_default_signals() {
    let envd = Envd::start();
    let outcome = envd.run("ls /proc/self/fd; grep -E 'Sig(Blk|Ign)' /proc/self/status").await;
    let lines: Vec<_> = outcome.stdout.split_whitespace().collect();
    // The fourth is the directory that is being listed.
    assert_eq!(&lines[..4], ["0", "1", "2", "3"]);
    assert_eq!(&lines[4..], ["SigBlk:", "0000000000000000", "SigIgn:", "0000000000000000"]);
}

#[tokio::test]
async fn users_processes_go_first_when_memory_is_out() {
    let envd = Envd::start();
    let outcome = envd.run("cat /proc/self/oom_score_adj").await;
    assert_eq!(outcome.stdout, "100\n");
    for (own, users) in [("400", "500\n"), ("950", "1000\n")] {
        let set = format!("echo {own} >/proc/self/oom_score_adj; exec \"$@\"");
        let envd = Envd::start_by(&["/bin/sh", "-c", &set, "sh"], &[], &[]);
        let outcome = envd.run("cat /proc/self/oom_score_adj").await;
        assert_eq!(outcome.stdout, users, "the agent has {own}");
    }
}

#[tokio::test]
async fn a_process_runs_as_the_user_who_was_named() {
    if !is_root() {
        println!("skipped, because only root can become somebody else");
        return;
    }
    let envd = Envd::start();
    let command = "id -un; id -G; umask; echo $USER $HOME";
    // The home of nobody may not exist, and then nothing can start there.
    let request = json!({"process": {"cmd": "sh", "args": ["-c", command], "cwd": "/"}});
    let nobody = basic("nobody");
    let headers = [("authorization", nobody.as_str())];
    let outcome = envd.stream("process.Process/Start", request, &headers).await.outcome().await;
    let lines: Vec<_> = outcome.stdout.lines().collect();
    assert_eq!((lines[0], lines[2]), ("nobody", "0022"), "{outcome:?}");
    assert!(!lines[1].split(' ').any(|group| group == "0"), "{}", lines[1]);
    assert!(lines[3].starts_with("nobody /"), "{}", lines[3]);
}

#[tokio::test]
async fn an_unknown_user_is_told_in_the_shape_of_the_request() {
    let envd = Envd::start();
    let unknown = basic("no-such-user");
    let headers = [("authorization", unknown.as_str())];
    let expected =
        json!({"code": "unauthenticated", "message": "invalid username: 'no-such-user'"});
    assert_eq!(envd.shell("true", &headers).await.outcome().await.error, expected);
    let unary = envd.call("process.Process/List", json!({}), &headers).await;
    assert_eq!((unary.status.as_u16(), unary.json()), (401, expected));
}

#[tokio::test]
async fn a_working_directory_must_be_there() {
    let envd = Envd::start();
    let request = |cwd: &str| json!({"process": {"cmd": "pwd", "cwd": cwd}});
    let start = "process.Process/Start";
    let here = envd.text_path("");
    let outcome = envd.stream(start, request(here.trim_end_matches('/')), &[]).await;
    assert_eq!(outcome.outcome().await.stdout.trim_end(), here.trim_end_matches('/'));

    let outcome = envd.stream(start, request("/no/such"), &[]).await.outcome().await;
    let expected = json!({"code": "invalid_argument", "message": "cwd '/no/such' does not exist"});
    assert_eq!(outcome.error, expected);

    let outcome = envd.stream(start, request("/etc/passwd"), &[]).await.outcome().await;
    assert_eq!(outcome.error["code"], "invalid_argument");
    let message = outcome.error["message"].as_str().unwrap();
    assert!(message.starts_with("error starting process 'pwd': "), "{message}");
}

#[tokio::test]
async fn a_time_limit_kills_the_process_even_when_the_client_has_gone() {
    let envd = Envd::start();
    // Long enough to hear of the start.
    let mut frames = envd.shell("exec sleep 1000", &[("connect-timeout-ms", "1000")]).await;
    let pid = u32::try_from(frames.started().await).unwrap();
    assert_eq!(frames.message().await.unwrap_err()["code"], "deadline_exceeded");
    wait_until("the process is dead", || !is_alive(pid)).await;

    let mut frames = envd.shell("exec sleep 1000", &[("connect-timeout-ms", "3000")]).await;
    let pid = u32::try_from(frames.started().await).unwrap();
    drop(frames);
    assert!(is_alive(pid));
    wait_until("the process is dead", || !is_alive(pid)).await;
}

#[tokio::test]
async fn no_time_limit_and_zero_are_the_same_and_nonsense_is_refused() {
    let envd = Envd::start();
    let outcome = envd.shell("echo ok", &[("connect-timeout-ms", "0")]).await.outcome().await;
    assert_eq!(outcome.stdout, "ok\n");
    let outcome = envd.shell("true", &[("connect-timeout-ms", "12345678901")]).await;
    assert_eq!(outcome.outcome().await.error["code"], "invalid_argument");
}

#[tokio::test]
async fn a_client_that_hangs_up_leaves_its_process_to_others() {
    let envd = Envd::start();
    let script = format!("echo up; until [ -e {} ]; do sleep 0.01; done; echo done", {
        envd.text_path("go")
    });
    let request = json!({"process": {"cmd": "sh", "args": ["-c", script]}, "tag": "mine"});
    let mut frames = envd.stream("process.Process/Start", request, &[]).await;
    let pid = frames.started().await;
    frames.until("stdout", "up").await;
    drop(frames);

    let by_pid = json!({"process": {"pid": pid}});
    let by_tag = json!({"process": {"tag": "mine"}});
    let mut first = envd.stream("process.Process/Connect", by_pid.clone(), &[]).await;
    let mut second = envd.stream("process.Process/Connect", by_tag.clone(), &[]).await;
    assert_eq!((first.started().await, second.started().await), (pid, pid));
    std::fs::write(envd.path("go"), "").unwrap();
    for frames in [first, second] {
        let outcome = frames.rest(pid).await;
        assert_eq!((outcome.stdout.as_str(), &outcome.end["exited"]), ("done\n", &json!(true)));
    }
    // It has ended, and that is still told for a while.
    for selector in [by_pid, by_tag] {
        let late = envd.stream("process.Process/Connect", selector, &[]).await.outcome().await;
        assert_eq!((late.pid, &late.end["exited"]), (pid, &json!(true)));
    }
}

#[tokio::test]
async fn what_nobody_hears_does_not_stop_a_process() {
    let envd = Envd::start();
    let done = envd.path("done");
    let script = format!("head -c 3000000 /dev/zero; touch {}", envd.text_path("done"));
    let mut frames = envd.shell(&script, &[]).await;
    frames.started().await;
    drop(frames);
    wait_until("all output is written", || done.exists()).await;
}

#[tokio::test]
async fn a_slow_reader_slows_the_process_and_not_the_agent() {
    let envd = Envd::start();
    let started = envd.path("more");
    let script = format!("head -c 64000000 /dev/zero; touch {}", envd.text_path("more"));
    let mut frames = envd.shell(&script, &[]).await;
    let pid = frames.started().await;
    let before_kib = envd.resident_kib();
    envd.stands_still().await;
    assert!(!started.exists());
    let grown_kib = envd.resident_kib().saturating_sub(before_kib);
    assert!(grown_kib < 16 * 1024, "the agent grew by {grown_kib} KiB");
    assert_eq!(frames.rest(pid).await.stdout.len(), 64_000_000);
    assert!(started.exists());
}

#[tokio::test]
async fn a_signal_ends_the_process_and_what_it_left_behind_is_not_waited_for() {
    let envd = Envd::start();
    for (signal, status) in
        [("SIGNAL_SIGKILL", "signal: killed"), ("SIGNAL_SIGTERM", "signal: terminated")]
    {
        // The child keeps the output open.
        let mut frames = envd.shell("sleep 1000 & echo $!; exec sleep 1000", &[]).await;
        let pid = frames.started().await;
        let child: u32 = frames.until("stdout", "\n").await.trim().parse().unwrap();
        let request = json!({"process": {"pid": pid}, "signal": signal});
        assert_eq!(envd.ok("process.Process/SendSignal", request.clone()).await, json!({}));
        let outcome = frames.rest(pid).await;
        let end = json!({"exitCode": -1, "status": status, "error": status});
        assert_eq!(outcome.end, end);
        assert!(is_alive(child), "only the one process is signalled");
        let gone = envd.fails("process.Process/SendSignal", request).await;
        assert_eq!((gone.0, gone.2), (404, format!("process with pid {pid} not found")));
        kill(child);
    }
}

fn kill(pid: u32) {
    let pid = rustix::process::Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
}

#[tokio::test]
async fn other_signals_and_selectors_are_refused() {
    let envd = Envd::start();
    let mut frames = envd.shell("exec sleep 1000", &[]).await;
    let pid = frames.started().await;
    let send = "process.Process/SendSignal";
    let refused = envd.fails(send, json!({"process": {"pid": pid}, "signal": 2})).await;
    assert_eq!((refused.0, refused.1.as_str()), (501, "unimplemented"));
    let refused = envd.fails(send, json!({"signal": 9})).await;
    assert_eq!((refused.0, refused.1.as_str()), (501, "unimplemented"));
    let unknown = envd.fails(send, json!({"process": {"tag": "none"}, "signal": 9})).await;
    assert_eq!(unknown.2, "process with tag none not found");
    envd.ok(send, json!({"process": {"pid": pid}, "signal": 9})).await;
    assert_eq!(frames.rest(pid).await.end["status"], "signal: killed");
}

#[tokio::test]
async fn running_processes_are_listed_as_they_were_asked_for() {
    let envd = Envd::start();
    assert_eq!(envd.ok("process.Process/List", json!({})).await, json!({}));
    // An empty body is no message.
    let headers = [("content-type", "application/json")];
    let empty = envd.post("/process.Process/List", &headers, "").await;
    assert_eq!((empty.status.as_u16(), &empty.json()["code"]), (400, &json!("invalid_argument")));

    let config = json!({"cmd": "sleep", "args": ["1000"], "envs": {"A": "1"}, "cwd": "/"});
    let mut kept = Vec::new();
    for tag in ["one", "two"] {
        let request = json!({"process": config, "tag": tag});
        let mut frames = envd.stream("process.Process/Start", request, &[]).await;
        kept.push((frames.started().await, frames));
    }
    let list = envd.ok("process.Process/List", json!({})).await;
    let mut listed = list["processes"].as_array().unwrap().clone();
    listed.sort_by_key(|process| process["tag"].to_string());
    let expected =
        |index: usize, tag: &str| json!({"config": config, "pid": kept[index].0, "tag": tag});
    assert_eq!(listed, [expected(0, "one"), expected(1, "two")]);
    // Every tag is found, not only the first.
    for tag in ["one", "two"] {
        let request = json!({"process": {"tag": tag}, "signal": "SIGNAL_SIGKILL"});
        envd.ok("process.Process/SendSignal", request).await;
    }
}

#[tokio::test]
async fn a_silent_stream_shows_signs_of_life() {
    let envd = Envd::start();
    let mut frames = envd.shell("exec sleep 1000", &[("keepalive-ping-interval", "1")]).await;
    let pid = frames.started().await;
    assert_eq!(frames.event().await, json!({"keepalive": {}}));
    let request = json!({"process": {"pid": pid}, "signal": "SIGNAL_SIGKILL"});
    envd.ok("process.Process/SendSignal", request).await;
    assert_eq!(frames.rest(pid).await.end["status"], "signal: killed");
}

#[tokio::test]
async fn a_name_or_argument_that_no_program_can_be_given_is_refused() {
    let envd = Envd::start();
    let start = "process.Process/Start";
    for process in [
        json!({"cmd": "echo", "args": ["a\u{0}b"]}),
        json!({"cmd": "echo", "envs": {"A=B": "1"}}),
        json!({"cmd": "echo", "cwd": "~other/x"}),
    ] {
        let outcome = envd.stream(start, json!({"process": process}), &[]).await.outcome().await;
        assert_eq!(outcome.error["code"], "invalid_argument", "{process}");
    }
}

#[tokio::test]
async fn many_processes_at_once_each_get_their_own_output() {
    let envd = Envd::start();
    let runs = (0..40).map(|index| {
        let envd = &envd;
        async move {
            let outcome = envd.run(&format!("echo {index}; exit {index}")).await;
            assert_eq!(outcome.stdout, format!("{index}\n"));
            assert_eq!(outcome.end["exitCode"].as_i64().unwrap_or(0), index);
        }
    });
    futures::future::join_all(runs).await;
    assert_eq!(envd.ok("process.Process/List", json!({})).await, json!({}));
}
