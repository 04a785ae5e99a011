//! Questions to name servers, as programs send them (RFC 1035), and what is said to them here.
//!
//! Everything is read from bytes that a sandbox chose. What is not one question and nothing else is
//! not passed on: a second one, or a record beside it, could say to a server what its name does not.

use model::HostName;

/// The longest message that is read. A question is of some hundred bytes.
pub(crate) const QUESTION_MAX: usize = 4096;

pub(crate) const HEADER: usize = 12;
/// The longest name, with the lengths of its labels, and the longest label (RFC 1035, 2.3.4).
const NAME_MAX: usize = 255;
const LABEL_MAX: u8 = 63;
/// Of the third byte of a message: it is an answer, it was cut short, and the server is to ask others.
const ANSWER: u8 = 0x80;
const CUT_SHORT: u8 = 0x02;
const RECURSION_WANTED: u8 = 0x01;
/// What is asked for but an answer to a question: a change, or that a change be taken notice of.
const OPERATION: u8 = 0x78;
/// Of the fourth: the server does ask others, and need not check what they sign.
const RECURSION: u8 = 0x80;
const UNCHECKED: u8 = 0x10;
/// All that there is of a zone, or what has changed of it: more than one message (RFC 5936, 1995).
const TRANSFERS: [u16; 2] = [252, 251];
/// The largest packet that we say we take.
const PACKET_SAID: u16 = 1232;
/// Extended DNS Errors (RFC 8914): the option, and "Blocked": by a rule of whoever runs the server.
const EXTENDED_ERROR: u16 = 15;
const BLOCKED: u16 = 15;
const BLOCKED_TEXT: &str = "the network rules of this sandbox do not allow this name";

/// What a message of a program is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Message {
    /// Too short to be answered, or itself an answer: two who answer those never come to an end.
    Noise,
    /// Nothing that is passed on, and what is said to it.
    Odd(Vec<u8>),
    Question(Question),
}

/// One question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Question {
    /// As it came: its id, and which letters are capital, are the program's to compare.
    message: Vec<u8>,
    /// Where the question ends.
    end: usize,
    name: Option<HostName>,
    /// Of RFC 6891: then its answer has some, too.
    has_options: bool,
}

/// What is said instead of an answer (RFC 1035, 4.1.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Code {
    Malformed = 1,
    /// The servers have not answered, or cannot be asked now.
    Failed = 2,
    /// That there is no such name, which every program understands at once. `REFUSED` would say it more
    /// truly, but of one name server: glibc asks the next then, and at the end has a "temporary
    /// failure"; musl does not hear it, and waits for an answer until its time is up.
    NoSuchName = 3,
    Unsupported = 4,
}

impl Message {
    pub fn read(bytes: &[u8]) -> Self {
        let Some((header, body)) = bytes.split_first_chunk::<HEADER>() else { return Self::Noise };
        let [_, _, flags, ..] = *header;
        if flags & ANSWER != 0 {
            return Self::Noise;
        }
        if flags & OPERATION != 0 {
            return Self::Odd(bare(header, Code::Unsupported));
        }
        match Question::read(bytes, header, body) {
            Some((question, kind)) if TRANSFERS.contains(&kind) => {
                Self::Odd(question.reply(Code::Unsupported))
            }
            Some((question, _kind)) => Self::Question(question),
            None => Self::Odd(bare(header, Code::Malformed)),
        }
    }
}

impl Question {
    /// With the type of records that is asked for. `None`: it is not one question, or not nothing else
    /// (RFC 9619).
    fn read(message: &[u8], header: &[u8; HEADER], body: &[u8]) -> Option<(Self, u16)> {
        let [_, _, _, _, q1, q2, a1, a2, n1, n2, x1, x2] = *header;
        if ([q1, q2], [a1, a2], [n1, n2]) != ([0, 1], [0, 0], [0, 0]) {
            return None;
        }
        let (name, rest) = name(body)?;
        let ([k1, k2, _, _], rest) = rest.split_first_chunk::<4>()?;
        let has_options = match ([x1, x2], rest) {
            ([0, 0], []) => false,
            ([0, 1], [0, 0, 41, _, _, _, _, _, _, l1, l2, options @ ..])
                if options.len() == usize::from(u16::from_be_bytes([*l1, *l2])) =>
            {
                true
            }
            _ => return None,
        };
        let end = message.len().checked_sub(rest.len())?;
        let question = Self { message: message.to_vec(), end, name, has_options };
        Some((question, u16::from_be_bytes([*k1, *k2])))
    }

    /// What is asked about, if it may be the name of a host.
    pub fn name(&self) -> Option<&HostName> {
        self.name.as_ref()
    }

    pub(crate) fn message(&self) -> &[u8] {
        &self.message
    }

    /// Whether `packet` is a server's answer. What it says is for the program to believe.
    pub(crate) fn is_answered_by(&self, packet: &[u8]) -> bool {
        let is_answer = packet.get(2).is_some_and(|flags| flags & ANSWER != 0);
        packet.len() >= HEADER && is_answer && packet.get(..2) == self.message.get(..2)
    }

    pub fn reply(&self, code: Code) -> Vec<u8> {
        self.say(0, code as u8, code == Code::NoSuchName)
    }

    /// That there is an answer, and that it is too long for a packet.
    pub(crate) fn cut_short(&self) -> Vec<u8> {
        self.say(CUT_SHORT, 0, false)
    }

    fn say(&self, flags: u8, code: u8, is_blocked: bool) -> Vec<u8> {
        let Some((header, _)) = self.message.split_first_chunk() else { return Vec::new() };
        let counts = [1, 0, 0, u8::from(self.has_options)];
        let mut reply = answer_header(header, flags, code, counts).to_vec();
        reply.extend(self.message.get(HEADER..self.end).unwrap_or_default());
        // No record says how long to remember it: so it is asked again after the rules have changed
        // (RFC 2308, 5).
        if self.has_options {
            let error = if is_blocked { extended_error() } else { Vec::new() };
            reply.extend([0, 0, 41]);
            reply.extend(PACKET_SAID.to_be_bytes());
            reply.extend([0; 4]);
            reply.extend(sized(&error));
        }
        reply
    }
}

/// What is said to a message whose question is not known.
fn bare(header: &[u8; HEADER], code: Code) -> Vec<u8> {
    answer_header(header, 0, code as u8, [0; 4]).to_vec()
}

fn answer_header(asked: &[u8; HEADER], flags: u8, code: u8, counts: [u8; 4]) -> [u8; HEADER] {
    let [i1, i2, first, second, ..] = *asked;
    let first = ANSWER | flags | first & (OPERATION | RECURSION_WANTED);
    let second = RECURSION | second & UNCHECKED | code;
    let [questions, answers, authorities, others] = counts;
    [i1, i2, first, second, 0, questions, 0, answers, 0, authorities, 0, others]
}

fn extended_error() -> Vec<u8> {
    let why = [&BLOCKED.to_be_bytes(), BLOCKED_TEXT.as_bytes()].concat();
    [&EXTENDED_ERROR.to_be_bytes()[..], &sized(&why)].concat()
}

/// `bytes` after their length: an option, or a message in a stream (RFC 1035, 4.2.2).
pub(crate) fn sized(bytes: &[u8]) -> Vec<u8> {
    let bytes = bytes.get(..usize::from(u16::MAX)).unwrap_or(bytes);
    let len = u16::try_from(bytes.len()).unwrap_or(u16::MAX);
    [&len.to_be_bytes(), bytes].concat()
}

/// The name that `bytes` begin with, and what comes after it. `None`: it has no end, or goes on
/// somewhere else, for which the first name of a message has no place.
fn name(bytes: &[u8]) -> Option<(Option<HostName>, &[u8])> {
    let (mut labels, mut rest) = (Vec::new(), bytes);
    loop {
        let (&len, after) = rest.split_first()?;
        if len == 0 {
            rest = after;
            break;
        }
        if len > LABEL_MAX {
            return None;
        }
        let (label, after) = after.split_at_checked(usize::from(len))?;
        labels.push(label);
        rest = after;
    }
    if bytes.len().checked_sub(rest.len())? > NAME_MAX {
        return None;
    }
    // A dot in a label is another name than one between two.
    let is_plain = labels.iter().all(|label| !label.contains(&b'.'));
    let text = String::from_utf8(labels.join(&b'.')).ok().filter(|_| is_plain);
    Some((text.and_then(|text| text.parse().ok()), rest))
}

#[cfg(test)]
pub(crate) mod testing;

#[cfg(test)]
mod tests;
