//! What holds for plain requests and their answers whatever is sent: for tests, and for the fuzz
//! target.

use e2b_wire::host_name::ENVD_PORT;
use http::header::{
    CONNECTION, CONTENT_LENGTH, DATE, FORWARDED, HOST, TE, TRAILER, TRANSFER_ENCODING, UPGRADE,
};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode};

use super::MAX_HEADERS;
use super::answer::{self, Body};
use super::chunks::write_chunk;
use super::request::{self, Look, Plain};
use crate::Edge;
use crate::control_path::is_control_path;
use crate::headers::{for_sandbox, wanted_upgrade};
use crate::upstream::BUFFER_BYTES;

/// Was in the memory before.
const BEFORE: &[u8] = b"GET / HTTP/1.1\r\n";

/// Whether `bytes` begin with a plain request. Then the sandbox gets what the library would send it,
/// of all that the library would read; otherwise it gets nothing.
pub(crate) fn request(bytes: &[u8]) -> bool {
    let mut out = BEFORE.to_vec();
    let look = request::look(bytes, &mut out);
    let sent = out.strip_prefix(BEFORE);
    match look {
        Look::Other => {
            assert_eq!(sent, Some(&b""[..]));
            false
        }
        Look::More => {
            assert_eq!(sent, Some(&b""[..]));
            assert!(bytes.len() < BUFFER_BYTES);
            false
        }
        Look::Until(told) => {
            assert_eq!(sent, Some(&b""[..]));
            let all = read(bytes).and_then(|(asked, after)| {
                Some(bytes.len() - after.len() + length(asked.headers())?)
            });
            let all = all.unwrap_or_default();
            assert_eq!(told, all);
            assert!(bytes.len() < all && all <= BUFFER_BYTES, "{all} of {}", bytes.len());
            let mut whole = bytes.to_vec();
            whole.resize(all, b'\n');
            assert!(request(&whole), "with all of its body it is plain");
            true
        }
        Look::Plain(plain) => {
            passes_as_by_the_library(&plain, bytes, sent.unwrap_or_default());
            true
        }
    }
}

fn passes_as_by_the_library(plain: &Plain, bytes: &[u8], sent: &[u8]) {
    let both = read(bytes).zip(read(sent));
    assert!(both.is_some(), "{}", sent.escape_ascii());
    let Some(((asked, after), (got, body))) = both else { return };
    assert_eq!(Edge::target(&asked), Ok(Some(plain.target.clone())));
    assert_eq!(wanted_upgrade(&asked), None);
    assert!(plain.target.port != ENVD_PORT || !is_control_path(asked.uri().path()));
    let (mut wanted, ()) = asked.into_parts();
    for_sandbox(&mut wanted, None);
    let (got, ()) = got.into_parts();
    assert_eq!((&got.method, &got.uri), (&wanted.method, &wanted.uri));
    assert_eq!(got.headers, wanted.headers);

    assert_eq!(got.headers.get_all(HOST).iter().count(), 1);
    for between in [CONNECTION, FORWARDED, TE, TRAILER, TRANSFER_ENCODING, UPGRADE] {
        assert!(!got.headers.contains_key(&between), "{between}");
    }
    assert!(got.headers.get_all(CONTENT_LENGTH).iter().count() <= 1);
    let length = length(&got.headers).unwrap_or(0);
    assert_eq!(Some(body), after.get(..length), "the body, and no more");
    assert_eq!(plain.bytes, bytes.len() - after.len() + length);
    assert_eq!(plain.is_head, got.method == Method::HEAD);
    assert_eq!(plain.repeatable, got.method.is_idempotent() && length == 0);
}

/// A request as the library has it, and what comes after its head.
fn read(bytes: &[u8]) -> Option<(Request<()>, &[u8])> {
    let mut lines = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut head = httparse::Request::new(&mut lines);
    let after = bytes.get(head.parse(bytes).ok().filter(|seen| seen.is_complete())?.unwrap()..)?;
    let mut request = Request::new(());
    *request.method_mut() = Method::from_bytes(head.method?.as_bytes()).ok()?;
    *request.uri_mut() = head.path?.parse().ok()?;
    *request.headers_mut() = headers(head.headers)?;
    Some((request, after))
}

fn headers(lines: &[httparse::Header<'_>]) -> Option<HeaderMap> {
    let mut headers = HeaderMap::new();
    for line in lines {
        let name = HeaderName::from_bytes(line.name.as_bytes()).ok()?;
        headers.append(name, HeaderValue::from_bytes(line.value).ok()?);
    }
    Some(headers)
}

fn length(headers: &HeaderMap) -> Option<usize> {
    headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// What a client understands of an answer.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Got {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) data: Vec<u8>,
    /// Whether it has seen the end.
    pub(crate) whole: bool,
    /// Whether the connection to the sandbox is to be used again.
    pub(crate) stays: bool,
}

/// What a client gets of an answer that is sent in `pieces`, after which the sandbox closes its
/// connection in order. `None` when it is told that there is none.
///
/// However it is cut, it is one answer, with one end.
pub(crate) fn answer(pieces: &[&[u8]], to_head: bool, is_last: bool) -> Option<Got> {
    let mut sent = Sent::default();
    for piece in pieces {
        sent.take(piece, to_head, is_last)?;
    }
    let whole = sent.end();
    let Sent { body, came, out, stays, .. } = sent;
    let body = body?;

    let mut lines = [httparse::EMPTY_HEADER; MAX_HEADERS + 3];
    let mut head = httparse::Response::new(&mut lines);
    let parsed = head.parse(&out);
    assert!(matches!(parsed, Ok(httparse::Status::Complete(_))), "{}", out.escape_ascii());
    let after = out.get(parsed.ok()?.unwrap()..)?;
    let ends = out.len() - after.len();
    let line_ends = out.iter().take(ends).filter(|byte| **byte == b'\n').count();
    assert_eq!(line_ends, head.headers.len() + 2, "{}", out.escape_ascii());
    let status = StatusCode::from_u16(head.code?).ok()?;
    let headers = headers(head.headers)?;

    assert_eq!(headers.contains_key(CONNECTION), is_last);
    assert!(headers.get_all(CONNECTION).iter().all(|word| word == "close"));
    assert!(!headers.contains_key(UPGRADE) && !headers.contains_key(TE));
    let (lengths, codings) = (
        headers.get_all(CONTENT_LENGTH).iter().count(),
        headers.get_all(TRANSFER_ENCODING).iter().count(),
    );
    let bodiless = to_head || matches!(status.as_u16(), 204 | 304);
    assert!(lengths + codings <= 1, "{headers:?}");
    let (data, end) = match (bodiless, codings) {
        (true, _) => (Vec::new(), Some(0)),
        (false, 0) => {
            assert_eq!(lengths, 1, "a client must know where it ends: {headers:?}");
            let length = length(&headers)?;
            (after.to_vec(), (after.len() >= length).then_some(length))
        }
        (false, _) => {
            assert_eq!(headers.get(TRANSFER_ENCODING)?, "chunked");
            read_chunks(after)
        }
    };
    if let Body::Chunks(_) = body {
        let (wanted, end) = read_chunks(&came);
        assert_eq!((&data, whole), (&wanted, end.is_some()), "{}", came.escape_ascii());
        assert!(!whole || stays <= (end == Some(came.len())), "{}", came.escape_ascii());
    }
    assert_eq!(end, whole.then_some(after.len()), "{}", out.escape_ascii());
    assert!(!stays || !matches!(body, Body::UntilEnd));
    Some(Got { status, headers, data, whole, stays: stays && whole })
}

/// The same however an answer of `bytes` is cut: in one piece, in two, and in single bytes.
pub(crate) fn answer_in_pieces(bytes: &[u8], cut: usize, to_head: bool, is_last: bool) {
    let got = |pieces: &[&[u8]]| {
        let mut got = answer(pieces, to_head, is_last);
        // It may have become the next second.
        got.as_mut().map(|got| got.headers.remove(DATE));
        got
    };
    let (first, second) = bytes.split_at(cut.min(bytes.len()));
    assert_eq!(got(&[bytes]), got(&[first, second]));
    if bytes.len() < 512 {
        assert_eq!(got(&[bytes]), got(&bytes.chunks(1).collect::<Vec<_>>()));
    }
}

/// An answer on its way.
#[derive(Debug, Default)]
struct Sent {
    head: Vec<u8>,
    body: Option<Body>,
    /// What came after the head.
    came: Vec<u8>,
    out: Vec<u8>,
    stays: bool,
    /// The body makes no sense.
    broken: bool,
}

impl Sent {
    fn take(&mut self, piece: &[u8], to_head: bool, is_last: bool) -> Option<()> {
        if self.body.is_some() {
            self.pass(piece);
            return Some(());
        }
        self.head.extend_from_slice(piece);
        loop {
            match answer::look(&self.head, to_head, is_last, &mut self.out) {
                answer::Look::More => {
                    assert!(self.out.is_empty());
                    return Some(());
                }
                answer::Look::Interim(bytes) => drop(self.head.drain(..bytes)),
                answer::Look::Broken => {
                    assert!(self.out.is_empty());
                    return None;
                }
                answer::Look::Answer(answer) => {
                    self.body = Some(answer.body);
                    self.stays = answer.stays;
                    let rest = self.head.split_off(answer.head_bytes);
                    self.pass(&rest);
                    return Some(());
                }
            }
        }
    }

    fn pass(&mut self, bytes: &[u8]) {
        self.came.extend_from_slice(bytes);
        let ours = match &mut self.body {
            Some(Body::Left(left)) => {
                let here = usize::try_from(*left).unwrap_or(usize::MAX).min(bytes.len());
                *left -= here as u64;
                self.out.extend(bytes.iter().take(here));
                here
            }
            Some(Body::Chunks(_)) if self.broken => 0,
            Some(Body::Chunks(chunks)) => match chunks.pass(bytes, &mut self.out) {
                Ok(ours) => {
                    assert!(ours == bytes.len() || chunks.is_done());
                    ours
                }
                Err(_broken) => {
                    self.broken = true;
                    0
                }
            },
            Some(Body::UntilEnd) => {
                write_chunk(bytes, &mut self.out);
                bytes.len()
            }
            None => 0,
        };
        self.stays &= ours == bytes.len();
    }

    /// Whether the body is whole.
    fn end(&mut self) -> bool {
        match &self.body {
            Some(Body::Left(left)) => *left == 0,
            Some(Body::Chunks(chunks)) => chunks.is_done() && !self.broken,
            Some(Body::UntilEnd) => {
                self.out.extend_from_slice(b"0\r\n\r\n");
                true
            }
            None => false,
        }
    }
}

/// The data of a body in chunks, as far as it is there, and where the body ends. Written line by line
/// from RFC 9112, 7.1, and as strict as it is.
pub(crate) fn read_chunks(bytes: &[u8]) -> (Vec<u8>, Option<usize>) {
    let (mut data, mut rest) = (Vec::new(), bytes);
    let end = read_chunks_into(&mut data, &mut rest).map(|()| bytes.len() - rest.len());
    (data, end)
}

fn read_chunks_into(data: &mut Vec<u8>, rest: &mut &[u8]) -> Option<()> {
    loop {
        let line = read_line(rest)?;
        let digits = line.iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
        let (digits, beside) = line.split_at(digits);
        if digits.is_empty() || digits.len() > 16 {
            return None;
        }
        if !matches!(beside.trim_ascii_start(), [] | [b';', ..]) {
            return None;
        }
        let size = u64::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?;
        if size == 0 {
            while !read_line(rest)?.is_empty() {}
            return Some(());
        }
        let here = usize::try_from(size).unwrap_or(usize::MAX).min(rest.len());
        let (chunk, after) = rest.split_at(here);
        data.extend_from_slice(chunk);
        *rest = after.strip_prefix(b"\r\n")?;
    }
}

fn read_line<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let end = rest.iter().position(|byte| byte.is_ascii_control() && *byte != b'\t')?;
    let (line, after) = rest.split_at(end);
    *rest = after.strip_prefix(b"\r\n")?;
    Some(line)
}
