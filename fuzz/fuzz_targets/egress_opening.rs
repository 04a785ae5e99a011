//! The first bytes that a sandbox sends to the outside: one answer however they come in, and none
//! that is taken back.
#![no_main]

use egress::{OPENING_MAX, Opening};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let whole = Opening::read(data);
    assert!(whole.is_some() || data.len() < OPENING_MAX);
    let first = (0..=data.len()).find_map(|len| Opening::read(&data[..len]));
    assert_eq!(first, whole, "a longer beginning is another");
    if let Some(name) = whole.as_ref().and_then(Opening::name) {
        assert_eq!(name.as_str().parse().as_ref(), Ok(name));
    }
});
