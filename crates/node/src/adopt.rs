//! Taking over what an earlier daemon left running.
//!
//! With the node's claim held and its firewall in place, so that nobody else acts on the same names
//! and nothing runs unguarded. It changes nothing on the host: it may be done twice, and be cut off at
//! any instant. What cannot run on is left to [`crate::reclaim`].

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use host::HostError;
use host::fault::Injected;
use lifecycle::Budget;
use model::{BuildId, EndReason, LifecycleId, Resources, SandboxId, TeamId, TemplateId};

use crate::backend::{Holdings, Leftover, NotAdopted};
use crate::entry::{Entry, Identity, Life};
use crate::ledger::{Fate, Record, from_micros};
use crate::start::Inner;
use crate::supervise::watch_adopted;

/// What is done with what an earlier daemon left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Take {
    /// Everything that bears our mark is listed.
    List,
    /// One that was live is held again.
    Hold,
    /// It is in the registry, and watched.
    Enter,
    /// One that cannot run on is taken down.
    Finish,
    /// What belongs to nobody is removed.
    Settle,
}

impl Take {
    pub(crate) const ALL: [Self; 5] =
        [Self::List, Self::Hold, Self::Enter, Self::Finish, Self::Settle];

    /// The fault points before and after it.
    pub(crate) const fn points(self) -> [&'static str; 2] {
        macro_rules! points {
            ($name:literal) => {
                [concat!($name, ".before"), concat!($name, ".after")]
            };
        }
        match self {
            Self::List => points!("adopt.list"),
            Self::Hold => points!("adopt.hold"),
            Self::Enter => points!("adopt.enter"),
            Self::Finish => points!("reclaim.finish"),
            Self::Settle => points!("reclaim.settle"),
        }
    }
}

const POINTS: usize = 2 * Take::ALL.len();

/// Every fault point of a start that finds something: those of taking over, then those of removing.
pub const ADOPT_POINTS: [&str; POINTS] = {
    let mut points = [""; POINTS];
    let mut at = 0;
    while at < Take::ALL.len() {
        let [before, after] = Take::ALL[at].points();
        points[2 * at] = before;
        points[2 * at + 1] = after;
        at += 1;
    }
    points
};

/// Why a node cannot start on what is there. Nothing was done to it.
#[derive(Debug, thiserror::Error)]
pub enum AdoptError {
    #[error(transparent)]
    Host(#[from] HostError),
    #[error("sandbox {id} cannot be looked at now: {why}; it is left as it is")]
    Unclear { id: String, why: String },
    #[error(transparent)]
    Injected(#[from] Injected),
}

/// What an earlier daemon left and cannot run on: in the registry, with the right to release it.
#[derive(Debug)]
pub(crate) struct LeftBehind {
    pub entry: Arc<Entry>,
    pub held: Box<dyn Holdings>,
    pub reason: EndReason,
    /// Whether it was never live.
    pub half_made: bool,
}

/// What was found.
#[derive(Debug, Default)]
pub(crate) struct Found {
    pub adopted: u32,
    pub left_behind: Vec<LeftBehind>,
    /// Whether there is something that belongs to no lifecycle.
    pub strays: bool,
}

/// Takes over every sandbox that still runs and enters everything else that was left.
///
/// # Errors
/// See [`AdoptError`]; what was taken over by then is in the registry, and what has to be let go of
/// is not.
pub(crate) async fn adopt(inner: &Arc<Inner>) -> Result<Found, AdoptError> {
    let [before, after] = Take::List.points();
    pass(inner, before).await?;
    let leftovers = inner.backend.leftovers()?;
    pass(inner, after).await?;
    let mut found = Found::default();
    let mut dead = Vec::new();
    // First all that live: a record that is wrong about its slot takes none from them.
    for leftover in leftovers {
        let Some(known) = Known::of(leftover, inner.backend.boot_id()) else { continue };
        match try_adopt(inner, &known).await? {
            None => found.adopted += 1,
            Some(reason) => dead.push((known, reason)),
        }
    }
    found.left_behind =
        dead.into_iter().filter_map(|(known, reason)| enter_dead(inner, known, reason)).collect();
    found.strays = inner.backend.set_strays_aside()?;
    Ok(found)
}

async fn pass(inner: &Inner, point: &str) -> Result<(), Injected> {
    inner.config.faults.hit(point, Budget::within(inner.config.teardown_limit)).await
}

/// A lifecycle that an earlier daemon left, and what its record says of it.
#[derive(Debug)]
struct Known {
    lifecycle: LifecycleId,
    record: Option<Record>,
    fate: Fate,
}

impl Known {
    fn of(Leftover { name, record }: Leftover, boot_id: &str) -> Option<Self> {
        let Ok(lifecycle) = LifecycleId::parse(&name) else {
            tracing::error!(name, "not a lifecycle, and in the place of one; left alone");
            return None;
        };
        // One that names nobody, or somebody else, is as good as none.
        let record =
            record.filter(|record| record.lifecycle == name && record.identity().is_some());
        let fate = record.as_ref().map(|record| record.fate(boot_id));
        Some(Self { lifecycle, record, fate: fate.unwrap_or(Fate::End(EndReason::Reclaimed)) })
    }

    /// Whose it was; it is called by its own name where that is not known.
    fn identity(&self) -> Option<Identity> {
        let known = self.record.as_ref().and_then(Record::identity);
        known.or_else(|| self.unknown())
    }

    fn unknown(&self) -> Option<Identity> {
        let name = self.lifecycle.as_str();
        Some(Identity {
            id: SandboxId::parse(name).ok()?,
            lifecycle: self.lifecycle.clone(),
            team: TeamId::parse(name).ok()?,
            template: TemplateId::parse(name).ok()?,
            build: BuildId::parse(name).ok()?,
            resources: Resources { vcpus: 0, memory_mib: 0, disk_mib: 0 },
            metadata: [].into(),
        })
    }
}

/// Takes over one that was live and runs. Otherwise says for what reason it ends.
async fn try_adopt(inner: &Arc<Inner>, known: &Known) -> Result<Option<EndReason>, AdoptError> {
    let record = match (known.fate, &known.record) {
        (Fate::End(reason), _) => return Ok(Some(reason)),
        (Fate::Live | Fate::Paused, None) => return Ok(Some(EndReason::Reclaimed)),
        (Fate::Live | Fate::Paused, Some(record)) => record,
    };
    let is_other = |identity: Identity| inner.registry.get(&identity.id).is_some();
    if record.identity().is_some_and(is_other) {
        tracing::error!(sandbox.id = record.sandbox, "two runs of one sandbox; one is ended");
        return Ok(Some(EndReason::Reclaimed));
    }
    let [before, after] = Take::Hold.points();
    pass(inner, before).await?;
    let held = match Arc::clone(&inner.backend).adopt(&known.lifecycle, record) {
        Ok(held) => held,
        Err(NotAdopted::Gone) => return Ok(Some(EndReason::Crashed)),
        Err(NotAdopted::Refused(why)) => {
            let (sandbox, lifecycle) = (&record.sandbox, known.lifecycle.as_str());
            tracing::error!(
                sandbox.id = sandbox,
                lifecycle.id = lifecycle,
                why,
                "a sandbox that runs cannot be taken over; it is ended"
            );
            return Ok(Some(EndReason::Reclaimed));
        }
        Err(NotAdopted::Unclear(why)) => {
            return Err(AdoptError::Unclear { id: record.sandbox.clone(), why });
        }
    };
    let entering = async {
        let [before, entered] = Take::Enter.points();
        pass(inner, after).await?;
        pass(inner, before).await?;
        Ok::<_, Injected>(entered)
    };
    let entered = match entering.await {
        Ok(entered) => entered,
        Err(injected) => {
            held.leave();
            return Err(injected.into());
        }
    };
    let reason = enter_live(inner, record, held);
    pass(inner, entered).await?;
    Ok(reason)
}

/// From here on it is a sandbox like any other.
fn enter_live(inner: &Arc<Inner>, record: &Record, held: Box<dyn Holdings>) -> Option<EndReason> {
    let (Some(identity), Some((started_at, ends_at))) = (record.identity(), record.life()) else {
        held.leave();
        return Some(EndReason::Reclaimed);
    };
    let life = Life { started_at, ends_at };
    let entry = match record.paused_at_us {
        Some(at) => {
            let paused = (from_micros(at), record.agent_silent);
            Entry::adopted_paused(identity, life, paused, inner.pulse.clone())
        }
        None => Entry::adopted(identity, life, inner.pulse.clone()),
    };
    entry.set_on_timeout(record.on_timeout);
    let Some(entry) = inner.registry.enter(entry) else {
        held.leave();
        return Some(EndReason::Reclaimed);
    };
    if let Some(address) = held.address() {
        entry.set_addr(address.into());
    }
    tracing::debug!(sandbox.id = %entry.id, lifecycle.id = %entry.lifecycle, "sandbox adopted");
    let span = entry.span();
    inner.tasks.spawn(span, watch_adopted(Arc::clone(inner), entry, held));
    None
}

fn enter_dead(inner: &Arc<Inner>, known: Known, reason: EndReason) -> Option<LeftBehind> {
    let life = known.record.as_ref().and_then(Record::life);
    let ended_at = known.record.as_ref().and_then(|record| record.ending.as_ref());
    let ended_at = ended_at.map_or_else(SystemTime::now, |end| from_micros(end.at_us));
    let half_made = life.is_none() && reason == EndReason::Reclaimed;
    let life = life.map_or_else(
        || Life::of(Duration::ZERO),
        |(started_at, ends_at)| Life { started_at, ends_at },
    );
    let enter = |identity| {
        let pulse = inner.pulse.clone();
        inner.registry.enter(Entry::left_behind(identity, life, (reason, ended_at), pulse))
    };
    // Its sandbox may have a later run, if somebody has put the record there.
    let entry = known.identity().and_then(enter).or_else(|| known.unknown().and_then(enter));
    let Some(entry) = entry else {
        tracing::error!(lifecycle.id = %known.lifecycle, "has no name to be entered by; left alone");
        return None;
    };
    // What was paused, or on its way back from it, is so still, with its files.
    let is_paused = known.record.as_ref().is_some_and(|record| record.paused_at_us.is_some());
    entry.set_kept(is_paused);
    let held = Arc::clone(&inner.backend).left_behind(&known.lifecycle, known.record);
    Some(LeftBehind { entry, held, reason, half_made })
}
