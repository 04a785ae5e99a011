//! Headers as they are written.

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

/// The items of a header that is a list.
pub(super) fn tokens(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii)
}
