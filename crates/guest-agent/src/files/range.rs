//! The `Range` header: which part of a file a client wants.

/// What to send of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    Whole,
    Bytes {
        first: u64,
        /// At least 1.
        length: u64,
    },
    /// No byte of the file is in the range.
    OutOfRange,
}

/// Reads a `Range` header for a file of `size` bytes, by RFC 9110, section 14.
///
/// Of several ranges in one header none is taken: the whole file is a legal answer, and no
/// client of a sandbox asks for more than one.
pub(super) fn parse(header: &str, size: u64) -> Part {
    let Some(range) = header.trim().strip_prefix("bytes=") else { return Part::Whole };
    let Some((first, last)) = range.split_once('-') else { return Part::Whole };
    let number = |text: &str| text.trim().parse::<u64>().ok();
    let (first, end) = match (first.trim(), last.trim()) {
        ("", last) => match number(last) {
            Some(count) => (size.saturating_sub(count), size),
            None => return Part::Whole,
        },
        (first, last) => match (number(first), last, number(last)) {
            (Some(first), "", _) => (first, size),
            (Some(first), _, Some(last)) if first <= last => {
                (first, last.saturating_add(1).min(size))
            }
            _ => return Part::Whole,
        },
    };
    match end.checked_sub(first) {
        Some(length @ 1..) => Part::Bytes { first, length },
        Some(0) | None => Part::OutOfRange,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{any, proptest};

    use super::*;

    proptest! {
        #[test]
        fn a_part_is_never_outside_of_the_file(header in "bytes=[0-9]{0,20}-[0-9]{0,20}", size in any::<u64>()) {
            if let Part::Bytes { first, length } = parse(&header, size) {
                assert!(length > 0 && first.checked_add(length).is_some_and(|end| end <= size));
            }
        }
    }

    #[test]
    fn every_form_of_a_single_range_is_read() {
        let bytes = |first, length| Part::Bytes { first, length };
        for (header, part) in [
            ("bytes=0-0", bytes(0, 1)),
            ("bytes=2-4", bytes(2, 3)),
            ("bytes=2-400", bytes(2, 8)),
            ("bytes=7-", bytes(7, 3)),
            ("bytes=-3", bytes(7, 3)),
            ("bytes=-300", bytes(0, 10)),
            ("bytes=10-", Part::OutOfRange),
            ("bytes=10-12", Part::OutOfRange),
            ("bytes=-0", Part::OutOfRange),
            ("bytes=4-2", Part::Whole),
            ("bytes=x-2", Part::Whole),
            ("bytes=0-1,3-4", Part::Whole),
            ("lines=1-2", Part::Whole),
            ("bytes=18446744073709551615-18446744073709551615", Part::OutOfRange),
        ] {
            assert_eq!(parse(header, 10), part, "{header}");
        }
        assert_eq!(parse("bytes=0-", 0), Part::OutOfRange);
    }
}
