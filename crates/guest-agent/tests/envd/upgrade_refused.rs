//! Upgrades that do not come about, after which everything is as before.

use bytes::Bytes;
use http::StatusCode;
use serde_json::json;

use crate::connect::Frames;
use crate::program::{Envd, wait_until};
use crate::upgrade::{ask, connect, init, initialised, same_program};

/// A process that says numbers all the time, and who listens to it.
struct Talker {
    frames: Frames,
    pid: u64,
    said: String,
}

impl Talker {
    async fn start(envd: &Envd) -> Self {
        let command = "i=0; while :; do echo $i; i=$((i+1)); done";
        let mut frames = envd.shell(command, &[]).await;
        let pid = frames.started().await;
        let said = frames.until("stdout", "00\n").await;
        Self { frames, pid, said }
    }

    /// The stream that was open before is open still, and nothing is missing in it.
    async fn goes_on(&mut self) {
        self.said += &self.frames.until("stdout", "00\n").await;
        let (whole, _part) = self.said.rsplit_once('\n').unwrap();
        for (expected, line) in whole.lines().enumerate() {
            assert_eq!(line.parse(), Ok(expected), "after {expected} lines");
        }
    }
}

/// What was refused, as status and text.
async fn refused(envd: &Envd, target: &str, body: Bytes) -> (u16, String) {
    let answer = ask(envd, &[("x-envd-upgrade-bin", target)], body).await.unwrap();
    (answer.status.as_u16(), answer.text().to_owned())
}

/// A program for this machine of these instructions, if they are for this machine.
fn program(x86_64: &[u8]) -> Option<Bytes> {
    const BASE: u64 = 0x0040_0000;
    const HEADERS: u64 = 64 + 56;
    if cfg!(not(target_arch = "x86_64")) {
        println!("skipped, because its instructions are for another machine");
        return None;
    }
    let size = HEADERS + u64::try_from(x86_64.len()).unwrap();
    let mut elf = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x02\0\x3e\0\x01\0\0\0".to_vec();
    for word in [BASE + HEADERS, 64, 0] {
        elf.extend(word.to_le_bytes());
    }
    elf.extend([0, 0, 0, 0, 64, 0, 56, 0, 1, 0, 0, 0, 0, 0, 0, 0]);
    elf.extend([1, 0, 0, 0, 5, 0, 0, 0]);
    for word in [0, BASE, BASE, size, size, 0x1000] {
        elf.extend(word.to_le_bytes());
    }
    elf.extend(x86_64);
    Some(elf.into())
}

#[tokio::test]
async fn only_an_initialised_agent_can_be_upgraded_and_only_to_what_is_sent() {
    let envd = Envd::start();
    let told = refused(&envd, "", same_program()).await;
    assert_eq!(told, (409, "envd not initialized".to_owned()));
    assert_eq!(init(&envd, json!({})).await.status, StatusCode::NO_CONTENT);
    assert!(init(&envd, json!({})).await.header("x-envd-handover").is_none());
    let told = refused(&envd, "/usr/bin/other", same_program()).await;
    assert_eq!(told, (400, "unsupported upgrade target".to_owned()));
    let (status, text) = refused(&envd, "", Bytes::new()).await;
    assert!(status == 400 && text.contains("the body is empty"), "{status} {text}");
    let (status, text) = refused(&envd, "", Bytes::from(vec![0; (64 << 20) + 1])).await;
    assert!(status == 413 && text.contains("67108864 bytes"), "{status} {text}");
}

#[tokio::test]
async fn a_staged_binary_that_is_not_there_is_told() {
    if std::path::Path::new("/usr/bin/envd.next").exists() {
        println!("skipped, because this machine has a staged binary");
        return;
    }
    let envd = initialised().await;
    let (status, text) = refused(&envd, "/usr/bin/envd.next", Bytes::new()).await;
    assert!(status == 400 && text.starts_with("cannot read the staged binary: "), "{text}");
}

#[tokio::test]
async fn the_token_is_asked_for_before_anything_else() {
    let envd = Envd::start();
    init(&envd, json!({"accessToken": "tok"})).await;
    for headers in [&[][..], &[("x-access-token", "other")]] {
        let answer = ask(&envd, headers, Bytes::from_static(b"x")).await.unwrap();
        assert!(answer.error().1.starts_with("unauthorized access"), "{}", answer.text());
    }
}

#[tokio::test]
async fn a_binary_that_is_no_agent_leaves_everything_as_it_is() {
    let envd = initialised().await;
    let mut talker = Talker::start(&envd).await;
    let before = envd.descriptors();
    let read = |path: &str| Bytes::from(std::fs::read(path).unwrap());
    for (binary, why) in [
        (Bytes::from_static(b"#!/bin/sh\necho 1\n"), "it is not an executable file"),
        (Bytes::from_static(b"\x7fELF and then nothing"), "it ended with exit status 126 and said"),
        (read("/bin/true"), "it takes over format "),
        (read("/bin/false"), "it ended with exit status 1 and said"),
    ] {
        let (status, text) = refused(&envd, "", binary).await;
        assert!(status == 500, "{status} {text}");
        assert!(text.starts_with("not upgraded: the new binary is not fit: "), "{text}");
        assert!(text.contains(why), "{text}");
        talker.goes_on().await;
    }
    wait_until("nothing is left open", || envd.descriptors() <= before).await;
    assert_eq!(envd.run("echo hello").await.stdout, "hello\n");
}

#[tokio::test]
async fn a_binary_that_hangs_is_killed_and_another_upgrade_has_to_wait_for_that() {
    // pause(), again and again
    let Some(hangs) = program(b"\xb8\x22\0\0\0\x0f\x05\xeb\xf7") else { return };
    let envd = initialised().await;
    let mut talker = Talker::start(&envd).await;
    let hanging = refused(&envd, "", hangs);
    let second = async {
        let children = || {
            let tasks = std::fs::read_dir(format!("/proc/{}/task", envd.pid())).unwrap();
            let children = tasks.flatten().map(|task| {
                let children = std::fs::read_to_string(task.path().join("children"));
                children.unwrap_or_default().split_whitespace().count()
            });
            children.sum::<usize>()
        };
        wait_until("the binary is asked", || children() == 2).await;
        let busy = refused(&envd, "", same_program()).await;
        wait_until("the binary is gone", || children() == 1).await;
        busy
    };
    let (hanging, busy) = tokio::join!(hanging, second);
    assert_eq!(busy, (503, "another upgrade is under way: wait for its outcome".to_owned()));
    let why = "not upgraded: the new binary is not fit: it did not answer within 5s";
    assert_eq!(hanging, (500, why.to_owned()));
    talker.goes_on().await;
}

#[tokio::test]
async fn an_execution_that_fails_loses_nothing() {
    // write(1, "1\n", 2); chmod("/proc/self/exe", 0); exit(0)
    let Some(turns_bad) = program(
        b"\xb8\x01\0\0\0\xbf\x01\0\0\0\x48\x8d\x35\x20\0\0\0\xba\x02\0\0\0\x0f\x05\
          \xb8\x5a\0\0\0\x48\x8d\x3d\x0f\0\0\0\x31\xf6\x0f\x05\
          \xb8\x3c\0\0\0\x31\xff\x0f\x05\
          1\n/proc/self/exe\0",
    ) else {
        return;
    };
    let envd = initialised().await;
    let mut talker = Talker::start(&envd).await;
    let mut quiet = envd.shell("while read line; do echo \"got $line\"; done", &[]).await;
    let pid = quiet.started().await;
    let before = envd.descriptors();
    for number in 0..3 {
        let (status, text) = refused(&envd, "", turns_bad.clone()).await;
        let why = "not upgraded: the new binary cannot be executed: Permission denied";
        assert!(status == 500 && text.starts_with(why), "{status} {text}");
        talker.goes_on().await;
        let data = crate::connect::base64(format!("{number}\n").as_bytes());
        let input = json!({"process": {"pid": pid}, "input": {"stdin": data}});
        envd.ok("process.Process/SendInput", input).await;
        quiet.until("stdout", &format!("got {number}\n")).await;
        let outcome = envd.run("ls /proc/self/fd; exit 4").await;
        assert_eq!(outcome.stdout, "0\n1\n2\n3\n");
        assert_eq!(outcome.end["exitCode"], 4);
    }
    wait_until("nothing is left open", || envd.descriptors() <= before).await;
    // And the next one that is good is taken.
    assert!(ask(&envd, &[], same_program()).await.is_none());
    assert_eq!(init(&envd, json!({})).await.status, StatusCode::NO_CONTENT);
    connect(&envd, talker.pid).await.until("stdout", "00\n").await;
}
