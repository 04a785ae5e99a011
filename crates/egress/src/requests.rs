//! What is done to one request, in whichever protocol it came, and how it is answered if it does not
//! go on.

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HOST, HeaderName, HeaderValue};
use http::{Method, Request, Response};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full};
use model::{Egress, HostName, Scheme};

use crate::Refusal;
use crate::opening::host;

pub(crate) type Body = BoxBody<Bytes, hyper::Error>;

/// Where a request says that it is to go, as it is written.
struct Hosts<'a> {
    header: Option<&'a [u8]>,
    /// In the first line of HTTP/1, and in HTTP/2 of its own.
    authority: Option<&'a [u8]>,
}

impl<'a> Hosts<'a> {
    fn of<B>(request: &'a Request<B>) -> Result<Self, Refusal> {
        if request.method() == Method::CONNECT {
            return Err(Refusal::Request("CONNECT is for proxies, and this is none"));
        }
        let mut hosts = request.headers().get_all(HOST).iter();
        let header = hosts.next().map(HeaderValue::as_bytes);
        if hosts.next().is_some() {
            return Err(Refusal::Request("the request has more than one Host header"));
        }
        let authority = request.uri().authority().map(|authority| authority.as_str().as_bytes());
        Ok(Self { header, authority })
    }
}

/// The host a request is for. There may be one only, wherever it is written.
pub(crate) fn named<B>(request: &Request<B>) -> Result<Option<HostName>, Refusal> {
    let hosts = Hosts::of(request)?;
    let in_header = hosts.header.and_then(host);
    match hosts.authority {
        None => Ok(in_header),
        Some(authority) if host(authority) == in_header => Ok(in_header),
        Some(_) => Err(Refusal::Request("the request names another host in its first line")),
    }
}

/// Checks that a request is for `name`, wherever it says so. One that says nothing is for the server
/// that its connection is with.
pub(crate) fn check_is_for<B>(request: &Request<B>, name: &HostName) -> Result<(), Refusal> {
    let hosts = Hosts::of(request)?;
    let mut all = hosts.header.into_iter().chain(hosts.authority);
    if all.all(|told| host(told).as_ref() == Some(name)) {
        Ok(())
    } else {
        Err(Refusal::Misdirected(name.clone()))
    }
}

/// Puts in what the rules have for requests to `name`.
pub(crate) fn set_headers<B>(
    egress: &Egress,
    scheme: Scheme,
    name: &HostName,
    request: &mut Request<B>,
) -> Result<(), Refusal> {
    let wrong = |_error| Refusal::Request("a header of the network rules cannot be sent");
    let headers = egress.headers_for(scheme, name).into_iter().flat_map(|rule| &rule.headers);
    for (name, value) in headers {
        let name = HeaderName::from_bytes(name.as_bytes()).map_err(|_bad| wrong(()))?;
        let mut value = HeaderValue::from_str(value.expose()).map_err(|_bad| wrong(()))?;
        value.set_sensitive(true);
        drop(request.headers_mut().insert(name, value));
    }
    Ok(())
}

pub(crate) fn broken(error: &hyper::Error) -> Refusal {
    tracing::debug!(error = %observe::chain(error), "a request to the outside has failed");
    Refusal::Dial("the server has ended the connection before it answered".into())
}

pub(crate) fn refused(refusal: &Refusal) -> Response<Body> {
    let text = Full::new(Bytes::from(format!("{refusal}\n")));
    let mut answer = Response::new(text.map_err(|never| match never {}).boxed());
    *answer.status_mut() = refusal.status();
    let plain = HeaderValue::from_static("text/plain; charset=utf-8");
    drop(answer.headers_mut().insert(CONTENT_TYPE, plain));
    answer
}

#[cfg(test)]
mod tests {
    use http::Request;
    use model::HostName;

    use super::check_is_for;
    use crate::Refusal;

    #[test]
    fn a_request_is_for_its_connections_server_wherever_it_says_so() {
        let name: HostName = "a.com".parse().unwrap();
        let request = |uri: &str, hosts: &[&str]| {
            let mut request = Request::get(uri);
            for host in hosts {
                request = request.header("host", *host);
            }
            request.body(()).unwrap()
        };
        for (uri, hosts) in [
            ("/", &["a.com"][..]),
            ("/", &["A.com:8443"]),
            ("/", &[]),
            ("https://a.com/", &[]),
            ("https://a.com:443/", &["a.com"]),
        ] {
            assert_eq!(check_is_for(&request(uri, hosts), &name), Ok(()), "{uri} {hosts:?}");
        }
        for (uri, hosts) in [
            ("/", &["b.com"][..]),
            ("/", &["1.2.3.4"]),
            ("/", &[""]),
            ("/", &["b.a.com"]),
            ("https://b.com/", &["a.com"]),
            ("https://a.com/", &["b.com"]),
            ("https://a.com@b.com/", &[]),
        ] {
            let refused = check_is_for(&request(uri, hosts), &name);
            assert_eq!(refused, Err(Refusal::Misdirected(name.clone())), "{uri} {hosts:?}");
        }
        let twice = check_is_for(&request("/", &["a.com", "a.com"]), &name);
        assert!(matches!(twice, Err(Refusal::Request(_))), "{twice:?}");
    }
}
