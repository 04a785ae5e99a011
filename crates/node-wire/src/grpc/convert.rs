//! Between the crate's types and the messages of `cofferdam.node.v1`, both ways.

mod build;
mod drain;
mod info;
mod sandbox;

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, SystemTime};

use buffa_types::google::protobuf::Timestamp;
use model::{IdError, NodePhase, Resources};
use parking_lot::Mutex;

use super::failure::Failure;
use super::proto::cofferdam::node::v1;

pub(super) use sandbox::{end_reason, event};

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
