//! Which requests are plain, and what the sandbox gets of them.

use std::mem::MaybeUninit;

use e2b_wire::host_name::{ENVD_PORT, Target};
use httparse::{Header, ParserConfig, Status};

use super::MAX_HEADERS;
use super::head::{is, length, write_header};
use crate::control_path::is_control_path;
use crate::upstream::BUFFER_BYTES;

/// What is at the start of what a client has sent.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Look {
    /// A head that is not all here.
    More,
    /// A plain request of so many bytes, whose body is not all here.
    Until(usize),
    /// A plain request, all of it.
    Plain(Plain),
    /// Something else.
    Other,
}

/// A request that only has to be passed on.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Plain {
    pub(super) target: Target,
    /// Its bytes, of what the client has sent.
    pub(super) bytes: usize,
    /// Whether sending all of it twice does no more than sending it once.
    pub(super) repeatable: bool,
    /// Whether its answer has no body whatever its head says.
    pub(super) is_head: bool,
}

/// What the headers say of a request.
#[derive(Debug, Default)]
struct Noted<'a> {
    host: Option<&'a [u8]>,
    sandbox: Option<&'a [u8]>,
    port: Option<&'a [u8]>,
    length: Option<usize>,
}

/// Looks at what a client has sent from the start of a request on. When that is a plain one, what the
/// sandbox gets is appended to `out`: with the same headers but those between neighbours and those
/// that only the edge may say, and all of the body.
pub(super) fn look(bytes: &[u8], out: &mut Vec<u8>) -> Look {
    let before = out.len();
    let look = try_look(bytes, out).unwrap_or(Look::Other);
    if !matches!(look, Look::Plain(_)) {
        out.truncate(before);
    }
    look
}

/// `None` for what is not plain, or not legal: that is told by who knows all of HTTP.
fn try_look(bytes: &[u8], out: &mut Vec<u8>) -> Option<Look> {
    let mut headers = [const { MaybeUninit::uninit() }; MAX_HEADERS];
    let mut request = httparse::Request::new(&mut []);
    let parsed = ParserConfig::default().parse_request_with_uninit_headers(
        &mut request,
        bytes,
        &mut headers,
    );
    let head = match parsed.ok()? {
        Status::Complete(head) => head,
        Status::Partial => return (bytes.len() < BUFFER_BYTES).then_some(Look::More),
    };
    let (Some(1), Some(method), Some(uri)) = (request.version, request.method, request.path) else {
        return None;
    };
    if method == "CONNECT" || !is_plain_path(uri) {
        return None;
    }
    for part in [method, " ", uri, " HTTP/1.1\r\n"] {
        out.extend_from_slice(part.as_bytes());
    }
    let mut noted = Noted::default();
    for header in &*request.headers {
        if noted.note(header)? {
            write_header(header, out);
        }
    }
    out.extend_from_slice(b"\r\n");
    let target = noted.target()?;
    if target.port == ENVD_PORT && is_control_path(path_of(uri)) {
        return None;
    }
    let length = noted.length.unwrap_or(0);
    let all = head.checked_add(length).filter(|&all| all <= BUFFER_BYTES)?;
    let Some(body) = bytes.get(head..all) else { return Some(Look::Until(all)) };
    out.extend_from_slice(body);
    let safe = matches!(method, "GET" | "HEAD" | "OPTIONS" | "TRACE" | "PUT" | "DELETE");
    Some(Look::Plain(Plain {
        target,
        bytes: all,
        repeatable: safe && length == 0,
        is_head: method == "HEAD",
    }))
}

impl<'a> Noted<'a> {
    /// Whether the sandbox gets this header; `None` when it makes the request one that is not plain.
    fn note(&mut self, header: &Header<'a>) -> Option<bool> {
        let Header { name, value } = *header;
        // Most headers begin with another letter than all of these.
        match name.as_bytes().first()?.to_ascii_lowercase() {
            b'c' if is(name, "connection") => {
                return value.eq_ignore_ascii_case(b"keep-alive").then_some(false);
            }
            b'c' if is(name, "content-length") => {
                return self.length.replace(length(value)?).is_none().then_some(true);
            }
            b'e' if is(name, "e2b-sandbox-id") => {
                return self.sandbox.replace(value).is_none().then_some(true);
            }
            b'e' if is(name, "e2b-sandbox-port") => {
                return self.port.replace(value).is_none().then_some(true);
            }
            b'e' if is(name, "expect") => return None,
            b'f' if is(name, "forwarded") => return Some(false),
            b'h' if is(name, "host") => {
                return self.host.replace(value).is_none().then_some(true);
            }
            b'h' if is(name, "http2-settings") => return None,
            b'k' if is(name, "keep-alive") => return Some(false),
            b'p' if name.get(..6).is_some_and(|start| is(start, "proxy-")) => return None,
            b't' if is(name, "te") || is(name, "trailer") || is(name, "transfer-encoding") => {
                return None;
            }
            b'u' if is(name, "upgrade") => return None,
            b'x' if name.get(..12).is_some_and(|start| is(start, "x-forwarded-")) => {
                return Some(false);
            }
            _ => {}
        }
        Some(true)
    }

    /// For which sandbox it is; `None` as well for a request that does not say so properly.
    fn target(&self) -> Option<Target> {
        let host = self.host?;
        let (sandbox, port) = (self.sandbox.unwrap_or_default(), self.port.unwrap_or_default());
        let named = Target::from_values(sandbox, port).ok()?;
        // A name that is not text is no sandbox's.
        let name = std::str::from_utf8(host).ok().filter(|name| name.is_ascii());
        named.or_else(|| Target::from_host(name?).ok()?)
    }
}

/// Whether every library sees the same in `uri`: an absolute path of the characters that RFC 3986 has
/// for one, with a query or not.
fn is_plain_path(uri: &str) -> bool {
    uri.starts_with('/') && uri.bytes().all(is_of_path)
}

fn path_of(uri: &str) -> &str {
    uri.split_once('?').map_or(uri, |(path, _query)| path)
}

/// `pchar`, `%`, `/` and `?` (RFC 3986, 3.3 and 3.4).
const fn is_of_path(byte: u8) -> bool {
    byte.is_ascii_alphanumeric()
        || matches!(
            byte,
            b'-' | b'.'
                | b'_'
                | b'~'
                | b'!'
                | b'$'
                | b'&'
                | b'\''
                | b'('
                | b')'
                | b'*'
                | b'+'
                | b','
                | b';'
                | b'='
                | b':'
                | b'@'
                | b'/'
                | b'?'
                | b'%'
        )
}
