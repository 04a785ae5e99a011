//! Headers as they are written.

use std::str::FromStr;

use httparse::Header;

/// `word` is in small letters.
pub(super) fn is(name: &str, word: &str) -> bool {
    name.eq_ignore_ascii_case(word)
}

/// Appends the header, its name as people write it: small servers, and small clients, compare names
/// that way.
pub(super) fn write_header(header: &Header<'_>, out: &mut Vec<u8>) {
    let mut starts = true;
    out.extend(header.name.bytes().map(|byte| {
        let cased = if starts { byte.to_ascii_uppercase() } else { byte.to_ascii_lowercase() };
        starts = byte == b'-';
        cased
    }));
    out.extend_from_slice(b": ");
    out.extend_from_slice(header.value);
    out.extend_from_slice(b"\r\n");
}

/// The value of `Content-Length`: digits and nothing else, which every reader takes for the same.
pub(super) fn length<T: FromStr>(value: &[u8]) -> Option<T> {
    let legal = !value.is_empty() && value.iter().all(u8::is_ascii_digit);
    std::str::from_utf8(value).ok().filter(|_| legal)?.parse().ok()
}

/// The items of a header that is a list.
pub(super) fn tokens(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii)
}
