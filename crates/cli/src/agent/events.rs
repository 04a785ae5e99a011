//! What happens to a program, as it happens.

use std::time::Duration;

use buffa::Message as _;
use bytes::{Buf as _, BytesMut};
use guest_wire::proto::process::StartResponse;
use guest_wire::proto::process::process_event::Event;
use http::StatusCode;
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use lifecycle::Budget;

use super::{AgentError, Line};

/// Three signs of life were missed.
const SILENCE_LIMIT: Duration = Duration::from_secs(45);
/// The agent sends at most 32 KiB of output in one message.
const MESSAGE_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Flags and length.
const HEAD_BYTES: usize = 5;
const COMPRESSED: u8 = 1;
const END_OF_STREAM: u8 = 2;

/// The events of one program.
#[derive(Debug)]
pub(crate) struct Events {
    /// Closed with the stream.
    line: Line,
    body: Incoming,
    read: BytesMut,
}

impl Events {
    pub(super) fn new(line: Line, body: Incoming) -> Self {
        Self { line, body, read: BytesMut::new() }
    }

    /// The next one, signs of life left out; `None` when the agent has ended the stream.
    ///
    /// Cancel safety: yes.
    ///
    /// # Errors
    /// The stream broke or went silent, or the agent says why it ends.
    pub(crate) async fn next(&mut self) -> Result<Option<Event>, AgentError> {
        loop {
            let Some((flags, message)) = self.message().await? else { return Ok(None) };
            if flags & COMPRESSED != 0 {
                return Err(self.line.agent.foreign(&"a compressed message"));
            }
            if flags & END_OF_STREAM != 0 {
                return end_of_stream(&message).map_or(Ok(None), Err);
            }
            let response = StartResponse::decode_from_slice(&message)
                .map_err(|error| self.line.agent.foreign(&error))?;
            match response.event.into_option().and_then(|event| event.event) {
                Some(Event::Keepalive(_)) | None => {}
                Some(event) => return Ok(Some(event)),
            }
        }
    }

    async fn message(&mut self) -> Result<Option<(u8, BytesMut)>, AgentError> {
        loop {
            if let Some((flags, length)) = head(&self.read) {
                if length > MESSAGE_BYTES_MAX {
                    return Err(self.line.agent.foreign(&"a message without an end"));
                }
                if self.read.len() - HEAD_BYTES >= length {
                    self.read.advance(HEAD_BYTES);
                    return Ok(Some((flags, self.read.split_to(length))));
                }
            }
            let agent = &self.line.agent;
            match Budget::within(SILENCE_LIMIT).run("events", self.body.frame()).await {
                Ok(Some(Ok(frame))) => {
                    if let Some(data) = frame.data_ref() {
                        self.read.extend_from_slice(data);
                    }
                }
                Ok(Some(Err(error))) => return Err(agent.broken(&observe::chain(&error))),
                Ok(None) if self.read.is_empty() => return Ok(None),
                Ok(None) => return Err(agent.broken(&"in the middle of a message")),
                Err(silent) => return Err(agent.broken(&silent)),
            }
        }
    }
}

fn head(read: &[u8]) -> Option<(u8, usize)> {
    let (&flags, rest) = read.split_first()?;
    let length = u32::from_be_bytes(*rest.first_chunk()?);
    Some((flags, usize::try_from(length).unwrap_or(usize::MAX)))
}

/// Why it ended, if not because all was said.
fn end_of_stream(message: &[u8]) -> Option<AgentError> {
    let end: serde_json::Value = serde_json::from_slice(message).unwrap_or_default();
    let error = end.get("error")?;
    let text = |name: &str| error.get(name).and_then(|value| value.as_str()).map(str::to_owned);
    let message = text("message").unwrap_or_else(|| "it does not say why".to_owned());
    let code = text("code").or_else(|| Some("unknown".to_owned()));
    Some(AgentError::Refused { status: StatusCode::OK, code, message })
}

#[cfg(test)]
mod tests {
    use super::{end_of_stream, head};

    #[test]
    fn a_head_is_a_byte_and_a_length() {
        assert_eq!(head(&[2, 0, 0, 1]), None);
        assert_eq!(head(&[2, 0, 0, 1, 1]), Some((2, 257)));
        assert_eq!(head(&[0, 255, 255, 255, 255, 9]), Some((0, 0xffff_ffff)));
    }

    #[test]
    fn a_stream_ends_well_or_says_why_not() {
        assert!(end_of_stream(b"{}").is_none());
        let why = end_of_stream(br#"{"error":{"code":"invalid_argument","message":"no cwd"}}"#);
        assert_eq!(why.unwrap().to_string(), "no cwd");
    }
}
