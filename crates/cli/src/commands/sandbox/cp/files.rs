//! The files of a sandbox, as its agent has them.

use bytes::Bytes;
use form_urlencoded::Serializer;
use futures::TryStreamExt as _;
use guest_wire::proto::filesystem::{
    EntryInfo, ListDirRequest, ListDirResponse, MakeDirRequest, MakeDirResponse, StatRequest,
    StatResponse,
};
use guest_wire::proto::process::process_event::Event;
use guest_wire::proto::process::{ProcessConfig, StartRequest};
use http::{Method, header};
use http_body_util::{BodyExt, Empty, StreamBody};
use hyper::body::{Frame, Incoming};
use lifecycle::Budget;
use tokio_util::io::ReaderStream;

use crate::agent::{ANSWER_LIMIT, Agent, AgentError, Line};

/// What is read and sent at once.
const CHUNK_BYTES: usize = 128 * 1024;
/// What the agent says of a file it has written.
const ANSWER_BYTES_MAX: usize = 64 * 1024;

/// Calls one after another on one connection.
#[derive(Debug)]
pub(super) struct Files {
    line: Line,
}

impl Files {
    pub(super) fn new(agent: &Agent) -> Self {
        Self { line: agent.line() }
    }

    /// What is there; `None` for nothing.
    ///
    /// # Errors
    /// See [`AgentError`]; so all below.
    pub(super) async fn stat(&mut self, path: &str) -> Result<Option<EntryInfo>, AgentError> {
        let request = StatRequest { path: path.to_owned(), ..StatRequest::default() };
        let found: Result<StatResponse, _> =
            self.line.call("filesystem.Filesystem/Stat", &request).await;
        match found {
            Ok(found) => Ok(found.entry.into_option()),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// What is in a directory, and not below.
    pub(super) async fn list(&mut self, path: &str) -> Result<Vec<EntryInfo>, AgentError> {
        let request =
            ListDirRequest { path: path.to_owned(), depth: 1, ..ListDirRequest::default() };
        let listed: ListDirResponse =
            self.line.call("filesystem.Filesystem/ListDir", &request).await?;
        Ok(listed.entries)
    }

    /// Makes a directory and those above; one that is there is as good.
    pub(super) async fn make_directory(&mut self, path: &str) -> Result<(), AgentError> {
        let request = MakeDirRequest { path: path.to_owned(), ..MakeDirRequest::default() };
        let made: Result<MakeDirResponse, _> =
            self.line.call("filesystem.Filesystem/MakeDir", &request).await;
        match made {
            Err(error) if !error.is_already_there() => Err(error),
            Ok(_) | Err(_) => Ok(()),
        }
    }

    /// The content of a file, as it comes.
    pub(super) async fn read(&mut self, path: &str) -> Result<Content, AgentError> {
        let agent = self.line.agent.clone();
        let request = agent
            .request(Method::GET, &address(&agent, path))
            .header(header::ACCEPT_ENCODING, "identity");
        let nothing = Empty::new().map_err(|never| match never {}).boxed_unsync();
        let response = agent.in_time(self.line.send(request, nothing)).await?;
        Ok(Content { agent, body: response.into_body() })
    }

    /// Writes a file with what `from` has, and makes the directories above. It goes on as long as
    /// the file does.
    pub(super) async fn write(
        &mut self,
        path: &str,
        from: tokio::fs::File,
    ) -> Result<(), AgentError> {
        let agent = &self.line.agent;
        let request = agent
            .request(Method::POST, &address(agent, path))
            .header(header::CONTENT_TYPE, "application/octet-stream");
        let content = ReaderStream::with_capacity(from, CHUNK_BYTES).map_ok(Frame::data);
        let body = BodyExt::boxed_unsync(StreamBody::new(content));
        let response = self.line.send(request, body).await?;
        let _what_was_written = self.line.whole(response, ANSWER_BYTES_MAX).await?;
        Ok(())
    }

    /// Lets everybody who may read these files run them, by a program inside; whether that worked.
    pub(super) async fn make_executable(&self, paths: &[String]) -> Result<bool, AgentError> {
        let words = ["+x", "--"].map(str::to_owned);
        let config = ProcessConfig {
            cmd: "chmod".to_owned(),
            args: words.into_iter().chain(paths.iter().cloned()).collect(),
            ..ProcessConfig::default()
        };
        let request =
            StartRequest { process: config.into(), stdin: Some(false), ..StartRequest::default() };
        let agent = &self.line.agent;
        let running = async {
            let (_pid, mut events) = agent.start(&request).await?;
            while let Some(event) = events.next().await? {
                if let Event::End(end) = event {
                    return Ok(end.exited && end.exit_code == 0);
                }
            }
            Ok(false)
        };
        agent.in_time(running).await
    }
}

/// Of the call for a file. The user of the header is for other calls.
fn address(agent: &Agent, path: &str) -> String {
    let mut query = Serializer::new(String::new());
    query.append_pair("path", path);
    if let Some(user) = &agent.user {
        query.append_pair("username", user);
    }
    format!("/files?{}", query.finish())
}

/// The content of a file.
#[derive(Debug)]
pub(super) struct Content {
    agent: Agent,
    body: Incoming,
}

impl Content {
    /// The next piece; `None` at the end of the file.
    ///
    /// # Errors
    /// There is more to come, and it does not.
    pub(super) async fn next(&mut self) -> Result<Option<Bytes>, AgentError> {
        loop {
            match Budget::within(ANSWER_LIMIT).run("content", self.body.frame()).await {
                Ok(Some(Ok(frame))) => {
                    if let Ok(data) = frame.into_data() {
                        return Ok(Some(data));
                    }
                }
                Ok(Some(Err(error))) => return Err(self.agent.broken(&observe::chain(&error))),
                Ok(None) => return Ok(None),
                Err(silent) => return Err(self.agent.broken(&silent)),
            }
        }
    }
}
