//! Feeding processes.

use serde_json::{Value, json};

use crate::connect::{base64, frame};
use crate::program::Envd;

fn stdin(pid: u64, data: &[u8]) -> Value {
    json!({"process": {"pid": pid}, "input": {"stdin": base64(data)}})
}

#[tokio::test]
async fn input_is_read_until_it_is_closed() {
    let envd = Envd::start();
    let mut frames = envd.shell("cat", &[]).await;
    let pid = frames.started().await;
    envd.ok("process.Process/SendInput", stdin(pid, b"one\n")).await;
    assert_eq!(frames.until("stdout", "\n").await, "one\n");
    envd.ok("process.Process/SendInput", stdin(pid, b"two\n")).await;
    let close = json!({"process": {"pid": pid}});
    envd.ok("process.Process/CloseStdin", close).await;
    let outcome = frames.rest(pid).await;
    assert_eq!((outcome.stdout.as_str(), &outcome.end["exited"]), ("two\n", &json!(true)));
}

#[tokio::test]
async fn closing_twice_is_no_error_and_writing_after_it_is() {
    let envd = Envd::start();
    let mut frames = envd.shell("cat; exec sleep 1000", &[]).await;
    let pid = frames.started().await;
    for _ in 0..2 {
        envd.ok("process.Process/CloseStdin", json!({"process": {"pid": pid}})).await;
    }
    let refused = envd.fails("process.Process/SendInput", stdin(pid, b"x")).await;
    let message = "error writing to stdin: stdin not enabled or closed".to_owned();
    assert_eq!(refused, (500, "internal".to_owned(), message));
}

#[tokio::test]
async fn without_input_a_process_reads_nothing() {
    let envd = Envd::start();
    let request = json!({"process": {"cmd": "cat"}, "stdin": false});
    let outcome = envd.stream("process.Process/Start", request, &[]).await.outcome().await;
    assert_eq!(outcome.end["exited"], true);
}

#[tokio::test]
async fn input_of_many_megabytes_arrives_whole() {
    let envd = Envd::start();
    let mut frames = envd.shell("wc -c", &[]).await;
    let pid = frames.started().await;
    let data = vec![b'x'; 6 << 20];
    envd.ok("process.Process/SendInput", stdin(pid, &data)).await;
    envd.ok("process.Process/CloseStdin", json!({"process": {"pid": pid}})).await;
    assert_eq!(frames.rest(pid).await.stdout.trim(), data.len().to_string());
}

#[tokio::test]
async fn closing_ends_a_write_that_waits_for_a_process_that_does_not_read() {
    let envd = Envd::start();
    let mut frames = envd.shell("echo ready; exec sleep 1000", &[]).await;
    let pid = frames.started().await;
    frames.until("stdout", "ready").await;
    let blocked =
        async { envd.fails("process.Process/SendInput", stdin(pid, &[0; 1 << 20])).await };
    let close = async {
        // The pipe is full when the write waits, so nothing more fits.
        let path = format!("/proc/{pid}/fd/0");
        let pipe = std::fs::File::open(path).unwrap();
        crate::program::wait_until("the pipe is full", || {
            rustix::io::ioctl_fionread(&pipe).unwrap() >= 65_536
        })
        .await;
        envd.ok("process.Process/CloseStdin", json!({"process": {"pid": pid}})).await;
    };
    let (refused, ()) = tokio::join!(blocked, close);
    assert_eq!(refused.2, "error writing to stdin: stdin not enabled or closed");
}

#[tokio::test]
async fn a_stream_of_input_names_its_process_first() {
    let envd = Envd::start();
    let mut frames = envd.shell("cat", &[]).await;
    let pid = frames.started().await;
    let start = json!({"start": {"process": {"pid": pid}}});
    let data = |text: &str| json!({"data": {"input": {"stdin": base64(text.as_bytes())}}});
    let body = |messages: &[Value]| -> Vec<u8> {
        messages.iter().flat_map(|message| frame(0, message.to_string().as_bytes())).collect()
    };
    let headers = [("content-type", "application/connect+json")];
    let method = "process.Process/StreamInput";
    let messages = [start, data("a"), json!({"keepalive": {}}), data("b\n")];
    let mut answer = envd.raw_stream(method, body(&messages), &headers).await;
    assert_eq!(answer.message().await, Ok(json!({})));
    assert_eq!(answer.message().await, Err(Value::Null));
    assert_eq!(frames.until("stdout", "\n").await, "ab\n");

    let mut refused = envd.raw_stream(method, body(&[data("a")]), &headers).await;
    assert_eq!(refused.message().await.unwrap_err()["code"], "failed_precondition");
}

#[tokio::test]
async fn input_of_the_wrong_kind_or_none_is_refused() {
    let envd = Envd::start();
    let mut frames = envd.shell("cat", &[]).await;
    let pid = frames.started().await;
    let send = "process.Process/SendInput";
    let terminal = json!({"process": {"pid": pid}, "input": {"pty": base64(b"x")}});
    let refused = envd.fails(send, terminal).await;
    assert_eq!((refused.0, refused.1.as_str()), (500, "internal"));
    assert!(refused.2.starts_with("error writing to tty: tty not assigned"), "{}", refused.2);
    let none = envd.fails(send, json!({"process": {"pid": pid}})).await;
    assert_eq!(none.1, "unimplemented");
    let resize = json!({"process": {"pid": pid}, "pty": {"size": {"cols": 1, "rows": 1}}});
    let refused = envd.fails("process.Process/Update", resize).await;
    let message = "error resizing tty: tty not assigned to process".to_owned();
    assert_eq!(refused, (500, "internal".to_owned(), message));
}
