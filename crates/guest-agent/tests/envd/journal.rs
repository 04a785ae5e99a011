//! What the agent notes of processes, as the node reads it.

use std::collections::BTreeMap;

use guest_wire::client;
use guest_wire::rest::{Journal, JournalLevel, JournalLine};
use serde_json::json;

use crate::program::Envd;

async fn read(envd: &Envd, run: &str, after: u64) -> Journal {
    client::journal(envd.addr, None, run, after).await.unwrap().unwrap()
}

fn field<'a>(line: &'a JournalLine, name: &str) -> &'a str {
    line.fields.get(name).map_or("", String::as_str)
}

#[tokio::test]
async fn the_start_and_the_end_of_a_process_are_noted_before_its_client_hears_of_them() {
    let envd = Envd::start();
    assert!(read(&envd, "", 0).await.lines.is_empty());
    let mut frames = envd.shell("echo out; echo err >&2; read line; exit 3", &[]).await;
    let pid = frames.started().await;
    let begun = read(&envd, "", 0).await;
    assert_eq!(begun.lines.len(), 1, "{begun:?}");
    let start = &begun.lines[0];
    assert_eq!((start.number, start.level), (1, JournalLevel::Info));
    assert_eq!(start.message, format!("Process with pid {pid} started"));
    let command = "/bin/sh -c echo out; echo err >&2; read line; exit 3";
    let fields = [("event_type", "process_start"), ("pid", &pid.to_string()), ("command", command)];
    let fields = fields.map(|(name, value)| (name.to_owned(), value.to_owned()));
    assert_eq!(start.fields, BTreeMap::from(fields));

    let input = json!({"process": {"pid": pid}, "input": {"stdin": "Cg=="}});
    envd.ok("process.Process/SendInput", input).await;
    let outcome = frames.rest(pid).await;
    assert_eq!(outcome.end["exitCode"], 3);
    let after = read(&envd, &begun.run, 1).await;
    assert_eq!((after.run.as_str(), after.more, after.lost), (begun.run.as_str(), false, 0));
    assert_eq!(after.lines.len(), 1, "{after:?}");
    let end = &after.lines[0];
    assert_eq!((end.number, end.message.clone()), (2, format!("Process with pid {pid} ended")));
    assert!(end.at_us >= start.at_us);
    for (name, value) in [
        ("event_type", "process_end"),
        ("exit_code", "3"),
        ("status", "exit status 3"),
        ("error", "exit status 3"),
        ("stdout_bytes", "4"),
        ("stderr_bytes", "4"),
        ("pty_bytes", "0"),
    ] {
        assert_eq!(field(end, name), value, "{name}");
    }
}

#[tokio::test]
async fn of_what_processes_write_only_the_length_is_noted_and_of_none_that_did_not_start() {
    let envd = Envd::start();
    let nowhere = json!({"process": {"cmd": "/bin/true", "cwd": "/no/such/directory"}});
    let mut frames = envd.stream("process.Process/Start", nowhere, &[]).await;
    frames.message().await.unwrap_err();
    let terminal = json!({
        "process": {"cmd": "/bin/sh", "args": ["-c", "printf s3cr3t$((1+1))"]},
        "pty": {"size": {"cols": 80, "rows": 24}},
    });
    let outcome = envd.stream("process.Process/Start", terminal, &[]).await.outcome().await;
    assert_eq!(outcome.terminal, "s3cr3t2");
    let told = read(&envd, "", 0).await;
    let events: Vec<&str> = told.lines.iter().map(|line| field(line, "event_type")).collect();
    assert_eq!(events, ["process_start", "process_end"]);
    assert_eq!(field(&told.lines[1], "pty_bytes"), "7");
    assert_eq!(told.lines[1].fields.get("error"), None, "it succeeded");
    assert!(!format!("{told:?}").contains("s3cr3t2"), "{told:?}");
}

#[tokio::test]
async fn the_journal_is_told_to_whoever_has_the_token() {
    let envd = Envd::start();
    envd.post("/init", &[], json!({"accessToken": "tok"}).to_string()).await;
    assert_eq!(envd.get("/journal", &[]).await.status.as_u16(), 401);
    assert!(client::journal(envd.addr, Some("other"), "", 0).await.is_err());
    let told = client::journal(envd.addr, Some("tok"), "", 0).await.unwrap().unwrap();
    assert!(told.lines.is_empty() && !told.run.is_empty());
    let other = Envd::start();
    assert_ne!(read(&other, "", 0).await.run, told.run, "every run of an agent has its own");
}
