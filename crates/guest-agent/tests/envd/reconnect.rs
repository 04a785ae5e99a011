//! What a process says while its client is away.

use serde_json::{Value, json};

use crate::connect::{Frames, base64};
use crate::program::{Envd, wait_until};

/// Says "ready", and then as many numbered lines as each line of its input asks for.
const COUNTER: &str = "echo ready; i=0; while read count; do
    end=$((i+count)); while [ $i -lt $end ]; do echo $i; i=$((i+1)); done
done";

/// Where the input goes and the output comes from.
#[derive(Clone, Copy, PartialEq, Eq)]
enum By {
    Pipes,
    Terminal,
}

impl By {
    fn output(self) -> &'static str {
        match self {
            Self::Pipes => "stdout",
            Self::Terminal => "pty",
        }
    }

    async fn start(self, envd: &Envd) -> Frames {
        match self {
            Self::Pipes => envd.shell(COUNTER, &[]).await,
            Self::Terminal => {
                let script = format!("stty -echo -onlcr; {COUNTER}");
                let process = json!({"cmd": "/bin/sh", "args": ["-c", script]});
                let request = json!({"process": process, "pty": {}});
                envd.stream("process.Process/Start", request, &[]).await
            }
        }
    }

    async fn ask_for(self, envd: &Envd, pid: u64, count: usize) {
        let data = base64(format!("{count}\n").as_bytes());
        let input = match self {
            Self::Pipes => json!({"stdin": data}),
            Self::Terminal => json!({"pty": data}),
        };
        let request = json!({"process": {"pid": pid}, "input": input});
        envd.ok("process.Process/SendInput", request).await;
    }
}

async fn connect(envd: &Envd, pid: u64) -> Frames {
    let request = json!({"process": {"pid": pid}});
    let mut frames = envd.stream("process.Process/Connect", request, &[]).await;
    assert_eq!(frames.started().await, pid);
    frames
}

/// Hangs up, and waits until the agent has seen it.
async fn cut(envd: &Envd, frames: Frames, sockets_before: usize) {
    drop(frames);
    wait_until("the connection is gone", || envd.sockets() == sockets_before).await;
}

#[tokio::test]
async fn lines_said_while_the_client_reconnects_come_in_order_and_once() {
    for by in [By::Pipes, By::Terminal] {
        let envd = Envd::start();
        let sockets = envd.sockets();
        let mut frames = by.start(&envd).await;
        let pid = frames.started().await;
        let mut heard = frames.until(by.output(), "ready\n").await;
        let mut said = 0;
        for _ in 0..5 {
            cut(&envd, frames, sockets).await;
            // It says them before, while and after the client comes back.
            for count in [500, 2000] {
                by.ask_for(&envd, pid, count).await;
                said += count;
            }
            frames = connect(&envd, pid).await;
            by.ask_for(&envd, pid, 100).await;
            said += 100;
            heard += &frames.until(by.output(), &format!("{}\n", said - 1)).await;
        }
        let expected: String = (0..said).map(|number| format!("{number}\n")).collect();
        assert!(heard == format!("ready\n{expected}"), "{} bytes", heard.len());
    }
}

#[tokio::test]
async fn a_process_that_ends_while_nobody_listens_leaves_its_last_words_to_the_next() {
    let envd = Envd::start();
    let sockets = envd.sockets();
    let script = format!("until [ -e {} ]; do sleep 0.01; done; echo out; echo err >&2; exit 3", {
        envd.text_path("go")
    });
    let mut frames = envd.shell(&script, &[]).await;
    let pid = frames.started().await;
    cut(&envd, frames, sockets).await;
    std::fs::write(envd.path("go"), "").unwrap();
    let list = || async { envd.ok("process.Process/List", json!({})).await };
    while list().await != json!({}) {}

    let outcome = connect(&envd, pid).await.rest(pid).await;
    assert_eq!((outcome.stdout.as_str(), outcome.stderr.as_str()), ("out\n", "err\n"));
    assert_eq!((&outcome.end["exitCode"], outcome.error), (&json!(3), Value::Null));
    // Once heard, it is gone.
    let again = connect(&envd, pid).await.rest(pid).await;
    assert_eq!((again.stdout.as_str(), &again.end), ("", &outcome.end));
}

#[tokio::test]
async fn of_more_than_is_kept_the_newest_is_there() {
    let envd = Envd::start();
    let sockets = envd.sockets();
    let script = format!("until [ -e {} ]; do sleep 0.01; done; seq 1 300000; echo end; cat", {
        envd.text_path("go")
    });
    let mut frames = envd.shell(&script, &[]).await;
    let pid = frames.started().await;
    cut(&envd, frames, sockets).await;
    std::fs::write(envd.path("go"), "").unwrap();
    envd.stands_still().await;
    let heard = connect(&envd, pid).await.until("stdout", "end\n").await;
    let mut expected: String = (1..=300_000).map(|number| format!("{number}\n")).collect();
    expected += "end\n";
    assert!(expected.ends_with(&heard), "there is a gap");
    assert!((200_000..=256 * 1024).contains(&heard.len()), "{} bytes are kept", heard.len());
}

#[tokio::test]
async fn a_stream_that_is_cut_in_the_middle_goes_on_after_what_was_sent() {
    let envd = Envd::start();
    let mut frames = envd.shell("i=0; while :; do echo $i; i=$((i+1)); done", &[]).await;
    let pid = frames.started().await;
    let mut last = 0;
    for _ in 0..5 {
        let heard = frames.until("stdout", "00\n").await;
        // Only what was in the connection when it broke may be missing.
        let heard: Vec<u64> = whole_lines(&heard).collect();
        assert!(heard.first() >= Some(&last) && heard.is_sorted());
        let in_order = heard.windows(2).all(|pair| pair[0] + 1 == pair[1]);
        assert!(in_order, "there is a gap within one stream");
        last = *heard.last().unwrap();
        drop(frames);
        frames = connect(&envd, pid).await;
    }
    envd.ok("process.Process/SendSignal", json!({"process": {"pid": pid}, "signal": 9})).await;
}

/// Without the first and the last, which may be parts.
fn whole_lines(text: &str) -> impl Iterator<Item = u64> {
    let (_part, text) = text.split_once('\n').unwrap_or_default();
    let (text, _part) = text.rsplit_once('\n').unwrap_or_default();
    text.lines().map(|line| line.parse().unwrap())
}
