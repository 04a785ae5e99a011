//! An upload as a form: a byte that says how it is cut, a line with its content type, and its body.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Some((piece, rest)) = data.split_first() else { return };
    let Some(end) = rest.iter().position(|byte| *byte == b'\n') else { return };
    let (content_type, body) = rest.split_at(end);
    let Ok(content_type) = std::str::from_utf8(content_type) else { return };
    guest_agent::fuzz::form(content_type, &body[1..], usize::from(*piece));
});
