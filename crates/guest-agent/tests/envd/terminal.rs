//! Processes on a terminal.

use serde_json::{Value, json};

use crate::connect::{Frames, base64};
use crate::program::Envd;

async fn terminal(envd: &Envd, command: &str) -> Frames {
    let request = json!({
        "process": {"cmd": "/bin/sh", "args": ["-c", command]},
        "pty": {"size": {"cols": 80, "rows": 24}},
    });
    envd.stream("process.Process/Start", request, &[]).await
}

fn typed(pid: u64, text: &str) -> Value {
    json!({"process": {"pid": pid}, "input": {"pty": base64(text.as_bytes())}})
}

#[tokio::test]
async fn a_process_has_a_terminal_of_the_size_asked_for_and_controls_it() {
    let envd = Envd::start();
    let outcome =
        terminal(&envd, "stty size; test -t 0 && test -t 2 && echo yes; : </dev/tty && echo mine")
            .await
            .outcome()
            .await;
    assert_eq!(outcome.terminal, "24 80\r\nyes\r\nmine\r\n");
    assert_eq!(outcome.end, json!({"exited": true, "status": "exit status 0"}));
}

#[tokio::test]
async fn a_shell_is_typed_to_and_resized() {
    let envd = Envd::start();
    let mut frames = terminal(&envd, "exec sh -i").await;
    let pid = frames.started().await;
    envd.ok("process.Process/SendInput", typed(pid, "PS1=; echo a$((1+1))b\n")).await;
    frames.until("pty", "a2b").await;
    let resize = json!({"process": {"pid": pid}, "pty": {"size": {"cols": 132, "rows": 50}}});
    envd.ok("process.Process/Update", resize).await;
    envd.ok("process.Process/SendInput", typed(pid, "stty size\n")).await;
    frames.until("pty", "50 132").await;
    // Ctrl+C reaches what runs in front, Ctrl+D ends the shell.
    envd.ok("process.Process/SendInput", typed(pid, "sh -c 'echo go; exec sleep 1000'\n")).await;
    frames.until("pty", "\ngo").await;
    envd.ok("process.Process/SendInput", typed(pid, "\u{3}")).await;
    envd.ok("process.Process/SendInput", typed(pid, "echo b$((1+1))a\n")).await;
    frames.until("pty", "b2a").await;
    envd.ok("process.Process/SendInput", typed(pid, "\u{4}")).await;
    assert_eq!(frames.rest(pid).await.end["exited"], true);
}

#[tokio::test]
async fn what_a_process_says_at_once_is_never_lost() {
    let envd = Envd::start();
    for _ in 0..50 {
        assert_eq!(terminal(&envd, "printf prompt").await.outcome().await.terminal, "prompt");
    }
}

#[tokio::test]
async fn a_terminal_has_no_standard_input_to_write_or_close() {
    let envd = Envd::start();
    let mut frames = terminal(&envd, "exec sleep 1000").await;
    let pid = frames.started().await;
    let input = json!({"process": {"pid": pid}, "input": {"stdin": base64(b"x")}});
    let refused = envd.fails("process.Process/SendInput", input).await;
    assert!(refused.2.starts_with("error writing to stdin: tty assigned to process"));
    let refused = envd.fails("process.Process/CloseStdin", json!({"process": {"pid": pid}})).await;
    assert_eq!((refused.0, refused.1.as_str()), (500, "unknown"));
    assert!(refused.2.contains("cannot close stdin for PTY process"), "{}", refused.2);
}
