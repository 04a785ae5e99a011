//! The record of a lifecycle, as an earlier daemon, a torn disk or a stranger may have left it.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| node::fuzz::record(data));
