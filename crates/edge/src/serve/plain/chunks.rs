//! The body of an answer that comes in chunks (RFC 9112, 7.1).

use std::io::Write as _;

/// Bytes of chunk extensions, and of trailers, in one body. Nobody looks at either.
const MAX_BESIDE: usize = 16 * 1024;

/// How far a body in chunks has come.
///
/// Every chunk is taken apart and put together anew: what a client takes for the end of an answer
/// must be what the edge takes for it, whatever a program in a sandbox has sent. Clients use one
/// connection for several sandboxes.
#[derive(Debug)]
pub(super) struct Chunks {
    at: At,
    beside: usize,
}

/// What comes next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum At {
    /// A digit of the size, after so many.
    Size {
        size: u64,
        digits: u8,
    },
    /// Spaces between the size and what follows.
    Padding {
        size: u64,
    },
    Extension {
        size: u64,
    },
    /// The end of the line with the size.
    SizeEnd {
        size: u64,
    },
    Data {
        left: u64,
    },
    DataCr,
    DataLf,
    /// The start of a line of the trailers, or the end.
    Line,
    Trailer,
    TrailerEnd,
    LastEnd,
    Done,
}

/// This is no body in chunks.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Broken;

impl Chunks {
    pub(super) const fn new() -> Self {
        Self { at: At::Size { size: 0, digits: 0 }, beside: 0 }
    }

    pub(super) const fn is_done(&self) -> bool {
        matches!(self.at, At::Done)
    }

    /// Takes the body from the start of `bytes` and appends it to `out`, in chunks again. How many
    /// bytes were its; fewer than all only when it is done.
    pub(super) fn pass(&mut self, bytes: &[u8], out: &mut Vec<u8>) -> Result<usize, Broken> {
        let mut rest = bytes;
        while let Some((&byte, after)) = rest.split_first() {
            match self.at {
                At::Done => break,
                At::Data { left } => {
                    let here = usize::try_from(left).unwrap_or(usize::MAX).min(rest.len());
                    let (data, after) = rest.split_at(here);
                    write_chunk(data, out);
                    rest = after;
                    let left = left - here as u64;
                    self.at = if left == 0 { At::DataCr } else { At::Data { left } };
                }
                at => {
                    self.at = self.step(at, byte)?;
                    rest = after;
                    if self.is_done() {
                        out.extend_from_slice(b"0\r\n\r\n");
                    }
                }
            }
        }
        Ok(bytes.len() - rest.len())
    }

    fn step(&mut self, at: At, byte: u8) -> Result<At, Broken> {
        Ok(match (at, byte) {
            (At::Size { size, digits }, _) if byte.is_ascii_hexdigit() => {
                // More than 64 bits are nobody's chunk.
                let digit = (byte as char).to_digit(16).ok_or(Broken)?;
                if digits == 16 {
                    return Err(Broken);
                }
                At::Size { size: (size << 4) | u64::from(digit), digits: digits + 1 }
            }
            (At::Size { digits: 0, .. }, _) => return Err(Broken),
            (At::Size { size, .. } | At::Padding { size }, b'\r') => At::SizeEnd { size },
            (At::Size { size, .. } | At::Padding { size }, b';') => At::Extension { size },
            (At::Size { size, .. } | At::Padding { size }, b' ' | b'\t') => At::Padding { size },
            (At::Extension { size }, b'\r') => At::SizeEnd { size },
            (At::Extension { size }, _) if is_text(byte) => {
                self.count()?;
                At::Extension { size }
            }
            (At::SizeEnd { size: 0 }, b'\n') => At::Line,
            (At::SizeEnd { size }, b'\n') => At::Data { left: size },
            (At::DataCr, b'\r') => At::DataLf,
            (At::DataLf, b'\n') => At::Size { size: 0, digits: 0 },
            (At::Line, b'\r') => At::LastEnd,
            (At::Trailer, b'\r') => At::TrailerEnd,
            (At::Line | At::Trailer, _) if is_text(byte) => {
                self.count()?;
                At::Trailer
            }
            (At::TrailerEnd, b'\n') => At::Line,
            (At::LastEnd, b'\n') => At::Done,
            _ => return Err(Broken),
        })
    }

    fn count(&mut self) -> Result<(), Broken> {
        self.beside += 1;
        if self.beside > MAX_BESIDE { Err(Broken) } else { Ok(()) }
    }
}

const fn is_text(byte: u8) -> bool {
    byte == b'\t' || (byte >= b' ' && byte != 0x7f)
}

/// Appends `data` as one chunk, if there is any: an empty one would be the last.
pub(super) fn write_chunk(data: &[u8], out: &mut Vec<u8>) {
    if data.is_empty() {
        return;
    }
    // Writing to memory does not fail.
    let _written = write!(out, "{:X}\r\n", data.len());
    out.extend_from_slice(data);
    out.extend_from_slice(b"\r\n");
}
