use std::collections::BTreeMap;

use percent_encoding::percent_decode_str;

/// More pairs than any sensible filter has.
const MAX_PAIRS: usize = 64;

/// A `metadata` filter that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MetadataQueryError {
    #[error("{0:?} is not a key=value pair with exactly one = (encode each key and each value)")]
    Pair(String),
    #[error("{0:?} is not percent-encoded UTF-8")]
    Encoding(String),
    #[error("a filter has at most {MAX_PAIRS} pairs")]
    TooMany,
}

/// Reads the value of the query parameter `metadata`, already decoded once as every query value
/// is.
///
/// The SDKs encode each key and each value, join them, and encode the whole again before it
/// becomes a query value: two decodings are left to do here, one before the split and one after.
///
/// # Errors
/// [`MetadataQueryError`] naming the part that is wrong.
pub fn parse_metadata_query(value: &str) -> Result<BTreeMap<String, String>, MetadataQueryError> {
    let joined = unescape(value)?;
    if joined.is_empty() {
        return Ok(BTreeMap::new());
    }
    let mut pairs = BTreeMap::new();
    for (count, pair) in joined.split('&').enumerate() {
        if count == MAX_PAIRS {
            return Err(MetadataQueryError::TooMany);
        }
        let (key, value) = pair
            .split_once('=')
            .filter(|(_, value)| !value.contains('='))
            .ok_or_else(|| MetadataQueryError::Pair(pair.to_owned()))?;
        pairs.insert(unescape(key)?, unescape(value)?);
    }
    Ok(pairs)
}

/// One query decoding: `+` is a space, and a `%` must begin a two-digit escape.
fn unescape(text: &str) -> Result<String, MetadataQueryError> {
    let wrong = || MetadataQueryError::Encoding(text.to_owned());
    let is_escape = |rest: &str| {
        let mut digits = rest.bytes();
        let mut is_digit = || digits.next().is_some_and(|byte| byte.is_ascii_hexdigit());
        is_digit() && is_digit()
    };
    if !text.split('%').skip(1).all(is_escape) {
        return Err(wrong());
    }
    let spaced = text.replace('+', " ");
    let decoded = percent_decode_str(&spaced).decode_utf8();
    decoded.map(|text| text.into_owned()).map_err(|_not_utf8| wrong())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
    use proptest::prelude::{any, prop_assert_eq, proptest};

    use super::{MetadataQueryError, parse_metadata_query};

    #[test]
    fn the_filter_both_sdks_send_is_read() {
        // Seen on the wire as metadata=a%252520b%3Dc%252526d%25253D%2525C3%2525A9.
        let pairs = parse_metadata_query("a%2520b=c%2526d%253D%25C3%25A9").unwrap();
        assert_eq!(pairs, BTreeMap::from([("a b".to_owned(), "c&d=\u{e9}".to_owned())]));
    }

    #[test]
    fn plain_pairs_are_read_and_nothing_filters_nothing() {
        let pairs = parse_metadata_query("user=me&app=x+y").unwrap();
        assert_eq!(pairs.get("user").map(String::as_str), Some("me"));
        assert_eq!(pairs.get("app").map(String::as_str), Some("x y"));
        assert!(parse_metadata_query("").unwrap().is_empty());
    }

    #[test]
    fn a_broken_filter_is_refused_with_the_part_that_is_wrong() {
        for pair in ["a", "a=b=c", "a=b&", "&"] {
            let error = parse_metadata_query(pair).unwrap_err();
            assert!(matches!(error, MetadataQueryError::Pair(_)), "{pair:?}: {error}");
        }
        for text in ["a=%", "a=%4", "a=%zz", "a=%25zz", "a=%25ff"] {
            let error = parse_metadata_query(text).unwrap_err();
            assert!(matches!(error, MetadataQueryError::Encoding(_)), "{text:?}: {error}");
        }
        let many = vec!["a=b"; 65].join("&");
        assert_eq!(parse_metadata_query(&many), Err(MetadataQueryError::TooMany));
    }

    proptest! {
        #[test]
        fn whatever_a_client_encodes_is_read_back(
            pairs in proptest::collection::btree_map(any::<String>(), any::<String>(), 0..6)
        ) {
            let encode = |text: &str| utf8_percent_encode(text, NON_ALPHANUMERIC).to_string();
            let joined: Vec<String> =
                pairs.iter().map(|(k, v)| format!("{}={}", encode(k), encode(v))).collect();
            prop_assert_eq!(parse_metadata_query(&encode(&joined.join("&"))).unwrap(), pairs);
        }

        #[test]
        fn reading_never_panics(text in any::<String>()) {
            drop(parse_metadata_query(&text));
        }
    }
}
