//! What guest agents have noted.

use super::{Malformed, from_wire, pairs, time, to_wire};
use crate::grpc::proto::cofferdam::node::v1;
use crate::{Journal, JournalLevel, JournalLine};

pub(super) const LEVELS: [(JournalLevel, v1::JournalLevel); 4] = [
    (JournalLevel::Debug, v1::JournalLevel::Debug),
    (JournalLevel::Info, v1::JournalLevel::Info),
    (JournalLevel::Warn, v1::JournalLevel::Warn),
    (JournalLevel::Error, v1::JournalLevel::Error),
];

impl From<Journal> for v1::Journal {
    fn from(journal: Journal) -> Self {
        Self {
            run: journal.run,
            lines: journal.lines.into_iter().map(Into::into).collect(),
            more: journal.more,
            lost: journal.lost,
            ..Self::default()
        }
    }
}

impl TryFrom<v1::Journal> for Journal {
    type Error = Malformed;

    fn try_from(message: v1::Journal) -> Result<Self, Malformed> {
        let lines: Result<_, _> = message.lines.into_iter().map(TryInto::try_into).collect();
        Ok(Self { run: message.run, lines: lines?, more: message.more, lost: message.lost })
    }
}

impl From<JournalLine> for v1::JournalLine {
    fn from(line: JournalLine) -> Self {
        Self {
            number: line.number,
            at: Some(line.at.into()).into(),
            level: to_wire(&LEVELS, &line.level).into(),
            message: line.message,
            fields: pairs(line.fields),
            ..Self::default()
        }
    }
}

impl TryFrom<v1::JournalLine> for JournalLine {
    type Error = Malformed;

    fn try_from(message: v1::JournalLine) -> Result<Self, Malformed> {
        Ok(Self {
            number: message.number,
            at: time("journal.at", message.at.into_option())?,
            level: from_wire(&LEVELS, "journal.level", message.level)?,
            message: message.message,
            fields: message.fields.into_iter().collect(),
        })
    }
}
