//! Pauses, what follows them, and snapshots: of a paused sandbox nothing is lost, and one that is said
//! to have kept its memory goes on with the very programs it had.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use http::{Response, StatusCode};
use lifecycle::Budget;
use serde_json::{Value, json};

use super::caller::{AGAIN, Ask, Caller, PATIENCE, Trouble, refused};
use super::course::Course;
use super::daemon::Standing;
use super::model::{Ends, Halted, Sandbox, Violation, lost};
use super::ops::{LIFE, Worker, create_of, kill};

/// The longest page of a list.
const PAGE: u32 = 100;

/// What has gone on with a sandbox that was paused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kept {
    Memory,
    Files,
    /// A fault may have cost it its memory between the question and the start.
    Unsure,
}

/// Pauses it. Answered, it is paused, whatever happened on the way.
pub(crate) async fn pause(
    course: &Course,
    caller: &mut Caller,
    target: &Sandbox,
    memory: bool,
) -> Result<(), Violation> {
    let before = caller.daemon.up().await?;
    let path = format!("/sandboxes/{}/pause", target.id);
    let body = json!({ "memory": memory }).to_string();
    let answer = caller.ask(&Ask::api(&caller.daemon, "POST", path, body)).await?;
    // One that was done and whose answer got lost is told so when it is repeated.
    let excused = is_excused(caller, before);
    if answer.status() != 204 && !(excused && answer.status() == 409) {
        return Err(refused("pause", &answer));
    }
    course.model.lock().paused(&target.id, true);
    let changed = |what: &str| Violation::Changed { id: target.id.clone(), what: what.to_owned() };
    match (memory, halted(caller, &target.id).await?) {
        (_, None) => Err(changed("was paused, and runs")),
        // A daemon that finds it before its machine has gone leaves that standing still.
        (false, Some(now)) if now.memory && !excused => {
            Err(changed("was paused without its memory, and has kept it"))
        }
        (true, Some(now)) if !now.memory => {
            course.came_to("given up their memory", 1);
            Ok(())
        }
        (_, Some(_)) => Ok(()),
    }
}

/// Lets a paused sandbox go on and compares it with what it was.
pub(crate) async fn resume(
    course: &Course,
    caller: &mut Caller,
    target: &Sandbox,
) -> Result<(), Violation> {
    let began = Instant::now();
    let kept = go_on(caller, target).await?;
    let runner = match caller.runner_pid(target).await? {
        Some(_) if kept == Kept::Files => {
            let what = "was started anew, and runs what it had before".to_owned();
            return Err(Violation::Changed { id: target.id.clone(), what });
        }
        Some(_) => target.runner.clone(),
        None if kept == Kept::Memory => {
            let how = "had kept its memory, and has lost its long-running program".to_owned();
            return Err(Violation::Lost { id: target.id.clone(), how });
        }
        None => caller.start_runner(target).await?,
    };
    let ends = Ends { earliest: began + LIFE, latest: Instant::now() + LIFE };
    let target = Sandbox { runner: runner.clone(), ends, paused: false, ..target.clone() };
    let answer = caller.look_into(&target).await?;
    if let Some(first) = lost(&target, true, Some(&Ok(answer))).into_iter().next() {
        return Err(first);
    }
    course.model.lock().resumed(&target.id, runner, ends);
    course.came_to(if kept == Kept::Memory { "gone on" } else { "started from files" }, 1);
    Ok(())
}

/// Connects to it until it runs; each time it is asked before what is kept of it.
async fn go_on(caller: &mut Caller, target: &Sandbox) -> Result<Kept, Violation> {
    let path = format!("/sandboxes/{}/connect", target.id);
    let body = json!({ "timeout": LIFE.as_secs() }).to_string();
    let ask = Ask::api(&caller.daemon, "POST", path, body);
    let budget = Budget::within(PATIENCE);
    let mut told = None;
    loop {
        let before = caller.daemon.up().await?;
        let now = halted(caller, &target.id).await?;
        // It runs: an earlier try was done, and nobody heard of it.
        let unheard = now.is_none();
        told = now.map(|now| now.memory).or(told);
        let answer = match caller.once(&ask).await {
            Err(Trouble::Cut) => continue,
            Err(Trouble::Broken(violation)) => return Err(violation),
            Ok(answer) => answer,
        };
        if caller.passes(&answer) && !budget.remaining().is_zero() {
            tokio::time::sleep(AGAIN).await;
            continue;
        }
        if !matches!(answer.status(), StatusCode::OK | StatusCode::CREATED) {
            return Err(refused("connect", &answer));
        }
        let sure = !caller.daemon.is_faulty()
            || !unheard && answer.status() == 201 && caller.daemon.standing() == before;
        return match told {
            None => Err(Violation::unexpected("was paused, and runs".to_owned())),
            Some(_) if !sure => Ok(Kept::Unsure),
            Some(true) => Ok(Kept::Memory),
            Some(false) => Ok(Kept::Files),
        };
    }
}

/// What is kept of one sandbox; `None` when it runs.
async fn halted(caller: &mut Caller, id: &str) -> Result<Option<Halted>, Violation> {
    let ask = Ask::api(&caller.daemon, "GET", format!("/sandboxes/{id}"), "");
    let answer = caller.ask(&ask).await?;
    if answer.status() != 200 {
        let how = format!("was announced and is not there: {}", answer.status());
        return Err(Violation::Lost { id: id.to_owned(), how });
    }
    let one = parsed(&answer);
    let key = one["metadata"]["soak"].as_str().unwrap_or_default().to_owned();
    match (one["state"].as_str(), one["pauseMode"].as_str()) {
        (Some("running"), None) => Ok(None),
        (Some("paused"), Some(mode @ ("full" | "filesystem"))) => {
            Ok(Some(Halted { key, memory: mode == "full" }))
        }
        _ => Err(refused("ask whether it is paused", &answer)),
    }
}

/// Every paused sandbox of the team.
pub(crate) async fn all_paused(caller: &mut Caller) -> Result<BTreeMap<String, Halted>, Violation> {
    let mut found = BTreeMap::new();
    for one in pages(caller, "/v2/sandboxes?state=paused").await? {
        let id = one["sandboxID"].as_str().unwrap_or_default();
        // One whose time was over meanwhile would run: there is none that goes on by itself.
        if let Some(halted) = halted(caller, id).await? {
            found.insert(id.to_owned(), halted);
        }
    }
    Ok(found)
}

/// Every snapshot of the team.
pub(crate) async fn all_snapshots(caller: &mut Caller) -> Result<Vec<String>, Violation> {
    let all = pages(caller, "/snapshots?").await?;
    Ok(all.iter().map(|one| one["snapshotID"].as_str().unwrap_or_default().to_owned()).collect())
}

/// Removes what an earlier run has left: paused sandboxes and snapshots outlive their records.
///
/// # Errors
/// Something does not go.
pub(crate) async fn clear(caller: &mut Caller) -> Result<(), Violation> {
    let paused = all_paused(caller).await?.into_keys().map(|id| format!("/sandboxes/{id}"));
    let snapshots = all_snapshots(caller).await?.into_iter();
    let snapshots = snapshots.map(|id| format!("/templates/{}", id.replace('/', "%2F")));
    for path in paused.chain(snapshots) {
        let gone = caller.ask(&Ask::api(&caller.daemon, "DELETE", path, "")).await?;
        if !matches!(gone.status().as_u16(), 204 | 404) {
            return Err(refused("remove what an earlier run has left", &gone));
        }
    }
    Ok(())
}

async fn pages(caller: &mut Caller, path: &str) -> Result<Vec<Value>, Violation> {
    let (mut found, mut token) = (Vec::new(), String::new());
    loop {
        let page = format!("{path}&limit={PAGE}{token}");
        let answer = caller.ask(&Ask::api(&caller.daemon, "GET", page, "")).await?;
        let Value::Array(list) = parsed(&answer) else {
            return Err(refused("list", &answer));
        };
        found.extend(list);
        let next = answer.headers().get("x-next-token").and_then(|next| next.to_str().ok());
        let Some(next) = next else { return Ok(found) };
        token = format!("&nextToken={next}");
    }
}

fn parsed(answer: &Response<bytes::Bytes>) -> Value {
    serde_json::from_slice(answer.body()).unwrap_or_default()
}

/// Whether what was done may have been done before, with an answer that nobody heard.
fn is_excused(caller: &Caller, before: Standing) -> bool {
    caller.daemon.is_faulty() || caller.daemon.standing() != before
}

impl Worker {
    /// Makes a template of it, and of that a sandbox with the same files and no program of it. Both
    /// are gone again when it is over.
    pub(super) async fn snapshot(
        &mut self,
        number: u64,
        target: &Sandbox,
    ) -> Result<(), Violation> {
        let course = Arc::clone(&self.course);
        let before = self.caller.daemon.up().await?;
        let name = self.key(number);
        let path = format!("/sandboxes/{}/snapshots", target.id);
        let body = json!({ "name": name }).to_string();
        let made = self.caller.ask(&Ask::api(&course.daemon, "POST", path, body)).await?;
        if made.status() != StatusCode::CREATED {
            return Err(refused("make a snapshot", &made));
        }
        let copy = create_of(&mut self.caller, &name, &name).await?;
        course.created();
        self.compare(target, &copy).await?;
        kill(&course, &copy, 1).await?;
        let path = format!("/templates/{name}");
        let gone = self.caller.ask(&Ask::api(&course.daemon, "DELETE", path, "")).await?;
        let excused = is_excused(&self.caller, before) && gone.status() == 404;
        if gone.status() != 204 && !excused {
            return Err(refused("remove a snapshot", &gone));
        }
        Ok(())
    }

    async fn compare(&mut self, target: &Sandbox, copy: &Sandbox) -> Result<(), Violation> {
        let changed = |what: String| Violation::Changed {
            id: copy.id.clone(),
            what: format!("a copy {what}"),
        };
        if self.caller.runner_pid(copy).await?.is_some() {
            return Err(changed("of files runs a program".to_owned()));
        }
        let copy = Sandbox { files: target.files.clone(), ..copy.clone() };
        let mut names = self.caller.names(&copy).await?;
        names.sort();
        if !names.iter().eq(target.files.keys()) {
            return Err(changed(format!("has {names:?}, not {:?}", target.files.keys())));
        }
        for (name, content) in &target.files {
            if self.caller.read(&copy, name).await? != content.bytes() {
                return Err(changed(format!("has another content of {name}")));
            }
        }
        Ok(())
    }
}
