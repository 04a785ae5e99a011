//! Addresses of files that are signed and name no sandbox.
//!
//! Where sandboxes have no host names of their own, an SDK that is told one address for all of them
//! hands out `http://ADDRESS/files?path=...&signature=...`, and whoever fetches that sends no routing
//! header. But the signature was made with the token of one guest agent, and so it says which.

use std::borrow::Cow;

use form_urlencoded::parse;
use guest_wire::signature::{Operation, Prepared, Signed};
use http::{Method, Request};

const PATH: &str = "/files";

/// What the signature of a request may have been made of.
#[derive(Debug)]
pub(crate) struct SignedRequest<'a> {
    signature: Cow<'a, str>,
    /// One for each operation the request can be for.
    prepared: Vec<Prepared>,
}

impl<'a> SignedRequest<'a> {
    /// `None` when `request` is not for a file, or is not signed.
    pub(crate) fn of<B>(request: &'a Request<B>) -> Option<Self> {
        let operations: &[Operation] = match *request.method() {
            Method::GET => &[Operation::Read],
            Method::POST => &[Operation::Write],
            // A browser asks before it sends; what it is going to send is in a header.
            Method::OPTIONS => &[Operation::Read, Operation::Write],
            _ => return None,
        };
        if request.uri().path() != PATH {
            return None;
        }
        let query = Query::parse(request.uri().query()?);
        let signature = query.signature.filter(|signature| !signature.is_empty())?;
        let of = |operation: &Operation| {
            let signed = Signed {
                path: query.path.as_deref().unwrap_or_default(),
                operation: *operation,
                username: query.username.as_deref().unwrap_or_default(),
                expiration: query.expiration,
            };
            signed.prepare()
        };
        Some(Self { prepared: operations.iter().map(of).collect(), signature })
    }

    /// Whether `token` is the one it was signed with.
    pub(crate) fn is_signed_by(&self, token: &str) -> bool {
        self.prepared.iter().any(|prepared| prepared.is_signed_by(token, &self.signature))
    }
}

/// The parameters that matter. Of several with one name the first counts; the guest agent, which
/// checks everything again, takes no such request.
#[derive(Default)]
struct Query<'a> {
    path: Option<Cow<'a, str>>,
    username: Option<Cow<'a, str>>,
    signature: Option<Cow<'a, str>>,
    expiration: Option<i64>,
}

impl<'a> Query<'a> {
    fn parse(text: &'a str) -> Self {
        let mut query = Self::default();
        for (name, value) in parse(text.as_bytes()) {
            match &*name {
                "path" => drop(query.path.get_or_insert(value)),
                "username" => drop(query.username.get_or_insert(value)),
                "signature" => drop(query.signature.get_or_insert(value)),
                "signature_expiration" => {
                    query.expiration = query.expiration.or_else(|| value.parse().ok())
                }
                _ => {}
            }
        }
        query
    }
}

#[cfg(test)]
mod tests {
    use http::{Method, Request};

    use super::SignedRequest;

    // Vectors computed with openssl, as those of `guest_wire::signature`.
    const READ: &str = "path=%2Fhome%2Fuser%2Fa.txt&username=user\
        &signature=v1_HB2bgZ%2BRgifWQVkD4WDT8wNBFTVrggZWSRD5EqI0H%2F0";
    const WRITE: &str = "path=/home/user/a.txt&signature_expiration=1700000000\
        &signature=v1_js9/4f5ea8GZ42Fpws%2BLDWeYh0p1HcmG8oA/zBD7lQ4";

    fn signed_by(method: Method, uri: &str, token: &str) -> Option<bool> {
        let request = Request::builder().method(method).uri(uri).body(()).unwrap();
        SignedRequest::of(&request).map(|signed| signed.is_signed_by(token))
    }

    #[test]
    fn a_signature_says_whose_token_made_it() {
        for (method, query) in [(Method::GET, READ), (Method::POST, WRITE)] {
            let uri = format!("/files?{query}");
            assert_eq!(signed_by(method.clone(), &uri, "tok123"), Some(true));
            assert_eq!(signed_by(method.clone(), &uri, "tok124"), Some(false));
            assert_eq!(signed_by(Method::OPTIONS, &uri, "tok123"), Some(true));
            let other = if method == Method::GET { Method::POST } else { Method::GET };
            assert_eq!(signed_by(other, &uri, "tok123"), Some(false), "another operation");
            let moved = uri.replace("a.txt", "b.txt");
            assert_eq!(signed_by(method, &moved, "tok123"), Some(false), "another file");
        }
    }

    #[test]
    fn what_is_not_a_signed_file_is_left_to_the_api() {
        for uri in ["/files", "/files?path=a", "/files?signature=", "/", "/files/x?signature=v1_a"]
        {
            assert_eq!(signed_by(Method::GET, uri, "tok123"), None, "{uri}");
        }
        assert_eq!(signed_by(Method::DELETE, &format!("/files?{READ}"), "tok123"), None);
    }
}
