//! What must be there, told apart from what is.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Instant;

use super::schedule::Content;

/// A sandbox whose create was answered with 201, and what was put into it.
#[derive(Debug, Clone)]
pub(crate) struct Sandbox {
    pub id: String,
    /// The key it was asked for with; it is in its metadata, too.
    pub key: String,
    pub worker: u32,
    /// Stays to the end of the run, through every daemon.
    pub keeper: bool,
    /// It stands still, or has nothing but its files.
    pub paused: bool,
    pub token: String,
    pub runner: Runner,
    pub files: BTreeMap<String, Content>,
    pub ends: Ends,
}

/// Its long-running program: who it is, not only that there is one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Runner {
    pub pid: u32,
    /// As the sandbox's `/proc` tells it.
    pub started: String,
}

/// When its time is over. The daemon's clock begins somewhere between request and answer.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ends {
    pub earliest: Instant,
    pub latest: Instant,
}

/// What of a sandbox was looked at, through the edge.
#[derive(Debug, Clone)]
pub(crate) struct Answer {
    pub runner: Runner,
    pub files: BTreeMap<String, Vec<u8>>,
}

/// A paused sandbox, as the service tells of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Halted {
    pub key: String,
    pub memory: bool,
}

/// The service and the host, as they were found while nothing was asked of them.
#[derive(Debug, Clone, Default)]
pub(crate) struct Seen {
    /// Keys by ids, of those that run.
    pub listed: BTreeMap<String, String>,
    pub paused: BTreeMap<String, Halted>,
    /// There are none while nobody does anything.
    pub snapshots: Vec<String>,
    pub answers: BTreeMap<String, Result<Answer, String>>,
    pub lifecycles: usize,
    /// What `cofferdam leaks` calls leaked.
    pub leaked: Vec<String>,
}

/// A promise that was broken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Violation {
    Lost { id: String, how: String },
    Changed { id: String, what: String },
    Stranger { id: String, key: String },
    Undead { id: String },
    Leaked { what: String },
    Grown { what: String },
    Unexpected { what: String },
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Lost { id, how } => write!(f, "LOST: sandbox {id} {how}"),
            Self::Changed { id, what } => write!(f, "CHANGED: in sandbox {id} {what}"),
            Self::Stranger { id, key } => {
                write!(f, "STRANGER: sandbox {id} (key {key}) was never announced")
            }
            Self::Undead { id } => write!(f, "UNDEAD: sandbox {id} has ended and is listed"),
            Self::Leaked { what } => write!(f, "LEAKED: {what}"),
            Self::Grown { what } => write!(f, "GROWN: {what}"),
            Self::Unexpected { what } => write!(f, "UNEXPECTED: {what}"),
        }
    }
}

impl std::error::Error for Violation {}

impl Violation {
    pub(crate) fn unexpected(what: impl Into<String>) -> Self {
        Self::Unexpected { what: what.into() }
    }

    /// Whether it may be work that is not finished yet. What is lost does not come back.
    pub(crate) fn may_settle(&self) -> bool {
        match self {
            Self::Stranger { .. }
            | Self::Undead { .. }
            | Self::Leaked { .. }
            | Self::Grown { .. } => true,
            Self::Lost { .. } | Self::Changed { .. } | Self::Unexpected { .. } => false,
        }
    }
}

#[derive(Debug, Default)]
pub(crate) struct Model {
    live: BTreeMap<String, Sandbox>,
    /// Keys of creates nobody waited for: each has made one sandbox or none.
    doubtful: BTreeSet<String>,
    ended: BTreeSet<String>,
}

impl Model {
    pub(crate) fn announced(&mut self, sandbox: Sandbox) {
        self.live.insert(sandbox.id.clone(), sandbox);
    }

    pub(crate) fn ended(&mut self, id: &str) {
        self.live.remove(id);
        self.ended.insert(id.to_owned());
    }

    pub(crate) fn wrote(&mut self, id: &str, name: &str, content: Content) {
        if let Some(sandbox) = self.live.get_mut(id) {
            sandbox.files.insert(name.to_owned(), content);
        }
    }

    pub(crate) fn ends(&mut self, id: &str, ends: Ends) {
        if let Some(sandbox) = self.live.get_mut(id) {
            sandbox.ends = ends;
        }
    }

    pub(crate) fn paused(&mut self, id: &str, paused: bool) {
        if let Some(sandbox) = self.live.get_mut(id) {
            sandbox.paused = paused;
        }
    }

    /// It runs again, and this is what runs in it.
    pub(crate) fn resumed(&mut self, id: &str, runner: Runner, ends: Ends) {
        if let Some(sandbox) = self.live.get_mut(id) {
            *sandbox = Sandbox { paused: false, runner, ends, ..sandbox.clone() };
        }
    }

    pub(crate) fn hung_up(&mut self, key: &str) {
        self.doubtful.insert(key.to_owned());
    }

    pub(crate) fn live(&self) -> impl Iterator<Item = &Sandbox> {
        self.live.values()
    }

    /// Sandboxes of `worker` that will not end by themselves before `until`.
    pub(crate) fn of(&self, worker: u32, until: Instant) -> Vec<&Sandbox> {
        let lasts = |sandbox: &&Sandbox| sandbox.worker == worker && sandbox.ends.earliest > until;
        self.live.values().filter(lasts).collect()
    }

    /// Sandboxes that must answer until `until`. Of those that end before, the list says enough: with
    /// faults one that has ended would be asked again for a minute, as if a fault were in the way.
    pub(crate) fn answering(&self, until: Instant) -> Vec<Sandbox> {
        let answers = |one: &&Sandbox| !one.paused && one.ends.earliest > until;
        self.live.values().filter(answers).cloned().collect()
    }

    /// Those that are listed and nobody waited for.
    pub(crate) fn unclaimed(&self, listed: &BTreeMap<String, String>) -> Vec<(String, String)> {
        let unclaimed = listed
            .iter()
            .filter(|(id, key)| self.doubtful.contains(*key) && !self.live.contains_key(*id));
        unclaimed.map(|(id, key)| (id.clone(), key.clone())).collect()
    }

    /// No create that nobody waited for is under way any more: what is not listed never comes.
    pub(crate) fn settled(&mut self) {
        self.doubtful.clear();
    }

    /// Forgets those whose time is over and that are not listed.
    pub(crate) fn expire(&mut self, listed: &BTreeMap<String, String>, now: Instant) {
        let over =
            |sandbox: &&Sandbox| sandbox.ends.earliest <= now && !listed.contains_key(&sandbox.id);
        let over: Vec<String> = self.live.values().filter(over).map(|one| one.id.clone()).collect();
        for id in over {
            self.ended(&id);
        }
    }

    /// What of `seen` is not as it must be. `began` is when looking began, `now` when it was over:
    /// a sandbox whose time ran out in between may be there or not.
    pub(crate) fn check(&self, seen: &Seen, began: Instant, now: Instant) -> Vec<Violation> {
        let mut found = Vec::new();
        for sandbox in self.live.values() {
            let listed = seen.listed.contains_key(&sandbox.id);
            if sandbox.paused {
                found.extend(lost_in_its_pause(sandbox, seen));
            } else if sandbox.ends.earliest > now {
                found.extend(lost(sandbox, listed, seen.answers.get(&sandbox.id)));
            } else if sandbox.ends.latest < began && listed {
                found.push(Violation::Undead { id: sandbox.id.clone() });
            }
        }
        let paused = seen.paused.iter().map(|(id, halted)| (id, &halted.key));
        for (id, key) in seen.listed.iter().chain(paused) {
            if self.ended.contains(id) {
                found.push(Violation::Undead { id: id.clone() });
            } else if !self.live.contains_key(id) && !self.doubtful.contains(key) {
                found.push(Violation::Stranger { id: id.clone(), key: key.clone() });
            }
        }
        found.extend(seen.leaked.iter().map(|what| Violation::Leaked { what: what.clone() }));
        let left = |name: &String| Violation::Leaked { what: format!("the snapshot {name}") };
        found.extend(seen.snapshots.iter().map(left));
        let standing = seen.paused.values().filter(|halted| halted.memory).count();
        if seen.lifecycles != seen.listed.len() + standing {
            let (on_disk, listed) = (seen.lifecycles, seen.listed.len());
            let what = format!(
                "{on_disk} lifecycle directories for {listed} sandboxes that run and {standing} \
                 that stand still"
            );
            found.push(Violation::Leaked { what });
        }
        found
    }
}

fn lost_in_its_pause(sandbox: &Sandbox, seen: &Seen) -> Option<Violation> {
    let id = sandbox.id.clone();
    if seen.listed.contains_key(&id) {
        return Some(Violation::Changed { id, what: "nobody has ended its pause".to_owned() });
    }
    let how = || "was paused and is not listed as that".to_owned();
    (!seen.paused.contains_key(&id)).then(|| Violation::Lost { id, how: how() })
}

/// What of a sandbox that runs is not as it must be.
pub(crate) fn lost(
    sandbox: &Sandbox,
    listed: bool,
    answer: Option<&Result<Answer, String>>,
) -> Vec<Violation> {
    let lost = |how: &str| vec![Violation::Lost { id: sandbox.id.clone(), how: how.to_owned() }];
    let changed = |what: String| Violation::Changed { id: sandbox.id.clone(), what };
    if !listed {
        return lost("was announced and is not listed");
    }
    let answer = match answer {
        None => return Vec::new(),
        Some(Err(how)) => return lost(how),
        Some(Ok(answer)) => answer,
    };
    let mut found = Vec::new();
    if answer.runner != sandbox.runner {
        let what = format!("runs {:?}, was {:?}", answer.runner, sandbox.runner);
        found.push(changed(what));
    }
    let names: BTreeSet<&String> = answer.files.keys().chain(sandbox.files.keys()).collect();
    for name in names {
        match (sandbox.files.get(name), answer.files.get(name)) {
            (Some(_), None) => found.push(changed(format!("the file {name} is gone"))),
            (None, Some(_)) => found.push(changed(format!("the file {name} was never written"))),
            (Some(content), Some(bytes)) if content.bytes() != *bytes => {
                found.push(changed(format!("the file {name} has another content")));
            }
            _ => {}
        }
    }
    found
}

#[cfg(test)]
mod tests;
