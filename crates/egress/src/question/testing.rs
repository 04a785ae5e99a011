//! Messages, byte by byte.

use super::sized;

pub(crate) const A: u16 = 1;

/// A question about `name`, in whose labels a dot is written `\`.
pub(crate) fn asks(id: u16, name: &str, kind: u16) -> Vec<u8> {
    let mut message = [&id.to_be_bytes()[..], &[1, 0, 0, 1, 0, 0, 0, 0, 0, 0]].concat();
    for label in name.split('.') {
        message.push(u8::try_from(label.len()).unwrap());
        message.extend(label.replace('\\', ".").as_bytes());
    }
    message.push(0);
    message.extend(kind.to_be_bytes());
    message.extend([0, 1]);
    message
}

/// The same with room for longer answers, and `options`.
pub(crate) fn with_options(mut message: Vec<u8>, options: &[u8]) -> Vec<u8> {
    message[11] = 1;
    message.extend([0, 0, 41, 16, 0, 0, 0, 0, 0]);
    message.extend(sized(options));
    message
}

/// What a server says to `message`: `text`, as it is.
pub(crate) fn answered(message: &[u8], text: &str) -> Vec<u8> {
    let mut answer = message.to_vec();
    answer[2] |= 0x80;
    answer.extend(text.as_bytes());
    answer
}
