//! What a sandbox sends to a name server: an answer to it is never taken for a question again, and what
//! is passed on is one question, as it came.
#![no_main]

use egress::{Code, Message};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let answer = match Message::read(data) {
        Message::Noise => return,
        Message::Odd(answer) => answer,
        Message::Question(question) => {
            if let Some(name) = question.name() {
                assert_eq!(name.as_str().parse().as_ref(), Ok(name));
            }
            question.reply(Code::NoSuchName)
        }
    };
    assert_eq!(answer[..2], data[..2], "the id is the program's");
    assert_eq!(Message::read(&answer), Message::Noise, "answers are not answered");
});
