//! What the edge passes on without a library for HTTP: three bytes that say how an answer is cut and
//! what it is to, and the answer; or, as good, a request.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    edge::fuzz::plain_request(data);
    let [flags, high, low, answer @ ..] = data else { return };
    let cut = u16::from_be_bytes([*high, *low]);
    edge::fuzz::plain_answer(answer, cut.into(), flags & 1 != 0, flags & 2 != 0);
});
