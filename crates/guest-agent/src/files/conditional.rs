//! Requests that depend on whether a file has changed. Files have a time and no entity tag.

use http::HeaderMap;
use http::header::{
    HeaderName, IF_MATCH, IF_MODIFIED_SINCE, IF_NONE_MATCH, IF_RANGE, IF_UNMODIFIED_SINCE,
};
use jiff::Timestamp;
use jiff::fmt::rfc2822;

/// What a request's conditions come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    Send {
        /// Whether a `Range` header still holds.
        may_be_part: bool,
    },
    NotModified,
    PreconditionFailed,
}

/// The time of a file as HTTP writes it; `None` if it is out of what HTTP can write.
pub(super) fn http_date(seconds: i64) -> Option<String> {
    let at = Timestamp::from_second(seconds).ok()?;
    rfc2822::DateTimePrinter::new().timestamp_to_rfc9110_string(&at).ok()
}

/// Weighs the conditions in the order of RFC 9110, section 13.2.2, for a file last modified at
/// `modified`, in unix seconds.
pub(super) fn weigh(headers: &HeaderMap, modified: i64) -> Outcome {
    let text = |name: HeaderName| headers.get(name).and_then(|value| value.to_str().ok());
    let names_any = |list: &str| list.split(',').any(|tag| tag.trim() == "*");
    let matches = match text(IF_MATCH) {
        Some(list) => names_any(list),
        None => {
            text(IF_UNMODIFIED_SINCE).and_then(parse_date).is_none_or(|since| modified <= since)
        }
    };
    if !matches {
        return Outcome::PreconditionFailed;
    }
    let unchanged = match text(IF_NONE_MATCH) {
        Some(list) => names_any(list),
        None => text(IF_MODIFIED_SINCE).and_then(parse_date).is_some_and(|since| modified <= since),
    };
    if unchanged {
        return Outcome::NotModified;
    }
    let may_be_part =
        text(IF_RANGE).is_none_or(|since| parse_date(since).is_some_and(|at| at == modified));
    Outcome::Send { may_be_part }
}

fn parse_date(text: &str) -> Option<i64> {
    let parsed = rfc2822::DateTimeParser::new().parse_timestamp(text.trim());
    parsed.ok().map(Timestamp::as_second)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MODIFIED: i64 = 784_111_777;
    const DATE: &str = "Sun, 06 Nov 1994 08:49:37 GMT";
    const EARLIER: &str = "Sun, 06 Nov 1994 08:49:36 GMT";

    fn weighed(name: HeaderName, value: &str) -> Outcome {
        weigh(&HeaderMap::from_iter([(name, value.parse().unwrap())]), MODIFIED)
    }

    #[test]
    fn dates_are_written_as_http_writes_them() {
        assert_eq!(http_date(MODIFIED).as_deref(), Some(DATE));
    }

    #[test]
    fn each_condition_has_its_outcome() {
        let send = Outcome::Send { may_be_part: true };
        let whole = Outcome::Send { may_be_part: false };
        for (name, value, outcome) in [
            (IF_MODIFIED_SINCE, DATE, Outcome::NotModified),
            (IF_MODIFIED_SINCE, EARLIER, send),
            (IF_MODIFIED_SINCE, "soon", send),
            (IF_NONE_MATCH, "*", Outcome::NotModified),
            (IF_NONE_MATCH, "\"tag\"", send),
            (IF_UNMODIFIED_SINCE, EARLIER, Outcome::PreconditionFailed),
            (IF_UNMODIFIED_SINCE, DATE, send),
            (IF_MATCH, "*", send),
            (IF_MATCH, "\"tag\"", Outcome::PreconditionFailed),
            (IF_RANGE, DATE, send),
            (IF_RANGE, EARLIER, whole),
            (IF_RANGE, "\"tag\"", whole),
        ] {
            assert_eq!(weighed(name.clone(), value), outcome, "{name}: {value}");
        }
    }
}
