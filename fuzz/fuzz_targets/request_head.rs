//! The head of a request at the edge, and the frames of a WebSocket behind it.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    edge::fuzz::frames(data);
    if let Ok(text) = std::str::from_utf8(data) {
        edge::fuzz::head(text);
    }
});
