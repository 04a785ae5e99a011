//! Which form of a file a client takes: as it is, or gzip.

use http::HeaderMap;
use http::header::{
    ACCEPT_ENCODING, HeaderValue, IF_MODIFIED_SINCE, IF_NONE_MATCH, IF_RANGE, RANGE,
};

/// How the body of an answer is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Encoding {
    Identity,
    Gzip,
}

/// Chooses for a request; `None` when it refuses everything there is.
///
/// The highest weight wins, of equal ones the first. Parts and conditions speak of the file as
/// it is, so they rule gzip out.
pub(super) fn choose(headers: &HeaderMap) -> Option<Encoding> {
    let values = headers.get_all(ACCEPT_ENCODING).iter().filter_map(|value| value.to_str().ok());
    let wishes: Vec<(String, f32)> =
        values.flat_map(|value| value.split(',')).filter_map(parse_wish).collect();
    let identity_refused = match wishes.iter().find(|(name, _)| name == "identity") {
        Some((_, weight)) => *weight <= 0.0,
        None => wishes.iter().any(|(name, weight)| name == "*" && *weight <= 0.0),
    };
    let needs_identity = [RANGE, IF_MODIFIED_SINCE, IF_NONE_MATCH, IF_RANGE]
        .iter()
        .any(|header| headers.contains_key(header));
    if needs_identity {
        return (!identity_refused).then_some(Encoding::Identity);
    }
    let mut best: Option<(Encoding, f32)> = None;
    for (name, weight) in &wishes {
        let encoding = match name.as_str() {
            "gzip" => Encoding::Gzip,
            "identity" => Encoding::Identity,
            "*" if identity_refused => Encoding::Gzip,
            "*" => Encoding::Identity,
            _ => continue,
        };
        if *weight > 0.0 && best.is_none_or(|(_, best)| *weight > best) {
            best = Some((encoding, *weight));
        }
    }
    match best {
        Some((encoding, _)) => Some(encoding),
        None => (!identity_refused).then_some(Encoding::Identity),
    }
}

fn parse_wish(text: &str) -> Option<(String, f32)> {
    let mut parts = text.split(';').map(str::trim);
    let name = parts.next().filter(|name| !name.is_empty())?.to_ascii_lowercase();
    let weight = parts.find_map(|part| part.strip_prefix("q=").or_else(|| part.strip_prefix("Q=")));
    let weight = weight.map_or(Some(1.0), |weight| weight.trim().parse::<f32>().ok())?;
    Some((name, weight))
}

/// Whether an upload is compressed; `None` when in a way that is not known.
pub(super) fn of_upload(value: Option<&HeaderValue>) -> Option<Encoding> {
    let value = value.map_or(Ok(""), HeaderValue::to_str).ok()?.trim().to_ascii_lowercase();
    match value.as_str() {
        "" | "identity" => Some(Encoding::Identity),
        "gzip" => Some(Encoding::Gzip),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(accept: &str) -> Option<Encoding> {
        choose(&HeaderMap::from_iter([(ACCEPT_ENCODING, accept.parse().unwrap())]))
    }

    #[test]
    fn the_highest_weight_wins_and_of_equal_ones_the_first() {
        for (accept, encoding) in [
            ("gzip", Some(Encoding::Gzip)),
            ("gzip, deflate, br", Some(Encoding::Gzip)),
            ("br, zstd", Some(Encoding::Identity)),
            ("identity, gzip", Some(Encoding::Identity)),
            ("identity;q=0.5, gzip;q=0.8", Some(Encoding::Gzip)),
            ("gzip;q=0", Some(Encoding::Identity)),
            ("*", Some(Encoding::Identity)),
            ("*, identity;q=0", Some(Encoding::Gzip)),
            ("identity;q=0", None),
            ("*;q=0", None),
            ("", Some(Encoding::Identity)),
        ] {
            assert_eq!(chosen(accept), encoding, "{accept}");
        }
        assert_eq!(choose(&HeaderMap::new()), Some(Encoding::Identity));
    }

    #[test]
    fn a_part_of_a_file_is_never_compressed() {
        let mut headers = HeaderMap::new();
        headers.insert(RANGE, "bytes=0-1".parse().unwrap());
        headers.insert(ACCEPT_ENCODING, "gzip".parse().unwrap());
        assert_eq!(choose(&headers), Some(Encoding::Identity));
        headers.insert(ACCEPT_ENCODING, "gzip, identity;q=0".parse().unwrap());
        assert_eq!(choose(&headers), None);
    }

    #[test]
    fn uploads_are_plain_or_gzip() {
        let read = |text: &'static str| of_upload(Some(&HeaderValue::from_static(text)));
        assert_eq!(of_upload(None), Some(Encoding::Identity));
        assert_eq!(read("GZIP"), Some(Encoding::Gzip));
        assert_eq!(read("br"), None);
    }
}
