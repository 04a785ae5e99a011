//! Where the frames of a WebSocket end (RFC 6455, 5.2), as they pass to a client.

/// Of a frame's first byte.
const OPCODE: u8 = 0x0f;
const CLOSE: u8 = 0x8;
/// Of its second.
const MASKED: u8 = 0x80;
const LENGTH: u8 = 0x7f;
/// What follows the length of a frame that is masked.
const MASK_BYTES: u64 = 4;

/// A whole frame: close, 1001, which is "going away".
pub(super) const GOING_AWAY: [u8; 4] = [0x88, 2, 0x03, 0xe9];

/// Follows the frames of one direction, and keeps none of them.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Frames {
    at: Place,
    /// A close has begun to pass. Nothing may come after it.
    closed: bool,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Place {
    #[default]
    Boundary,
    Length,
    /// Bytes of the length that are to come, those that came, and what the mask adds.
    LongLength {
        left: u8,
        so_far: u64,
        mask: u64,
    },
    Payload {
        left: u64,
    },
}

impl Place {
    const fn payload(left: u64) -> Self {
        if left == 0 { Self::Boundary } else { Self::Payload { left } }
    }
}

impl Frames {
    /// These bytes have passed.
    pub(super) fn pass(&mut self, mut bytes: &[u8]) {
        while let Some((&byte, rest)) = bytes.split_first() {
            bytes = rest;
            self.at = match self.at {
                Place::Boundary => {
                    self.closed |= byte & OPCODE == CLOSE;
                    Place::Length
                }
                Place::Length => {
                    let mask = if byte & MASKED == 0 { 0 } else { MASK_BYTES };
                    match byte & LENGTH {
                        126 => Place::LongLength { left: 2, so_far: 0, mask },
                        127 => Place::LongLength { left: 8, so_far: 0, mask },
                        short => Place::payload(u64::from(short) + mask),
                    }
                }
                Place::LongLength { left, so_far, mask } => {
                    let so_far = so_far << 8 | u64::from(byte);
                    match left {
                        1 => Place::payload(so_far.saturating_add(mask)),
                        _ => Place::LongLength { left: left - 1, so_far, mask },
                    }
                }
                Place::Payload { left } => {
                    let more = usize::try_from(left - 1).unwrap_or(usize::MAX).min(rest.len());
                    bytes = rest.get(more..).unwrap_or_default();
                    Place::payload(left - 1 - u64::try_from(more).unwrap_or(left - 1))
                }
            };
        }
    }

    pub(super) fn may_close(self) -> bool {
        self.at == Place::Boundary && !self.closed
    }
}

/// However the bytes of one direction are cut, the same is known of them.
#[cfg(feature = "fuzz")]
pub(crate) fn pass_in_pieces(bytes: &[u8]) {
    let mut whole = Frames::default();
    whole.pass(bytes);
    let mut single = Frames::default();
    bytes.iter().for_each(|byte| single.pass(std::slice::from_ref(byte)));
    assert_eq!((whole.at, whole.closed), (single.at, single.closed));
}

#[cfg(test)]
mod tests {
    use super::{Frames, GOING_AWAY};

    /// A frame of `length` zeros, with a mask if it is `masked`.
    fn frame(first: u8, length: u64, masked: bool) -> Vec<u8> {
        let mut frame = vec![first];
        let mask = if masked { 0x80 } else { 0 };
        match length {
            0..126 => frame.push(mask | u8::try_from(length).unwrap()),
            126..0x1_0000 => {
                frame.push(mask | 126);
                frame.extend(u16::try_from(length).unwrap().to_be_bytes());
            }
            _ => {
                frame.push(mask | 127);
                frame.extend(length.to_be_bytes());
            }
        }
        frame.resize(frame.len() + usize::try_from(length).unwrap(), 0);
        frame.resize(frame.len() + if masked { 4 } else { 0 }, 0);
        frame
    }

    #[test]
    fn the_end_of_every_frame_is_found_whatever_the_pieces() {
        let lengths = [0, 1, 125, 126, 300, 0xffff, 0x1_0000, 70_000];
        for (length, masked) in lengths.into_iter().flat_map(|n| [(n, false), (n, true)]) {
            let frame = frame(0x82, length, masked);
            for pieces in [1, 3, 4096, usize::MAX] {
                let mut frames = Frames::default();
                for _ in 0..2 {
                    let (last, most) = frame.split_last().unwrap();
                    for piece in most.chunks(pieces) {
                        frames.pass(piece);
                        assert!(!frames.may_close(), "{length} in pieces of {pieces}");
                    }
                    frames.pass(std::slice::from_ref(last));
                    assert!(frames.may_close(), "{length} in pieces of {pieces}");
                }
            }
        }
    }

    #[test]
    fn nothing_is_said_after_a_close() {
        let mut frames = Frames::default();
        frames.pass(&frame(0x01, 5, false));
        frames.pass(&frame(0x89, 2, false));
        assert!(frames.may_close(), "between the fragments of a message");
        frames.pass(&GOING_AWAY);
        assert!(!frames.may_close());
    }
}
