//! Between the crate's types and the messages of `cofferdam.node.v1`, both ways.

mod build;
mod drain;
mod egress;
mod event;
mod history;
mod info;
mod journal;
mod pause;
mod sandbox;

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, SystemTime};

use buffa_types::google::protobuf::Timestamp;
use model::{IdError, NodePhase, Resources};
use parking_lot::Mutex;

use super::failure::Failure;
use super::proto::cofferdam::node::v1;

pub(super) use egress::{from_e2b, to_e2b};
pub(super) use event::event;
pub(super) use pause::keep;
pub(super) use sandbox::end_reason;

/// A message that is not a value.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field} {why}")]
pub struct Malformed {
    pub field: &'static str,
    pub why: String,
}

impl Malformed {
    fn new(field: &'static str, why: impl Into<String>) -> Self {
        Self { field, why: why.into() }
    }

    pub(super) fn missing(field: &'static str) -> Self {
        Self::new(field, "is missing")
    }
}

impl From<Malformed> for Failure {
    fn from(malformed: Malformed) -> Self {
        Self::invalid(malformed.to_string())
    }
}

pub(super) fn id<T: std::str::FromStr<Err = IdError>>(
    field: &'static str,
    text: &str,
) -> Result<T, Malformed> {
    text.parse().map_err(|error| Malformed::new(field, format!("is not legal: {error}")))
}

pub(super) fn time(field: &'static str, stamp: Option<Timestamp>) -> Result<SystemTime, Malformed> {
    optional_time(field, stamp)?.ok_or_else(|| Malformed::missing(field))
}

pub(super) fn optional_time(
    field: &'static str,
    stamp: Option<Timestamp>,
) -> Result<Option<SystemTime>, Malformed> {
    let bad = |error| Malformed::new(field, format!("is not a time: {error}"));
    stamp.map(|stamp| SystemTime::try_from(stamp).map_err(bad)).transpose()
}

/// The longest duration that is taken from the wire: what is computed from it stays in range.
const MAX_DURATION: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

pub(super) fn duration(ms: u64) -> Duration {
    Duration::from_millis(ms).min(MAX_DURATION)
}

pub(super) fn micros(us: u64) -> Duration {
    Duration::from_micros(us).min(MAX_DURATION)
}

pub(super) fn us(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

pub(super) fn ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// A map as a message has it.
pub(super) fn pairs<M: FromIterator<(String, String)>>(map: BTreeMap<String, String>) -> M {
    map.into_iter().collect()
}

/// Words that were met, at most this many of at most this many bytes.
const MAX_WORDS: usize = 256;
const MAX_WORD_BYTES: usize = 64;

/// A word of a small vocabulary (steps, limits), as the constant it is where it comes from. A node
/// of another version may have words that this one does not know; their number is bounded, so
/// keeping each for good costs a few kilobytes at most.
pub(super) fn word(text: &str) -> &'static str {
    static WORDS: Mutex<BTreeSet<&'static str>> = Mutex::new(BTreeSet::new());
    let mut words = WORDS.lock();
    if let Some(known) = words.get(text) {
        return known;
    }
    if words.len() >= MAX_WORDS || text.len() > MAX_WORD_BYTES {
        return "another step";
    }
    let word: &'static str = Box::leak(text.to_owned().into_boxed_str());
    words.insert(word);
    word
}

impl From<Resources> for v1::Resources {
    fn from(resources: Resources) -> Self {
        let Resources { vcpus, memory_mib, disk_mib } = resources;
        Self { vcpus, memory_mib, disk_mib, ..Self::default() }
    }
}

impl From<v1::Resources> for Resources {
    fn from(message: v1::Resources) -> Self {
        let v1::Resources { vcpus, memory_mib, disk_mib, .. } = message;
        Self { vcpus, memory_mib, disk_mib }
    }
}

const PHASES: [(NodePhase, v1::NodePhase); 8] = [
    (NodePhase::Starting, v1::NodePhase::Starting),
    (NodePhase::Healthy, v1::NodePhase::Healthy),
    (NodePhase::Standby, v1::NodePhase::Standby),
    (NodePhase::Unhealthy, v1::NodePhase::Unhealthy),
    (NodePhase::Draining, v1::NodePhase::Draining),
    (NodePhase::Forcing, v1::NodePhase::Forcing),
    (NodePhase::ForceFailed, v1::NodePhase::ForceFailed),
    (NodePhase::Stopped, v1::NodePhase::Stopped),
];

/// The wire's value of `mine`. Every table has all values of ours, which a test makes sure of.
fn to_wire<A: PartialEq, B: Copy + Default>(table: &[(A, B)], mine: &A) -> B {
    table.iter().find(|(ours, _)| ours == mine).map(|(_, theirs)| *theirs).unwrap_or_default()
}

fn from_wire<A: Copy, B: PartialEq + buffa::Enumeration>(
    table: &[(A, B)],
    field: &'static str,
    value: buffa::EnumValue<B>,
) -> Result<A, Malformed> {
    let known = value.as_known();
    let found = known.and_then(|known| table.iter().find(|(_, theirs)| *theirs == known));
    found.map(|(ours, _)| *ours).ok_or_else(|| {
        Malformed::new(field, format!("has a value ({}) that is not known", value.to_i32()))
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use model::{EndReason, Keep, NodePhase, OnTimeout, SandboxPhase};

    use super::{MAX_DURATION, PHASES, drain, duration, journal, ms, pause, sandbox, word};
    use crate::{Class, JournalLevel};

    /// Every value of ours, once, and to a value of its own on the wire.
    #[track_caller]
    fn is_whole<A: PartialEq + Copy, B: buffa::Enumeration + PartialEq + Copy>(
        table: &[(A, B)],
        all: &[A],
    ) {
        assert_eq!(table.len(), all.len());
        for (at, ours) in all.iter().enumerate() {
            assert_eq!(table.iter().filter(|(known, _)| known == ours).count(), 1, "value {at}");
        }
        for (at, (_, theirs)) in table.iter().enumerate() {
            assert_eq!(table.iter().filter(|(_, known)| known == theirs).count(), 1, "value {at}");
            assert_ne!(theirs.to_i32(), 0, "zero means that nothing was said");
        }
    }

    #[test]
    fn every_word_of_ours_has_its_own_word_on_the_wire() {
        is_whole(&PHASES, &NodePhase::ALL);
        is_whole(&sandbox::PHASES, &SandboxPhase::ALL);
        is_whole(&drain::CLASSES, &Class::ALL);
        is_whole(&journal::LEVELS, &JournalLevel::ALL);
        use EndReason as R;
        let reasons = [
            R::Request,
            R::Timeout,
            R::Crashed,
            R::StartFailed,
            R::NodeStop,
            R::Reclaimed,
            R::HostRestart,
            R::Paused,
        ];
        for reason in reasons {
            // Whoever adds one has to add it here.
            match reason {
                R::Request | R::Timeout | R::Crashed => {}
                R::StartFailed | R::NodeStop | R::Reclaimed | R::HostRestart | R::Paused => {}
            }
        }
        is_whole(&sandbox::REASONS, &reasons);
        let keeps = [Keep::Memory, Keep::Files];
        is_whole(&pause::KEEPS, &keeps);
        let [memory, files] = keeps.map(OnTimeout::Pause);
        is_whole(&sandbox::ON_TIMEOUT, &[OnTimeout::Kill, memory, files]);
    }

    #[test]
    fn a_duration_of_any_size_is_one_that_can_be_computed_with() {
        assert_eq!(duration(1500), Duration::from_millis(1500));
        assert_eq!(duration(u64::MAX), MAX_DURATION);
        assert_eq!(ms(Duration::MAX), u64::MAX);
    }

    #[test]
    fn words_are_kept_once_and_their_number_is_bounded() {
        let first = word("init");
        assert_eq!(first, "init");
        assert!(std::ptr::eq(first, word("init")));
        assert_eq!(word(&"x".repeat(65)), "another step");
        let unknown = |at: usize| word(&format!("step {at}")) == "another step";
        assert!((0..300).any(unknown) && unknown(1000));
        assert_eq!(word("init"), "init", "what is known stays known");
    }
}
