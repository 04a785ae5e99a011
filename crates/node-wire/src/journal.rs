use std::collections::BTreeMap;
use std::time::SystemTime;

/// How far the journal of a guest agent is known.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct JournalMark {
    /// The agent's run; empty when nothing is known.
    pub run: String,
    /// The last line of that run.
    pub number: u64,
}

/// What a guest agent has noted after a mark. It is the word of a program in the sandbox, whose root
/// can make it say anything; only its size is bounded, to less than 64 KiB.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Journal {
    /// Numbers of another run have nothing to do with these.
    pub run: String,
    /// The oldest first.
    pub lines: Vec<JournalLine>,
    /// Whether there are more after the last of these.
    pub more: bool,
    /// How many there were after the mark that the agent does not keep any more.
    pub lost: u64,
}

/// One thing a guest agent has noted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JournalLine {
    pub number: u64,
    pub at: SystemTime,
    pub level: JournalLevel,
    pub message: String,
    pub fields: BTreeMap<String, String>,
}

/// How much a line matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum JournalLevel {
    Debug,
    Info,
    Warn,
    Error,
}

impl JournalLevel {
    pub const ALL: [Self; 4] = [Self::Debug, Self::Info, Self::Warn, Self::Error];
}
