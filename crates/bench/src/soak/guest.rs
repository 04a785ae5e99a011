//! What clients do inside a sandbox, through the edge: programs and files.

use std::collections::BTreeMap;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::{Buf, Bytes, BytesMut};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use lifecycle::Budget;
use serde_json::{Value, json};

use super::caller::{Ask, Caller, Trouble, refused};
use super::model::{Answer, Runner, Sandbox, Violation};
use super::schedule::Content;
use crate::client::connect;

/// What the long-running program is known by.
const TAG: &str = "soak";
/// Where files of a run are, in the user's home.
const DIR: &str = "soak";
/// How long a program that runs may take to answer.
const ECHO: Duration = Duration::from_secs(20);

/// A message of the Connect protocol as a frame.
fn framed(message: &Value) -> Bytes {
    let text = message.to_string();
    let mut frame = vec![0];
    frame.extend(u32::try_from(text.len()).unwrap_or(u32::MAX).to_be_bytes());
    frame.extend(text.as_bytes());
    frame.into()
}

/// Takes the first whole frame off `bytes`: its message.
fn unframed(bytes: &mut BytesMut) -> Option<Value> {
    let head: [u8; 4] = bytes.get(1..5)?.try_into().ok()?;
    let len = usize::try_from(u32::from_be_bytes(head)).ok()?;
    if bytes.len() < 5 + len {
        return None;
    }
    bytes.advance(5);
    serde_json::from_slice(&bytes.split_to(len)).ok()
}

fn stream(sandbox: &Sandbox, method: &str, message: &Value) -> Ask {
    Ask::agent(sandbox, "POST", format!("/process.Process/{method}"), framed(message))
        .with("content-type", "application/connect+json")
        .with("connect-protocol-version", "1")
}

fn unary(sandbox: &Sandbox, method: &str, message: &Value) -> Ask {
    Ask::agent(sandbox, "POST", format!("/{method}"), message.to_string())
}

impl Caller {
    async fn ok(&mut self, what: &str, ask: &Ask) -> Result<Bytes, Violation> {
        let answer = self.ask(ask).await?;
        if answer.status() != 200 {
            return Err(refused(what, &answer));
        }
        Ok(answer.into_body())
    }

    /// Runs `script` to its end: its exit code and output.
    pub(crate) async fn run(
        &mut self,
        sandbox: &Sandbox,
        script: &str,
    ) -> Result<(i64, String), Violation> {
        let process = json!({ "cmd": "/bin/bash", "args": ["-c", script] });
        let ask = stream(sandbox, "Start", &json!({ "process": process, "stdin": false }));
        let body = self.ok("run a command", &ask).await?;
        let (mut code, mut output) = (None, Vec::new());
        let mut left = BytesMut::from(body);
        while let Some(message) = unframed(&mut left) {
            output.extend(stdout(&message));
            let end = &message["event"]["end"];
            if end["exited"] == true {
                // Left out when it is 0.
                code = Some(end["exitCode"].as_i64().unwrap_or(0));
            }
        }
        let output = String::from_utf8_lossy(&output).into_owned();
        match code {
            Some(code) => Ok((code, output)),
            None => {
                let what = format!("a command in {} did not end, said {output:?}", sandbox.id);
                Err(Violation::unexpected(what))
            }
        }
    }

    /// Starts the program that must outlive every daemon, unless an earlier try did.
    pub(crate) async fn start_runner(&mut self, sandbox: &Sandbox) -> Result<Runner, Violation> {
        let pid = loop {
            if let Some(pid) = self.runner_pid(sandbox).await? {
                break pid;
            }
            let message = json!({ "process": { "cmd": "/bin/cat" }, "tag": TAG, "stdin": true });
            match Stream::open(self, &stream(sandbox, "Start", &message)).await {
                Err(Trouble::Broken(violation)) => return Err(violation),
                // The list says who it is.
                Ok(_) | Err(Trouble::Cut) => {}
            }
        };
        Ok(Runner { pid, started: self.started(sandbox, pid).await? })
    }

    pub(crate) async fn runner_pid(&mut self, sandbox: &Sandbox) -> Result<Option<u32>, Violation> {
        let ask = unary(sandbox, "process.Process/List", &json!({}));
        let list: Value = parsed(&self.ok("list processes", &ask).await?)?;
        let processes = list["processes"].as_array().into_iter().flatten();
        let runner = processes.into_iter().find(|process| process["tag"] == TAG);
        Ok(runner.and_then(|process| u32::try_from(process["pid"].as_u64()?).ok()))
    }

    /// When `pid` was started, as the kernel says it: no two processes have both in common.
    async fn started(&mut self, sandbox: &Sandbox, pid: u32) -> Result<String, Violation> {
        let script = format!("cut -d ' ' -f 22 /proc/{pid}/stat");
        let (_, output) = self.run(sandbox, &script).await?;
        Ok(output.trim().to_owned())
    }

    /// Attaches to the long-running program, says something to it and waits until it says it, too.
    pub(crate) async fn attach(&mut self, sandbox: &Sandbox, nonce: u64) -> Result<(), Violation> {
        loop {
            match self.try_attach(sandbox, nonce).await {
                Err(Trouble::Cut) => {}
                Err(Trouble::Broken(violation)) => return Err(violation),
                Ok(()) => return Ok(()),
            }
        }
    }

    async fn try_attach(&mut self, sandbox: &Sandbox, nonce: u64) -> Result<(), Trouble> {
        let selector = json!({ "pid": sandbox.runner.pid });
        let connect = stream(sandbox, "Connect", &json!({ "process": selector }));
        let mut stream = Stream::open(self, &connect).await?;
        let word = format!("<{nonce:016x}>");
        let input = json!({ "stdin": STANDARD.encode(&word) });
        let message = json!({ "process": selector, "input": input });
        let ask = unary(sandbox, "process.Process/SendInput", &message);
        let sent = self.once(&ask).await?;
        if sent.status() != 200 {
            return Err(refused("send input", &sent).into());
        }
        stream.until(self, &word).await
    }

    pub(crate) async fn write(
        &mut self,
        sandbox: &Sandbox,
        name: &str,
        content: Content,
    ) -> Result<(), Violation> {
        let ask = Ask::agent(sandbox, "POST", file(name), content.bytes())
            .with("content-type", "application/octet-stream");
        self.ok("write a file", &ask).await.map(drop)
    }

    pub(crate) async fn read(&mut self, sandbox: &Sandbox, name: &str) -> Result<Bytes, Violation> {
        self.ok("read a file", &Ask::agent(sandbox, "GET", file(name), "")).await
    }

    /// A file that was never written is not there.
    pub(crate) async fn is_missing(
        &mut self,
        sandbox: &Sandbox,
        name: &str,
    ) -> Result<(), Violation> {
        let answer = self.ask(&Ask::agent(sandbox, "GET", file(name), "")).await?;
        if answer.status() == 404 { Ok(()) } else { Err(refused("read no file", &answer)) }
    }

    /// Names of the run's files.
    pub(crate) async fn names(&mut self, sandbox: &Sandbox) -> Result<Vec<String>, Violation> {
        let message = json!({ "path": DIR, "depth": 1 });
        let ask = unary(sandbox, "filesystem.Filesystem/ListDir", &message);
        let answer = self.ask(&ask).await?;
        // Made with the first file.
        if answer.status() == 404 && sandbox.files.is_empty() {
            return Ok(Vec::new());
        }
        if answer.status() != 200 {
            return Err(refused("list files", &answer));
        }
        let list: Value = parsed(answer.body())?;
        let entries = list["entries"].as_array().into_iter().flatten();
        Ok(entries.filter_map(|entry| Some(entry["name"].as_str()?.to_owned())).collect())
    }

    /// Everything the model knows of a sandbox, looked at.
    pub(crate) async fn look_into(&mut self, sandbox: &Sandbox) -> Result<Answer, Violation> {
        let Some(pid) = self.runner_pid(sandbox).await? else {
            return Err(Violation::unexpected("has lost its long-running program"));
        };
        let runner = Runner { pid, started: self.started(sandbox, pid).await? };
        if runner == sandbox.runner {
            self.attach(sandbox, u64::from(pid)).await?;
        }
        let mut files = BTreeMap::new();
        for name in self.names(sandbox).await? {
            let bytes = self.read(sandbox, &name).await?;
            files.insert(name, bytes.to_vec());
        }
        Ok(Answer { runner, files })
    }
}

fn file(name: &str) -> String {
    format!("/files?path={DIR}/{name}&username=user")
}

fn parsed(body: &Bytes) -> Result<Value, Violation> {
    serde_json::from_slice(body).map_err(|error| Violation::unexpected(format!("JSON: {error}")))
}

fn stdout(message: &Value) -> Vec<u8> {
    let text = message["event"]["data"]["stdout"].as_str().unwrap_or_default();
    STANDARD.decode(text).unwrap_or_default()
}

/// An answer that is read while it comes, on a connection of its own.
struct Stream {
    body: Incoming,
    left: BytesMut,
    standing: super::daemon::Standing,
    /// The connection ends with it.
    _sender: hyper::client::conn::http1::SendRequest<http_body_util::Full<Bytes>>,
}

impl Stream {
    /// Asks, and waits for the first message: the program runs.
    async fn open(caller: &Caller, ask: &Ask) -> Result<Self, Trouble> {
        let standing = caller.daemon.up().await?;
        let request = ask.request()?;
        let opened = async {
            let mut sender = connect(caller.daemon.access().address).await?;
            let response = sender.send_request(request).await?;
            anyhow::Ok((sender, response))
        };
        let (sender, response) = match Budget::within(ECHO).run("attach", opened).await {
            Ok(Ok(opened)) => opened,
            Ok(Err(error)) => return Err(cut(caller, standing, &format!("{error:#}")).await),
            Err(expired) => return Err(cut(caller, standing, &expired.to_string()).await),
        };
        let status = response.status();
        let body = response.into_body();
        let mut stream = Self { body, left: BytesMut::new(), standing, _sender: sender };
        let first = stream.next(caller).await?;
        if status == 200 && first["event"]["start"]["pid"].is_u64() {
            return Ok(stream);
        }
        Err(Violation::unexpected(format!("{}: {status} {first}", ask.path)).into())
    }

    async fn next(&mut self, caller: &Caller) -> Result<Value, Trouble> {
        loop {
            if let Some(message) = unframed(&mut self.left) {
                return Ok(message);
            }
            let frame = Budget::within(ECHO).run("frame", self.body.frame()).await;
            let why = match frame {
                Ok(Some(Ok(frame))) => {
                    self.left.extend(frame.into_data().unwrap_or_default());
                    continue;
                }
                Ok(Some(Err(error))) => error.to_string(),
                Ok(None) => format!("ends after {:?}", String::from_utf8_lossy(&self.left)),
                Err(expired) => expired.to_string(),
            };
            return Err(cut(caller, self.standing, &why).await);
        }
    }

    /// Reads until the program has said `word`. That the stream is kept alive is no answer.
    async fn until(&mut self, caller: &Caller, word: &str) -> Result<(), Trouble> {
        let (mut said, budget) = (Vec::new(), Budget::within(ECHO));
        loop {
            if budget.remaining().is_zero() {
                let why = format!("{word} was not said, but {:?}", String::from_utf8_lossy(&said));
                return Err(cut(caller, self.standing, &why).await);
            }
            let message = self.next(caller).await?;
            said.extend(stdout(&message));
            if String::from_utf8_lossy(&said).contains(word) {
                return Ok(());
            }
            if message["event"]["end"].is_object() {
                return Err(Violation::unexpected("the long-running program ended").into());
            }
        }
    }
}

async fn cut(caller: &Caller, standing: super::daemon::Standing, why: &str) -> Trouble {
    if caller.daemon.went(standing).await {
        return Trouble::Cut;
    }
    Violation::unexpected(format!("a stream broke: {why}; the daemon was not ended")).into()
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;
    use serde_json::json;

    use super::{framed, stdout, unframed};

    #[test]
    fn frames_are_read_as_they_come() {
        let messages = [json!({ "a": 1 }), json!({ "event": { "data": { "stdout": "aGk=" } } })];
        let bytes: Vec<u8> = messages.iter().flat_map(framed).collect();
        let mut left = BytesMut::new();
        let mut read = Vec::new();
        for byte in bytes {
            left.extend([byte]);
            read.extend(unframed(&mut left));
        }
        assert_eq!(read, messages);
        assert_eq!(stdout(&read[1]), b"hi");
        assert_eq!(stdout(&read[0]), b"");
    }
}
