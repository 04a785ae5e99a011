//! How a connection begins: which protocol it is, and whose name is asked for.
//!
//! Everything here is read from bytes that a sandbox chose. What cannot be understood is
//! [`Opening::Other`], which has no name and is never let through for one.

use model::{HostName, Scheme};

use crate::tls;

/// The most bytes that are looked at. A larger beginning has no name.
pub const OPENING_MAX: usize = 16 * 1024;
/// Header lines of a request that are looked at.
const HEADERS_MAX: usize = 128;
/// The longest method that is known, with the space behind it: `VERSION-CONTROL `, RFC 3253.
const METHOD_MAX: usize = 16;

/// What the first bytes of a connection are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Opening {
    /// A TLS handshake, with the name of the server that is asked for, if it is one.
    Tls(Option<HostName>),
    /// A request of HTTP/1, with the host that it names, if it names one.
    Http(Option<HostName>),
    Other,
}

impl Opening {
    /// Reads `bytes`, the beginning of a connection. `None`: more of it is needed to say.
    #[must_use]
    pub fn read(bytes: &[u8]) -> Option<Self> {
        let is_full = bytes.len() >= OPENING_MAX;
        let read = match bytes.first() {
            None => None,
            Some(&tls::HANDSHAKE) => tls::server_name(bytes).map(Self::Tls),
            Some(first) if first.is_ascii_uppercase() => http(bytes),
            Some(_) => Some(Self::Other),
        };
        read.or_else(|| is_full.then_some(Self::Other))
    }

    /// How requests on it are sent, if there are any.
    pub(crate) fn scheme(&self) -> Scheme {
        match self {
            Self::Tls(_) => Scheme::Https,
            Self::Http(_) | Self::Other => Scheme::Http,
        }
    }

    /// The name that is asked for.
    #[must_use]
    pub fn name(&self) -> Option<&HostName> {
        match self {
            Self::Tls(name) | Self::Http(name) => name.as_ref(),
            Self::Other => None,
        }
    }
}

fn http(bytes: &[u8]) -> Option<Opening> {
    let is_method = |byte: &u8| byte.is_ascii_uppercase() || *byte == b'-';
    match bytes.iter().position(|byte| !is_method(byte)) {
        Some(end) if bytes.get(end) == Some(&b' ') && end < METHOD_MAX => {}
        None if bytes.len() < METHOD_MAX => return None,
        _ => return Some(Opening::Other),
    }
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut request = httparse::Request::new(&mut headers);
    match request.parse(bytes) {
        Ok(httparse::Status::Complete(_)) => {
            let hosts = request.headers.iter().filter(|h| h.name.eq_ignore_ascii_case("host"));
            Some(Opening::Http(only(hosts.map(|header| header.value)).and_then(host)))
        }
        Ok(httparse::Status::Partial) => None,
        Err(_) => Some(Opening::Other),
    }
}

/// The one value there is: with several, every server reads another.
fn only<T>(mut values: impl Iterator<Item = T>) -> Option<T> {
    let value = values.next()?;
    values.next().is_none().then_some(value)
}

/// The name in the value of a `Host` header, without its port (RFC 9110, 7.2).
pub(crate) fn host(value: &[u8]) -> Option<HostName> {
    let value = std::str::from_utf8(value).ok()?.trim_matches([' ', '\t']);
    let name = match value.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        Some(_) => return None,
        None => value,
    };
    name.parse().ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{Just, Strategy, any, prop, prop_assert, prop_assert_eq, proptest};
    use proptest::prop_oneof;

    use super::{OPENING_MAX, Opening, host};
    use crate::tls::testing::client_hello;

    fn read(text: &str) -> Option<Opening> {
        Opening::read(text.as_bytes())
    }

    fn http(name: &str) -> Option<Opening> {
        Some(Opening::Http(Some(name.parse().unwrap())))
    }

    #[test]
    fn a_request_is_known_by_its_host() {
        assert_eq!(read("GET / HTTP/1.1\r\nHost: a.com\r\n\r\n"), http("a.com"));
        assert_eq!(read("GET / HTTP/1.1\nhOST:\tA.com.:8080 \n\nx"), http("a.com"));
        for nameless in [
            "GET / HTTP/1.0\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: 1.2.3.4\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a.com\r\nHost: b.com\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a.com\r\nhost: a.com\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a.com@b.com\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a.com, b.com\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: [::1]:80\r\n\r\n",
        ] {
            assert_eq!(read(nameless), Some(Opening::Http(None)), "{nameless:?}");
        }
    }

    #[test]
    fn what_is_no_request_is_known_before_it_is_long() {
        for other in [
            "SSH-2.0-x\r\n",
            "get / HTTP/1.1\r\n",
            "\0\0",
            "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
            "AVERYLONGMETHODTHATISNONE",
            "GET  / HTTP/1.1\r\nHost: a.com\r\n\r\n",
            "GET / HTTP/1.1\r\nHost : a.com\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a.com\r\n Host: b.com\r\n\r\n",
            "GET / HTTP/9.1\r\n\r\n",
        ] {
            assert_eq!(read(other), Some(Opening::Other), "{other:?}");
        }
        for more in ["", "G", "GET", "GET /", "GET / HTTP/1.1\r\nHost: a.com\r\n"] {
            assert_eq!(read(more), None, "{more:?}");
        }
        let long = format!("GET /{}", "x".repeat(OPENING_MAX));
        assert_eq!(read(&long), Some(Opening::Other));
    }

    proptest! {
        /// Whatever a sandbox sends: an answer, the same for every way to cut it, and none that is
        /// taken back.
        #[test]
        fn any_bytes_are_read_to_one_answer(bytes in beginnings()) {
            let whole = Opening::read(&bytes);
            prop_assert!(whole.is_some() || bytes.len() < OPENING_MAX);
            let answers = (0..=bytes.len()).map(|len| Opening::read(&bytes[..len]));
            let first = answers.flatten().next();
            prop_assert_eq!(first, whole, "a longer beginning is another");
        }

        #[test]
        fn no_value_of_a_host_makes_a_name_that_is_not_in_it(value in prop::collection::vec(any::<u8>(), 0..80)) {
            if let Some(name) = host(&value) {
                let text = String::from_utf8(value).unwrap().to_ascii_lowercase();
                prop_assert!(text.contains(name.as_str()));
            }
        }
    }

    /// Random bytes would hardly ever get past the first.
    fn beginnings() -> impl Strategy<Value = Vec<u8>> {
        let noise = || prop::collection::vec(any::<u8>(), 0..200);
        let hello = prop::collection::vec(any::<u8>(), 0..300).prop_map(|tail| {
            let mut bytes = client_hello(Some("a.example.com"), 0);
            bytes.extend(tail);
            bytes
        });
        let damaged = (0_usize..512, any::<u8>(), prop_oneof![Just(0_usize), Just(40)]).prop_map(
            |(at, byte, cut)| {
                let mut bytes = client_hello(Some("a.example.com"), cut);
                let at = at % bytes.len();
                bytes[at] = byte;
                bytes
            },
        );
        let request = "(GET|POST|PRI|X-Y) [ -~]{0,20} HTTP/1\\.[01]\r?\n([Hh]ost:[ -~]{0,20}\r?\n){0,2}\r?\n?";
        let request = request.prop_map(String::into_bytes);
        prop_oneof![noise(), hello, damaged, request]
    }
}
