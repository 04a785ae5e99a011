//! The query of a file's address, and the headers of a request for a file.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Some((now, rest)) = data.split_first_chunk::<8>() else { return };
    let Ok(text) = std::str::from_utf8(rest) else { return };
    let (query, headers) = text.split_once('\n').unwrap_or((text, ""));
    guest_agent::fuzz::address(query, i64::from_le_bytes(*now));
    guest_agent::fuzz::headers(headers, u64::from_le_bytes(*now));
});
