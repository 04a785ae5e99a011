//! What the agent notes of itself: the newest of it, in memory, until the node asks. Other than
//! standard error it is for the sandbox's owner, and has commands in it.

use std::borrow::Cow;
use std::collections::VecDeque;

use guest_wire::client::ANSWER_BYTES_MAX;
use guest_wire::rest::{Journal as Told, JournalLevel, JournalLine};
use jiff::Timestamp;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

/// Lines that are kept.
const LINES_MAX: usize = 500;
/// Their texts together.
const BYTES_MAX: usize = 64 * 1024;
/// Of one value.
const VALUE_BYTES_MAX: usize = 512;
/// The lines of one answer, which has a little around them.
const ANSWER_LINES_BYTES: usize = ANSWER_BYTES_MAX - 4096;

/// One per process.
pub(crate) struct Journal {
    kept: Mutex<Kept>,
}

#[derive(Serialize, Deserialize)]
struct Kept {
    /// Tells this run of the agent from every other. One that goes on as this process is the same.
    run: String,
    /// The oldest first, numbered without a gap.
    lines: VecDeque<Line>,
    /// Of the newest line, also of one that is not kept any more.
    number: u64,
    bytes: usize,
}

#[derive(Serialize, Deserialize)]
struct Line {
    at_us: i64,
    message: String,
    fields: Vec<(Cow<'static, str>, String)>,
}

/// All of it, for the agent after this one.
#[derive(Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct HandedJournal(Kept);

impl Default for Journal {
    fn default() -> Self {
        let run = format!("{:032x}", rand::random::<u128>());
        let lines = VecDeque::new();
        Self { kept: Mutex::new(Kept { run, lines, number: 0, bytes: 0 }) }
    }
}

impl Journal {
    /// Values that are long lose their ends, and the oldest lines go.
    pub(crate) fn note(&self, message: String, fields: Vec<(&'static str, String)>) {
        let cut = |(name, value): (&'static str, String)| (Cow::Borrowed(name), cut(value));
        let fields = fields.into_iter().map(cut).collect();
        let now_us = Timestamp::now().as_microsecond();
        let kept = &mut *self.kept.lock();
        // A clock that is set back does not turn the order round.
        let at_us = kept.lines.back().map_or(now_us, |last| last.at_us.max(now_us));
        let line = Line { at_us, message, fields };
        kept.bytes = kept.bytes.saturating_add(line.bytes());
        kept.number = kept.number.saturating_add(1);
        kept.lines.push_back(line);
        while kept.lines.len() > LINES_MAX || kept.bytes > BYTES_MAX {
            let Some(oldest) = kept.lines.pop_front() else { break };
            kept.bytes = kept.bytes.saturating_sub(oldest.bytes());
        }
    }

    /// What there is after line `after` of `run`, or as much of it as fits into one answer; of
    /// another run's everything.
    pub(crate) fn after(&self, run: Option<&str>, after: u64) -> Told {
        let kept = self.kept.lock();
        let after = if run == Some(kept.run.as_str()) { after } else { 0 };
        let gone = kept.number.saturating_sub(u64::try_from(kept.lines.len()).unwrap_or(u64::MAX));
        let mut told = Told { run: kept.run.clone(), ..Told::default() };
        told.lost = gone.saturating_sub(after);
        let mut room = ANSWER_LINES_BYTES;
        let numbered = (gone.saturating_add(1)..).zip(&kept.lines);
        for (number, line) in numbered.filter(|(number, _)| *number > after) {
            let line = line.told(number);
            // One that cannot be written is none.
            let bytes = serde_json::to_vec(&line).map_or(0, |json| json.len().saturating_add(1));
            if bytes > room {
                told.more = true;
                break;
            }
            room -= bytes;
            told.lines.push(line);
        }
        told
    }

    /// What the next agent has to know: it goes on with the same numbers.
    pub(crate) fn hand_over(&self) -> HandedJournal {
        let Kept { run, lines, number, bytes } = &*self.kept.lock();
        let lines = lines.iter().map(|Line { at_us, message, fields }| {
            let (message, fields) = (message.clone(), fields.clone());
            Line { at_us: *at_us, message, fields }
        });
        let (run, lines) = (run.clone(), lines.collect());
        HandedJournal(Kept { run, lines, number: *number, bytes: *bytes })
    }

    pub(crate) fn take_over(&self, HandedJournal(kept): HandedJournal) {
        *self.kept.lock() = kept;
    }
}

impl Line {
    fn bytes(&self) -> usize {
        let fields = self.fields.iter().map(|(name, value)| name.len().saturating_add(value.len()));
        fields.fold(self.message.len(), usize::saturating_add)
    }

    fn told(&self, number: u64) -> JournalLine {
        let fields =
            self.fields.iter().map(|(name, value)| (name.clone().into_owned(), value.clone()));
        JournalLine {
            number,
            at_us: self.at_us,
            level: JournalLevel::Info,
            message: self.message.clone(),
            fields: fields.collect(),
        }
    }
}

/// Cut between two characters, with a mark where the rest was.
fn cut(mut value: String) -> String {
    const MARK: char = '\u{2026}';
    if value.len() > VALUE_BYTES_MAX {
        value.truncate(value.floor_char_boundary(VALUE_BYTES_MAX - MARK.len_utf8()));
        value.push(MARK);
        value.shrink_to_fit();
    }
    value
}

#[cfg(test)]
mod tests {
    use super::*;

    fn noted(values: impl IntoIterator<Item = String>) -> Journal {
        let journal = Journal::default();
        for value in values {
            journal.note("noted".to_owned(), vec![("what", value)]);
        }
        journal
    }

    fn numbers(told: &Told) -> Vec<u64> {
        told.lines.iter().map(|line| line.number).collect()
    }

    #[test]
    fn lines_are_numbered_from_one_and_told_after_the_last_that_is_known() {
        let journal = noted(["a", "b", "c"].map(str::to_owned));
        let all = journal.after(None, 7);
        assert_eq!((numbers(&all), all.more, all.lost), (vec![1, 2, 3], false, 0));
        let values: Vec<&str> = all.lines.iter().map(|line| line.fields["what"].as_str()).collect();
        assert_eq!(values, ["a", "b", "c"]);
        assert!(all.lines.windows(2).all(|two| two[0].at_us <= two[1].at_us));
        assert_eq!(numbers(&journal.after(Some(&all.run), 2)), [3]);
        assert_eq!(numbers(&journal.after(Some(&all.run), 3)), [0; 0]);
        assert_eq!(numbers(&journal.after(Some(&all.run), 99)), [0; 0]);
        let other = noted([]).after(None, 0);
        assert_ne!(other.run, all.run);
        assert_eq!(numbers(&journal.after(Some(&other.run), 3)), [1, 2, 3], "another run's number");
    }

    #[test]
    fn the_oldest_lines_go_when_there_are_too_many_and_that_is_told() {
        let journal = noted((0..LINES_MAX + 10).map(|n| n.to_string()));
        let told = journal.after(None, 0);
        assert_eq!((numbers(&told)[0], told.lines.len(), told.lost), (11, LINES_MAX, 10));
        assert_eq!(told.lines[0].fields["what"], "10");
        assert_eq!(journal.after(Some(&told.run), 4).lost, 6);
        assert_eq!(journal.after(Some(&told.run), 10).lost, 0);
    }

    #[test]
    fn the_oldest_lines_go_when_their_texts_are_too_long_together() {
        let journal = noted((0..LINES_MAX).map(|_| "x".repeat(VALUE_BYTES_MAX)));
        let kept = journal.kept.lock();
        let bytes: usize = kept.lines.iter().map(Line::bytes).sum();
        assert_eq!(kept.bytes, bytes);
        let line = kept.lines[0].bytes();
        assert!(bytes <= BYTES_MAX && bytes + line > BYTES_MAX, "{bytes}");
    }

    #[test]
    fn the_next_agent_goes_on_where_this_one_was() {
        let journal = noted((0..LINES_MAX + 3).map(|n| n.to_string()));
        let handed = serde_json::to_string(&journal.hand_over()).unwrap();
        let next = noted(["of no interest".to_owned()]);
        next.take_over(serde_json::from_str(&handed).unwrap());
        let (before, after) = (journal.after(None, 0), next.after(None, 0));
        assert_eq!((numbers(&before), before.run), (numbers(&after), after.run.clone()));
        next.note("noted".to_owned(), Vec::new());
        assert_eq!(numbers(&next.after(Some(&after.run), 503)), [504]);
    }

    #[test]
    fn a_long_value_is_cut_between_characters() {
        let whole = "\u{e9}".repeat(VALUE_BYTES_MAX / 2);
        assert_eq!(cut(whole.clone()), whole);
        let long = cut(format!("a{whole}"));
        assert!(long.len() <= VALUE_BYTES_MAX && long.ends_with("\u{e9}\u{2026}"), "{long}");
        assert!(long.len() > VALUE_BYTES_MAX - 4, "no more than it must be");
    }

    #[test]
    fn what_does_not_fit_into_one_answer_comes_with_the_next() {
        // Six bytes each in JSON.
        let journal = noted((0..LINES_MAX).map(|_| "\u{1}".repeat(100)));
        let (mut run, mut after, mut seen) = (None, 0, Vec::new());
        loop {
            let told = journal.after(run.as_deref(), after);
            run = Some(told.run.clone());
            let bytes = serde_json::to_vec(&told).unwrap().len();
            assert!(bytes <= ANSWER_BYTES_MAX, "{bytes} bytes");
            assert_eq!(told.lost, 0);
            seen.extend(numbers(&told));
            if !told.more {
                break;
            }
            after = *seen.last().unwrap();
        }
        assert_eq!(seen, (1..=500).collect::<Vec<u64>>());
    }
}
