//! What a client gets of the head of an answer, and where its body ends (RFC 9112, 6.3).

use std::cell::RefCell;
use std::mem::MaybeUninit;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use e2b_wire::proxy_error::{ErrorForm, ProxyError};
use httparse::{Header, ParserConfig, Status};

use super::MAX_HEADERS;
use super::chunks::Chunks;
use super::head::{is, length, tokens, write_header};

/// What is at the start of what a sandbox has sent.
#[derive(Debug)]
pub(super) enum Look {
    /// A head that is not all here.
    More,
    /// So many bytes of an answer that is not the last one, and is not passed on.
    Interim(usize),
    Answer(Answer),
    /// No answer, or one to what was not asked.
    Broken,
}

#[derive(Debug)]
pub(super) struct Answer {
    /// Of what the sandbox has sent.
    pub(super) head_bytes: usize,
    pub(super) body: Body,
    /// Whether the connection to the sandbox can be used again after it.
    pub(super) stays: bool,
}

/// Where a body ends.
#[derive(Debug)]
pub(super) enum Body {
    /// After so many bytes.
    Left(u64),
    Chunks(Chunks),
    /// With the connection; the client gets it in chunks, so that it knows a whole one.
    UntilEnd,
}

/// What the headers say of an answer.
#[derive(Debug, Default)]
struct Noted<'a> {
    length: Option<u64>,
    chunked: bool,
    /// The values of `Connection`.
    connection: Vec<&'a [u8]>,
    dated: bool,
}

/// Looks at what a sandbox has sent from the start of an answer on. When its head is complete, what
/// the client gets is appended to `out`. `to_head`: the request was one that gets no body. `is_last`:
/// the client's connection ends after it.
pub(super) fn look(bytes: &[u8], to_head: bool, is_last: bool, out: &mut Vec<u8>) -> Look {
    let mut headers = [const { MaybeUninit::uninit() }; MAX_HEADERS];
    let mut response = httparse::Response::new(&mut []);
    let parsed = ParserConfig::default().parse_response_with_uninit_headers(
        &mut response,
        bytes,
        &mut headers,
    );
    let head_bytes = match parsed {
        Ok(Status::Complete(head_bytes)) => head_bytes,
        Ok(Status::Partial) => return Look::More,
        Err(_) => return Look::Broken,
    };
    let (Some(version), Some(code)) = (response.version, response.code) else {
        return Look::Broken;
    };
    match code {
        // Nobody asked to leave HTTP.
        101 | 0..100 | 1000.. => return Look::Broken,
        100..200 => return Look::Interim(head_bytes),
        _ => {}
    }
    let Some(noted) = Noted::of(response.headers) else { return Look::Broken };
    // HTTP/1.0 has no chunks: whoever sends them there is not understood alike by all (RFC 9112, 6.1).
    if noted.chunked && version == 0 {
        return Look::Broken;
    }
    let bodiless = to_head || matches!(code, 204 | 304);
    let body = match (bodiless, noted.chunked, noted.length) {
        (true, ..) => Body::Left(0),
        (false, true, _) => Body::Chunks(Chunks::new()),
        (false, false, Some(length)) => Body::Left(length),
        (false, false, None) => Body::UntilEnd,
    };
    let stays = noted.stays(version) && !matches!(body, Body::UntilEnd);
    let reason = response.reason.unwrap_or_default();
    out.extend_from_slice(b"HTTP/1.1 ");
    out.extend_from_slice(&digits(code));
    out.push(b' ');
    out.extend_from_slice(reason.as_bytes());
    out.extend_from_slice(b"\r\n");
    for header in response.headers.iter().filter(|header| noted.is_for_client(header)) {
        write_header(header, out);
    }
    // Chunks go before a length that is there as well.
    match (&body, noted.length) {
        (Body::Chunks(_) | Body::UntilEnd, _) => {
            out.extend_from_slice(b"Transfer-Encoding: chunked\r\n");
        }
        // Such an answer must not have one (RFC 9110, 8.6).
        (Body::Left(_), Some(length)) if code != 204 && !noted.chunked => {
            out.extend_from_slice(b"Content-Length: ");
            out.extend_from_slice(length.to_string().as_bytes());
            out.extend_from_slice(b"\r\n");
        }
        (Body::Left(_), _) => {}
    }
    if !noted.dated {
        write_date(out);
    }
    if is_last {
        out.extend_from_slice(b"Connection: close\r\n");
    }
    out.extend_from_slice(b"\r\n");
    Look::Answer(Answer { head_bytes, body, stays })
}

impl<'a> Noted<'a> {
    /// `None` when the headers do not say for sure where the answer ends.
    fn of(headers: &[Header<'a>]) -> Option<Self> {
        let mut noted = Self::default();
        for Header { name, value } in headers {
            match name.as_bytes().first()?.to_ascii_lowercase() {
                b'c' if is(name, "content-length") => {
                    let length = length(value)?;
                    if noted.length.replace(length).is_some_and(|other| other != length) {
                        return None;
                    }
                }
                b'c' if is(name, "connection") => noted.connection.push(value),
                b'd' if is(name, "date") => noted.dated = true,
                b't' if is(name, "transfer-encoding") => {
                    if noted.chunked || !value.eq_ignore_ascii_case(b"chunked") {
                        return None;
                    }
                    noted.chunked = true;
                }
                _ => {}
            }
        }
        Some(noted)
    }

    fn stays(&self, version: u8) -> bool {
        let says =
            |word: &str| self.named().any(|token| token.eq_ignore_ascii_case(word.as_bytes()));
        if version == 0 { says("keep-alive") && !says("close") } else { !says("close") }
    }

    /// What `Connection` names.
    fn named(&self) -> impl Iterator<Item = &'a [u8]> {
        self.connection.iter().flat_map(|value| tokens(value))
    }

    /// Whether a header is for the client, and not between the edge and the sandbox. Where the body
    /// ends is said anew.
    fn is_for_client(&self, header: &Header<'_>) -> bool {
        let name = header.name;
        let Some(first) = name.as_bytes().first() else { return false };
        let between = match first.to_ascii_lowercase() {
            b'c' => is(name, "connection") || is(name, "content-length"),
            b'h' => is(name, "http2-settings"),
            b'k' => is(name, "keep-alive"),
            b'p' => {
                is(name, "proxy-authenticate")
                    || is(name, "proxy-authorization")
                    || is(name, "proxy-connection")
            }
            b't' => is(name, "te") || is(name, "transfer-encoding"),
            b'u' => is(name, "upgrade"),
            _ => false,
        };
        !between && !self.named().any(|token| token.eq_ignore_ascii_case(name.as_bytes()))
    }
}

/// Appends what the edge itself answers.
pub(super) fn write_refusal(
    error: &ProxyError<'_>,
    form: ErrorForm,
    to_head: bool,
    is_last: bool,
    out: &mut Vec<u8>,
) {
    let (status, body) = (error.status(), error.body(form));
    let reason = status.canonical_reason().unwrap_or_default();
    let mut line = |parts: [&[u8]; 3]| {
        parts.into_iter().chain([b"\r\n".as_slice()]).for_each(|part| out.extend_from_slice(part));
    };
    line([b"HTTP/1.1 ", format!("{} ", status.as_u16()).as_bytes(), reason.as_bytes()]);
    line([b"Content-Type", b": ", form.content_type().as_bytes()]);
    if let Some(after) = error.retry_after() {
        line([b"Retry-After", b": ", after.as_secs().to_string().as_bytes()]);
    }
    line([b"Content-Length", b": ", body.len().to_string().as_bytes()]);
    if is_last {
        line([b"Connection", b": ", b"close"]);
    }
    write_date(out);
    out.extend_from_slice(b"\r\n");
    if !to_head {
        out.extend_from_slice(body.as_bytes());
    }
}

/// A status has three of them.
fn digits(code: u16) -> [u8; 3] {
    let digit = |value: u16| b'0' + u8::try_from(value % 10).unwrap_or_default();
    [digit(code / 100), digit(code / 10), digit(code)]
}

/// A proxy says when an answer came that does not say so itself (RFC 9110, 6.6.1).
fn write_date(out: &mut Vec<u8>) {
    thread_local! {
        /// A second, and its text.
        static NOW: RefCell<(Duration, String)> = const { RefCell::new((Duration::MAX, String::new())) };
    }
    let now = SystemTime::now();
    let second = Duration::from_secs(now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs());
    NOW.with_borrow_mut(|(known, text)| {
        if *known != second {
            (*known, *text) = (second, httpdate::fmt_http_date(now));
        }
        out.extend_from_slice(b"Date: ");
        out.extend_from_slice(text.as_bytes());
        out.extend_from_slice(b"\r\n");
    });
}
