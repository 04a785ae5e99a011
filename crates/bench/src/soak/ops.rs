//! One step of a worker: done, compared with what must come of it, and written into the model.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Response, StatusCode};
use lifecycle::Budget;
use serde_json::{Value, json};

use super::caller::{Ask, Caller, Trouble, refused};
use super::course::Course;
use super::model::{Ends, Runner, Sandbox, Violation};
use super::pauses::{pause, resume};
use super::schedule::{Asked, Op, Step};

/// Longer than any soak, shorter than the longest life a team may ask for.
pub(crate) const LIFE: Duration = Duration::from_secs(23 * 3600);
/// Who is about to end by itself is left alone: whether it still answers is chance.
pub(crate) const LASTS: Duration = Duration::from_secs(120);

/// What an operation is called in the journal and the summary.
pub(crate) fn kind(op: Op) -> &'static str {
    match op {
        Op::Create(Asked::Once) => "create",
        Op::Create(Asked::Again | Asked::Twice) => "create",
        Op::HangUp { .. } => "hang-up",
        Op::Command { .. } => "command",
        Op::Attach => "attach",
        Op::Write { .. } => "write",
        Op::Read { .. } => "read",
        Op::ListFiles => "list-files",
        Op::Expire { .. } => "expire",
        Op::Extend { .. } => "extend",
        Op::Kill { .. } => "kill",
        Op::Look => "look",
        Op::Metrics => "metrics",
        Op::Pause { .. } => "pause",
        Op::Resume => "resume",
        Op::Snapshot => "snapshot",
        Op::Doze { .. } => "doze",
    }
}

/// What `worker` is and has to do.
pub(crate) struct Worker {
    pub number: u32,
    pub course: Arc<Course>,
    pub caller: Caller,
    /// Sandboxes it may have at a time.
    pub most: usize,
}

impl Worker {
    /// Does its `number`th step.
    pub(crate) async fn step(&mut self, number: u64, step: Step) -> Result<(), Violation> {
        let now = Instant::now();
        let (has, mine): (usize, Vec<Sandbox>) = {
            let model = self.course.model.lock();
            let lasting = model.of(self.number, now + LASTS).into_iter().cloned().collect();
            (model.of(self.number, now).len(), lasting)
        };
        let paused = mine.iter().filter(|sandbox| sandbox.paused).count();
        let Step { op, pick } = step.with(mine.len() - paused, paused, has, self.most);
        let keepers = mine.iter().filter(|sandbox| sandbox.keeper).count();
        let keeper = keepers < self.keepers();
        let legal: Vec<&Sandbox> = mine.iter().filter(|one| is_legal(op, one)).collect();
        let at = usize::try_from(pick % legal.len().max(1) as u64).unwrap_or(0);
        let target = legal.get(at).copied();
        let name = format!("worker {}", self.number);
        let at = target.map_or("", |target| target.id.as_str());
        self.course.journal.note(&name, &format!("#{number} {op:?} {at} begins"));
        let began = Instant::now();
        let done = match (op, target) {
            (Op::Create(asked), _) => self.create(number, asked, keeper).await,
            (Op::HangUp { after_us }, _) => self.hang_up(number, after_us).await,
            (Op::Doze { seconds, waking, content }, _) => {
                self.doze(number, seconds, (waking, content)).await
            }
            (op, Some(target)) => {
                self.with(op, (number, pick), target).await.map(|()| target.id.clone())
            }
            (_, None) => {
                // All it has are about to end.
                tokio::time::sleep(Duration::from_millis(5)).await;
                return Ok(());
            }
        };
        let told = match &done {
            Ok(target) => target.clone(),
            Err(violation) => violation.to_string(),
        };
        let ms = began.elapsed().as_secs_f64() * 1000.0;
        let line = format!("#{number} {op:?} {told} {ms:.1} ms");
        self.course.journal.note(&name, &line);
        self.course.count(kind(op));
        done.map(drop)
    }

    async fn with(
        &mut self,
        op: Op,
        (number, pick): (u64, u64),
        target: &Sandbox,
    ) -> Result<(), Violation> {
        let found = match op {
            Op::Create(_) | Op::HangUp { .. } | Op::Doze { .. } => Ok(()),
            Op::Command { code, word } => self.command(target, code, word).await,
            Op::Attach => self.caller.attach(target, pick).await,
            Op::Write { file, content } => {
                let name = format!("f{file}");
                self.caller.write(target, &name, content).await?;
                self.course.model.lock().wrote(&target.id, &name, content);
                Ok(())
            }
            Op::Read { file } => self.read(target, file).await,
            Op::ListFiles => self.list_files(target).await,
            Op::Expire { seconds } | Op::Extend { seconds } => {
                self.move_end(target, Duration::from_secs(seconds)).await
            }
            Op::Kill { racers } => kill(&self.course, target, racers).await,
            Op::Look => self.look(target).await,
            Op::Metrics => self.metrics(target).await,
            Op::Pause { memory } => pause(&self.course, &mut self.caller, target, memory).await,
            Op::Resume => resume(&self.course, &mut self.caller, target).await,
            Op::Snapshot => self.snapshot(number, target).await,
        };
        match found {
            Err(Violation::Unexpected { what }) => Err(self.explained(target, what).await),
            found => found,
        }
    }

    /// What went wrong with `target`, in the words of the first question about it: is it there?
    async fn explained(&mut self, target: &Sandbox, what: String) -> Violation {
        let id = target.id.clone();
        let ask = Ask::api(&self.caller.daemon, "GET", format!("/sandboxes/{id}"), "");
        match self.caller.ask(&ask).await {
            Ok(answer) if answer.status() == 404 => {
                Violation::Lost { id, how: format!("was announced and is not there; {what}") }
            }
            // The edge says so of a sandbox it has no way to.
            _ if what.contains("was not found") => {
                Violation::Lost { id, how: format!("was announced and has no route; {what}") }
            }
            _ => Violation::unexpected(format!("sandbox {id}: {what}")),
        }
    }

    /// How many of its sandboxes nobody ends before the run does.
    fn keepers(&self) -> usize {
        self.most / 4
    }

    pub(super) fn key(&self, number: u64) -> String {
        format!("soak-{}-{}-{number}", self.course.seed, self.number)
    }

    async fn create(
        &mut self,
        number: u64,
        asked: Asked,
        keeper: bool,
    ) -> Result<String, Violation> {
        let key = self.key(number);
        let mut other = Caller::new(Arc::clone(&self.caller.daemon));
        let (first, second) = match asked {
            Asked::Once => (self.announced(&key).await?, None),
            Asked::Again => {
                let first = self.announced(&key).await?;
                (first, Some(create(&mut other, &key).await?))
            }
            Asked::Twice => {
                let (first, second) =
                    tokio::join!(create(&mut self.caller, &key), create(&mut other, &key));
                (first?, Some(second?))
            }
        };
        if let Some(second) = second.filter(|second| second.id != first.id) {
            let what = format!("the key {key} has made {} and {}", first.id, second.id);
            return Err(Violation::unexpected(what));
        }
        self.course.created();
        let mut sandbox = Sandbox { key, worker: self.number, keeper, ..first };
        sandbox.runner = match self.caller.start_runner(&sandbox).await {
            Err(Violation::Unexpected { what }) => {
                return Err(self.explained(&sandbox, what).await);
            }
            started => started?,
        };
        let id = sandbox.id.clone();
        self.course.model.lock().announced(sandbox);
        Ok(id)
    }

    async fn announced(&mut self, key: &str) -> Result<Sandbox, Violation> {
        create(&mut self.caller, key).await
    }

    /// Asks for a sandbox and is gone before the answer.
    async fn hang_up(&mut self, number: u64, after_us: u64) -> Result<String, Violation> {
        let key = self.key(number);
        self.course.model.lock().hung_up(&key);
        let ask = create_ask(&self.caller, &key, "base");
        // Not the kept connection: this one is dropped.
        let mut caller = Caller::new(Arc::clone(&self.caller.daemon));
        let budget = Budget::within(Duration::from_micros(after_us));
        match budget.run("hang up", caller.once(&ask)).await {
            Ok(Err(Trouble::Broken(violation))) => Err(violation),
            // Done, cut or dropped: the next check finds out.
            Ok(Ok(_) | Err(Trouble::Cut)) | Err(_) => Ok(key),
        }
    }

    async fn command(&mut self, target: &Sandbox, code: u8, word: u64) -> Result<(), Violation> {
        let said = self.caller.run(target, &format!("echo {word:x}; exit {code}")).await?;
        if said != (i64::from(code), format!("{word:x}\n")) {
            let what = format!("a command that says {word:x} and ends with {code}: {said:?}");
            return Err(Violation::unexpected(what));
        }
        Ok(())
    }

    async fn read(&mut self, target: &Sandbox, file: u8) -> Result<(), Violation> {
        let name = format!("f{file}");
        let Some(content) = target.files.get(&name) else {
            return self.caller.is_missing(target, &name).await;
        };
        if self.caller.read(target, &name).await? != content.bytes() {
            let what = format!("the file {name} has another content");
            return Err(Violation::Changed { id: target.id.clone(), what });
        }
        Ok(())
    }

    async fn list_files(&mut self, target: &Sandbox) -> Result<(), Violation> {
        let mut names = self.caller.names(target).await?;
        names.sort();
        if !names.iter().eq(target.files.keys()) {
            let what = format!("are the files {names:?}, not {:?}", target.files.keys());
            return Err(Violation::Changed { id: target.id.clone(), what });
        }
        Ok(())
    }

    async fn move_end(&mut self, target: &Sandbox, life: Duration) -> Result<(), Violation> {
        let began = Instant::now();
        let path = format!("/sandboxes/{}/timeout", target.id);
        let body = json!({ "timeout": life.as_secs() }).to_string();
        let ask = Ask::api(&self.caller.daemon, "POST", path, body);
        let answer = self.caller.ask(&ask).await?;
        // One that was cut off may have set a short time that is over before it is repeated.
        let over = answer.status() == 404 && began.elapsed() >= life;
        if answer.status() != 204 && !over {
            return Err(refused("set the timeout", &answer));
        }
        let ends = Ends { earliest: began + life, latest: Instant::now() + life };
        self.course.model.lock().ends(&target.id, ends);
        Ok(())
    }

    async fn look(&mut self, target: &Sandbox) -> Result<(), Violation> {
        let path = format!("/sandboxes/{}", target.id);
        let answer = self.caller.ask(&Ask::api(&self.caller.daemon, "GET", path, "")).await?;
        let one: Value = serde_json::from_slice(answer.body()).unwrap_or_default();
        if answer.status() != 200 || one["metadata"]["soak"] != target.key {
            return Err(refused("look at it", &answer));
        }
        let listed = listed(&mut self.caller).await?;
        if !listed.contains_key(&target.id) {
            let how = "answers and is not in the list".to_owned();
            return Err(Violation::Lost { id: target.id.clone(), how });
        }
        Ok(())
    }

    async fn metrics(&mut self, target: &Sandbox) -> Result<(), Violation> {
        let path = format!("/sandboxes/{}/metrics", target.id);
        let answer = self.caller.ask(&Ask::api(&self.caller.daemon, "GET", path, "")).await?;
        let samples: Value = serde_json::from_slice(answer.body()).unwrap_or_default();
        if answer.status() != 200 || samples[0]["memTotal"].as_u64().unwrap_or(0) == 0 {
            return Err(refused("ask for metrics", &answer));
        }
        Ok(())
    }
}

/// Every sandbox of the team: keys by ids.
pub(crate) async fn listed(
    caller: &mut Caller,
) -> Result<std::collections::BTreeMap<String, String>, Violation> {
    let answer = caller.ask(&Ask::api(&caller.daemon, "GET", "/sandboxes", "")).await?;
    let list: Vec<Value> = serde_json::from_slice(answer.body()).unwrap_or_default();
    if answer.status() != 200 {
        return Err(refused("list sandboxes", &answer));
    }
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    Ok(list.iter().map(|one| (text(&one["sandboxID"]), text(&one["metadata"]["soak"]))).collect())
}

/// Whether `op` may be done to `sandbox`.
fn is_legal(op: Op, sandbox: &Sandbox) -> bool {
    match op {
        Op::Kill { .. } => !sandbox.keeper,
        Op::Expire { .. } => !sandbox.keeper && !sandbox.paused,
        Op::Resume => sandbox.paused,
        _ => !sandbox.paused,
    }
}

fn create_ask(caller: &Caller, key: &str, template: &str) -> Ask {
    create_asked(caller, key, template, json!({}))
}

/// The same, with the fields of `more`.
pub(super) fn create_asked(caller: &Caller, key: &str, template: &str, more: Value) -> Ask {
    let mut body = more;
    body["metadata"] = json!({ "soak": key });
    body["templateID"] = json!(template);
    body["timeout"] = json!(LIFE.as_secs());
    Ask::api(&caller.daemon, "POST", "/v2/sandboxes", body.to_string()).with("idempotency-key", key)
}

/// A sandbox that nothing was done to yet.
pub(crate) async fn create(caller: &mut Caller, key: &str) -> Result<Sandbox, Violation> {
    create_of(caller, key, "base").await
}

/// The same, of `template`.
pub(crate) async fn create_of(
    caller: &mut Caller,
    key: &str,
    template: &str,
) -> Result<Sandbox, Violation> {
    let ask = create_ask(caller, key, template);
    made(caller, key, &ask).await
}

/// What is made by `ask`.
pub(super) async fn made(caller: &mut Caller, key: &str, ask: &Ask) -> Result<Sandbox, Violation> {
    let began = Instant::now();
    let answer = caller.ask(ask).await?;
    let made: Value = serde_json::from_slice(answer.body()).unwrap_or_default();
    let (StatusCode::CREATED, Some(id)) = (answer.status(), made["sandboxID"].as_str()) else {
        return Err(refused("create", &answer));
    };
    Ok(Sandbox {
        id: id.to_owned(),
        key: key.to_owned(),
        worker: u32::MAX,
        keeper: false,
        paused: false,
        token: made["envdAccessToken"].as_str().unwrap_or_default().to_owned(),
        runner: Runner { pid: 0, started: String::new() },
        files: std::collections::BTreeMap::new(),
        ends: Ends { earliest: began + LIFE, latest: Instant::now() + LIFE },
    })
}

/// `racers` DELETEs at the same time: all are answered, one at least by 204, and it is gone.
pub(crate) async fn kill(course: &Course, target: &Sandbox, racers: u8) -> Result<(), Violation> {
    let path = format!("/sandboxes/{}", target.id);
    let ask = Ask::api(&course.daemon, "DELETE", path.as_str(), "");
    let before = course.daemon.up().await?;
    let mut racing = tokio::task::JoinSet::new();
    for _ in 0..racers {
        let (mut caller, ask) = (Caller::new(Arc::clone(&course.daemon)), ask.clone());
        racing.spawn(async move { caller.ask(&ask).await });
    }
    let mut answers: Vec<Response<Bytes>> = Vec::new();
    while let Some(answer) = racing.join_next().await {
        answers.push(answer.map_err(|error| Violation::unexpected(error.to_string()))??);
    }
    // Whoever was answered 204 may not have heard it, when the daemon ended meanwhile or a fault
    // was in the way; and one whose time was over may have gone by itself.
    let excused = course.daemon.up().await? != before
        || course.daemon.is_faulty()
        || target.ends.earliest <= Instant::now();
    let done = excused || answers.iter().any(|answer| answer.status() == 204);
    let legal = |answer: &&Response<Bytes>| matches!(answer.status().as_u16(), 204 | 404);
    if let Some(answer) = answers.iter().find(|answer| !legal(answer) || !done) {
        return Err(refused("kill", answer));
    }
    course.model.lock().ended(&target.id);
    let mut caller = Caller::new(Arc::clone(&course.daemon));
    let after = caller.ask(&Ask::api(&course.daemon, "GET", path, "")).await?;
    if after.status() != 404 {
        return Err(Violation::Undead { id: target.id.clone() });
    }
    Ok(())
}
