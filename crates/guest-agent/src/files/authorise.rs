//! Who may read or write a file: whoever shows the token, or an address signed with it.

use guest_wire::rest::TOKEN_HEADER;
use guest_wire::signature::{Operation, Signed};
use http::{HeaderMap, StatusCode};

use super::FilesQuery;
use crate::rest::RestError;
use crate::settings::Settings;

/// Checks a request at time `now`, in unix seconds. A wrong token is not rescued by a good
/// signature, and a signature is compared before its time is looked at.
///
/// # Errors
/// 401 with the first thing that is wrong.
pub(super) fn authorise(
    settings: &Settings,
    headers: &HeaderMap,
    query: &FilesQuery,
    operation: Operation,
    now: i64,
) -> Result<(), RestError> {
    let Some(token) = settings.token() else { return Ok(()) };
    let refuse = |message: &str| Err(RestError::new(StatusCode::UNAUTHORIZED, message));
    if let Some(shown) = headers.get(TOKEN_HEADER).filter(|shown| !shown.is_empty()) {
        if settings.is_token(shown.as_bytes()) {
            return Ok(());
        }
        return refuse("access token present in header but does not match");
    }
    let Some(signature) = &query.signature else {
        return refuse("missing signature query parameter");
    };
    let signed = Signed {
        path: query.path(),
        operation,
        username: query.username(),
        expiration: query.signature_expiration,
    };
    if !signed.is_signed_by(&token, signature) {
        return refuse("invalid signature");
    }
    if query.signature_expiration.is_some_and(|expiration| expiration < now) {
        return refuse("signature is already expired");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::Environment;
    use crate::settings::Change;

    const NOW: i64 = 1_700_000_000;

    fn secured() -> Settings {
        let settings = Settings::new(Environment::default());
        settings.apply(Change { token: Some("tok123".into()), ..Change::default() });
        settings
    }

    fn query(expiration: Option<i64>) -> FilesQuery {
        let signed = Signed { path: "/a", operation: Operation::Write, username: "", expiration };
        FilesQuery {
            path: Some("/a".into()),
            signature: Some(signed.signature("tok123")),
            signature_expiration: expiration,
            ..FilesQuery::default()
        }
    }

    fn told(headers: &HeaderMap, query: &FilesQuery, operation: Operation) -> Option<String> {
        authorise(&secured(), headers, query, operation, NOW).err().map(|error| error.message)
    }

    #[test]
    fn without_a_token_everything_is_open() {
        let open = Settings::new(Environment::default());
        let nothing = (HeaderMap::new(), FilesQuery::default());
        assert!(authorise(&open, &nothing.0, &nothing.1, Operation::Read, NOW).is_ok());
    }

    #[test]
    fn a_signature_counts_until_its_time_and_for_its_operation() {
        let none = HeaderMap::new();
        assert_eq!(told(&none, &query(None), Operation::Write), None);
        assert_eq!(told(&none, &query(Some(NOW)), Operation::Write), None);
        let expired = told(&none, &query(Some(NOW - 1)), Operation::Write);
        assert_eq!(expired.as_deref(), Some("signature is already expired"));
        let other = told(&none, &query(Some(NOW - 1)), Operation::Read);
        assert_eq!(other.as_deref(), Some("invalid signature"));
        let missing = told(&none, &FilesQuery::default(), Operation::Read);
        assert_eq!(missing.as_deref(), Some("missing signature query parameter"));
    }

    #[test]
    fn a_wrong_token_is_not_rescued_by_a_signature() {
        let headers = |token: &str| {
            HeaderMap::from_iter([(
                http::HeaderName::from_static(TOKEN_HEADER),
                token.parse().unwrap(),
            )])
        };
        let unsigned = FilesQuery::default();
        assert_eq!(told(&headers("tok123"), &unsigned, Operation::Read), None);
        let wrong = told(&headers("other"), &query(None), Operation::Write);
        assert_eq!(wrong.as_deref(), Some("access token present in header but does not match"));
        assert_eq!(told(&headers(""), &query(None), Operation::Write), None);
    }
}
