//! What all parts of a run share, and the looks that are taken while nothing is done.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context;
use lifecycle::Budget;
use parking_lot::Mutex;
use serde_json::Value;

use super::caller::{Ask, Caller, refused};
use super::daemon::Daemon;
use super::footprint::Footprint;
use super::journal::Journal;
use super::model::{Model, Seen, Violation};
use super::ops::{LASTS, create, kill, listed};
use super::pauses::{all_paused, all_snapshots};
use super::probe::Times;

/// Longer than a look at everything takes.
const CHECK: Duration = Duration::from_secs(300);
/// How long work that nobody waits for may take to be over.
const SETTLE: Duration = Duration::from_secs(45);
const AGAIN: Duration = Duration::from_millis(100);

#[derive(Debug)]
pub(crate) struct Course {
    pub seed: u64,
    pub daemon: Arc<Daemon>,
    pub model: Mutex<Model>,
    pub journal: Journal,
    /// Held for reading by a worker for a step, for writing by who needs everybody to pause.
    pub world: tokio::sync::RwLock<()>,
    counts: Mutex<BTreeMap<&'static str, u64>>,
    outcomes: Mutex<BTreeMap<&'static str, u64>>,
    created: AtomicU64,
    over: AtomicBool,
    pub resident_mib: Mutex<Vec<f64>>,
    /// Measured beside the work, when that is light.
    pub during: Mutex<Times>,
    pub checks: AtomicU64,
}

impl Course {
    pub(crate) fn new(seed: u64, daemon: Arc<Daemon>, journal: Journal) -> Self {
        Self {
            seed,
            daemon,
            model: Mutex::default(),
            journal,
            world: tokio::sync::RwLock::new(()),
            counts: Mutex::default(),
            outcomes: Mutex::default(),
            created: AtomicU64::new(0),
            over: AtomicBool::new(false),
            resident_mib: Mutex::default(),
            during: Mutex::default(),
            checks: AtomicU64::new(0),
        }
    }

    pub(crate) fn count(&self, kind: &'static str) {
        *self.counts.lock().entry(kind).or_default() += 1;
    }

    pub(crate) fn counts(&self) -> BTreeMap<&'static str, u64> {
        self.counts.lock().clone()
    }

    /// What has become of so many pauses.
    pub(crate) fn came_to(&self, outcome: &'static str, times: usize) {
        *self.outcomes.lock().entry(outcome).or_default() += times as u64;
    }

    pub(crate) fn outcomes(&self) -> BTreeMap<&'static str, u64> {
        self.outcomes.lock().clone()
    }

    /// How many stand still, or have nothing but their files.
    pub(crate) fn paused(&self) -> usize {
        self.model.lock().live().filter(|sandbox| sandbox.paused).count()
    }

    /// A sandbox was made.
    pub(crate) fn created(&self) {
        self.created.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn churned(&self) -> u64 {
        self.created.load(Ordering::Relaxed)
    }

    /// Nobody begins another step.
    pub(crate) fn end(&self) {
        self.over.store(true, Ordering::Relaxed);
    }

    pub(crate) fn is_over(&self) -> bool {
        self.over.load(Ordering::Relaxed)
    }

    /// Compares everything there is with the model, while nobody does anything.
    ///
    /// # Errors
    /// The first thing that is not as it must be.
    pub(crate) async fn check(&self) -> Result<(), Violation> {
        let _nobody_else = self.world.write().await;
        self.journal.note("check", "begins");
        let checked = Budget::within(CHECK).run("the comparison", self.compare()).await;
        checked.unwrap_or_else(|expired| Err(Violation::unexpected(expired.to_string())))
    }

    async fn compare(&self) -> Result<(), Violation> {
        let mut caller = Caller::new(Arc::clone(&self.daemon));
        let began = Instant::now();
        settled(&mut caller, SETTLE).await?;
        self.claim(&mut caller).await?;
        self.model.lock().settled();
        loop {
            let look_began = Instant::now();
            let seen = self.look(&mut caller).await?;
            let now = Instant::now();
            let found = {
                let mut model = self.model.lock();
                model.expire(&seen.listed, now);
                model.check(&seen, look_began, now)
            };
            let Some(first) = found.into_iter().min_by_key(Violation::may_settle) else { break };
            if !first.may_settle() || began.elapsed() > SETTLE {
                return Err(first);
            }
            tokio::time::sleep(AGAIN).await;
        }
        self.checks.fetch_add(1, Ordering::Relaxed);
        self.note_resident().await;
        let there = self.model.lock().live().count();
        let paused = self.paused();
        self.journal.note("check", &format!("{there} there, {paused} of them paused"));
        Ok(())
    }

    async fn note_resident(&self) {
        let Some(pid) = self.daemon.pid().await else { return };
        if let Ok(footprint) = Footprint::of_process(pid) {
            self.resident_mib.lock().push(footprint);
        }
    }

    /// A create that was hung up is still its client's by its key: repeated, it answers the same
    /// sandbox.
    async fn claim(&self, caller: &mut Caller) -> Result<(), Violation> {
        let listed = listed(caller).await?;
        let unclaimed = self.model.lock().unclaimed(&listed);
        for (id, key) in unclaimed {
            let sandbox = create(caller, &key).await?;
            if sandbox.id != id {
                let what = format!("the key {key} has made {id} and is answered {}", sandbox.id);
                return Err(Violation::unexpected(what));
            }
            self.created();
            kill(self, &sandbox, 1).await?;
        }
        Ok(())
    }

    async fn look(&self, caller: &mut Caller) -> Result<Seen, Violation> {
        let sandboxes = self.model.lock().answering(Instant::now() + LASTS);
        let mut answers = BTreeMap::new();
        for sandbox in sandboxes {
            let answer = caller.look_into(&sandbox).await.map_err(|violation| match violation {
                Violation::Unexpected { what } => what,
                other => other.to_string(),
            });
            let is_lost = answer.is_err();
            answers.insert(sandbox.id, answer);
            if is_lost {
                // Which ends the run. The next one may need all its time to be found lost, too.
                break;
            }
        }
        let listed = listed(caller).await?;
        let paused = all_paused(caller).await?;
        let snapshots = all_snapshots(caller).await?;
        let (lifecycles, leaked) = leaks(&self.daemon)
            .await
            .map_err(|error| Violation::unexpected(format!("cofferdam leaks: {error:#}")))?;
        Ok(Seen { listed, paused, snapshots, answers, lifecycles, leaked })
    }
}

/// Waits until the node does nothing by itself.
pub(crate) async fn settled(caller: &mut Caller, limit: Duration) -> Result<(), Violation> {
    let began = Instant::now();
    loop {
        let answer = caller.ask(&Ask::admin(&caller.daemon, "/metrics")).await?;
        if answer.status() != 200 {
            return Err(refused("metrics", &answer));
        }
        let text = String::from_utf8_lossy(answer.body()).into_owned();
        let standing = all_paused(caller).await?.values().filter(|halted| halted.memory).count();
        let busy = busy(&text, standing);
        if busy.is_empty() {
            return Ok(());
        }
        if began.elapsed() > limit {
            let what = format!("not over after {limit:?}: {}", busy.join(", "));
            return Err(Violation::Leaked { what });
        }
        tokio::time::sleep(AGAIN).await;
    }
}

/// What the node still works on, by its own numbers. It counts those that stand still, of which there
/// are `standing`, as ones that are on their way out, which in a drain they are.
fn busy(metrics: &str, standing: usize) -> Vec<&str> {
    const STOPPING: &str = "cofferdam_work{class=\"stopping\"}";
    const WORK: [&str; 5] = [
        "cofferdam_work{class=\"starting\"}",
        "cofferdam_work{class=\"stuck\"}",
        "cofferdam_slots{state=\"making\"}",
        "cofferdam_slots{state=\"leaving\"}",
        "cofferdam_passes",
    ];
    let standing = standing.to_string();
    let is_busy = |line: &&str| {
        let Some((name, value)) = line.rsplit_once(' ') else { return false };
        WORK.contains(&name) && value != "0" || name == STOPPING && value != standing
    };
    metrics.lines().filter(is_busy).collect()
}

/// `cofferdam leaks`: how many lifecycles there are, and what nobody owns.
pub(crate) async fn leaks(daemon: &Daemon) -> anyhow::Result<(usize, Vec<String>)> {
    let launch = daemon.launch().clone();
    let report = tokio::task::spawn_blocking(move || crate::service::leaks(&launch)).await??;
    let lifecycles = report["lifecycles"].as_u64().context("no number of lifecycles")?;
    let leaked = report["leaked"].as_array().context("no list of what is leaked")?;
    let text = |item: &Value| {
        let word = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        format!("{} {} of {}", word(&item["kind"]), word(&item["name"]), item["owner"])
    };
    Ok((usize::try_from(lifecycles)?, leaked.iter().map(text).collect()))
}

#[cfg(test)]
mod tests {
    use super::busy;

    #[test]
    fn a_node_is_busy_while_one_of_its_numbers_of_work_is_not_zero() {
        let idle = "# HELP x\ncofferdam_work{class=\"starting\"} 0\n\
                    cofferdam_work{class=\"live\"} 7\ncofferdam_slots{state=\"warm\"} 16\n";
        assert!(busy(idle, 0).is_empty());
        let halted = format!("{idle}cofferdam_work{{class=\"stopping\"}} 2\n");
        assert!(busy(&halted, 2).is_empty());
        assert_eq!(busy(&halted, 1), ["cofferdam_work{class=\"stopping\"} 2"]);
        let stuck = format!("{idle}cofferdam_work{{class=\"stuck\"}} 1\ncofferdam_passes 0\n");
        assert_eq!(busy(&stuck, 0), ["cofferdam_work{class=\"stuck\"} 1"]);
    }
}
