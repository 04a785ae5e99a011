//! Sandboxes that fall asleep at the end of their time and are woken: by traffic, or by two who want
//! them at once. Each step has one of its own.

use std::sync::Arc;
use std::time::Instant;

use lifecycle::Budget;
use serde_json::{Value, json};

use super::caller::{AGAIN, Ask, Caller, PATIENCE, refused};
use super::model::{Sandbox, Violation};
use super::ops::{LIFE, Worker, create_asked, kill};
use super::schedule::{Content, Waking};

/// What is written before it falls asleep.
const FILE: &str = "kept";

impl Worker {
    /// Makes one, has it fall asleep after `seconds`, wakes it, and finds it as it was.
    pub(super) async fn doze(
        &mut self,
        number: u64,
        seconds: u64,
        (waking, content): (Waking, Content),
    ) -> Result<String, Violation> {
        let (course, key) = (Arc::clone(&self.course), self.key(number));
        let pauses = json!({ "autoPause": true, "autoResume": { "enabled": true } });
        let ask = create_asked(&self.caller, &key, "base", pauses);
        let made = super::ops::made(&mut self.caller, &key, &ask).await?;
        course.created();
        let runner = self.caller.start_runner(&made).await?;
        let sandbox = Sandbox { runner, ..made };
        self.caller.write(&sandbox, FILE, content).await?;
        let before = self.caller.daemon.standing();
        let memory = self.asleep(&sandbox, seconds).await?;
        match waking {
            Waking::Traffic => {}
            Waking::Race => race(&mut self.caller, &sandbox).await?,
        }
        // Also what wakes one that nobody has woken.
        if self.caller.read(&sandbox, FILE).await? != content.bytes() {
            let what = "has another file after it was woken".to_owned();
            return Err(Violation::Changed { id: sandbox.id, what });
        }
        let there = self.caller.runner_pid(&sandbox).await?;
        let sure = !self.caller.daemon.is_faulty() && self.caller.daemon.standing() == before;
        if sure && memory && there != Some(sandbox.runner.pid) {
            let how = "had kept its memory, and has lost its long-running program".to_owned();
            return Err(Violation::Lost { id: sandbox.id, how });
        }
        course.came_to("been woken", 1);
        kill(&course, &sandbox, 1).await?;
        Ok(sandbox.id)
    }

    /// Gives it so little time that it falls asleep, and waits for that. Whether it keeps its memory.
    async fn asleep(&mut self, sandbox: &Sandbox, seconds: u64) -> Result<bool, Violation> {
        let path = format!("/sandboxes/{}/timeout", sandbox.id);
        let body = json!({ "timeout": seconds }).to_string();
        let ask = Ask::api(&self.caller.daemon, "POST", path, body);
        let answer = self.caller.ask(&ask).await?;
        // One that was repeated may find it asleep, or gone from the routes.
        let repeated = self.mode(sandbox).await? != Mode::Runs;
        if answer.status() != 204 && !repeated {
            return Err(refused("set the timeout", &answer));
        }
        let (began, budget) = (Instant::now(), Budget::within(PATIENCE));
        loop {
            match self.mode(sandbox).await? {
                Mode::Asleep { memory } => return Ok(memory),
                _ if budget.remaining().is_zero() => {
                    let what = format!("is not asleep {:?} after its end", began.elapsed());
                    return Err(Violation::Changed { id: sandbox.id.clone(), what });
                }
                Mode::Runs | Mode::FallsAsleep => tokio::time::sleep(AGAIN).await,
            }
        }
    }

    async fn mode(&mut self, sandbox: &Sandbox) -> Result<Mode, Violation> {
        let path = format!("/sandboxes/{}", sandbox.id);
        let answer = self.caller.ask(&Ask::api(&self.caller.daemon, "GET", path, "")).await?;
        let one: Value = serde_json::from_slice(answer.body()).unwrap_or_default();
        match (answer.status().as_u16(), one["state"].as_str(), one["pauseMode"].as_str()) {
            (200, Some("running"), _) => Ok(Mode::Runs),
            (200, Some("paused"), None) => Ok(Mode::FallsAsleep),
            (200, Some("paused"), Some(mode)) => Ok(Mode::Asleep { memory: mode == "full" }),
            _ => {
                let how = format!("falls asleep and is not there: {}", answer.status());
                Err(Violation::Lost { id: sandbox.id.clone(), how })
            }
        }
    }
}

/// What is told of one that falls asleep.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    Runs,
    FallsAsleep,
    Asleep { memory: bool },
}

/// Two connect at once: both have it.
async fn race(caller: &mut Caller, sandbox: &Sandbox) -> Result<(), Violation> {
    let path = format!("/sandboxes/{}/connect", sandbox.id);
    let body = json!({ "timeout": LIFE.as_secs() }).to_string();
    let ask = Ask::api(&caller.daemon, "POST", path, body);
    let mut other = Caller::new(Arc::clone(&caller.daemon));
    let (one, two) = tokio::join!(caller.ask(&ask), other.ask(&ask));
    for answer in [one?, two?] {
        if !matches!(answer.status().as_u16(), 200 | 201) {
            return Err(refused("connect beside another", &answer));
        }
    }
    Ok(())
}
