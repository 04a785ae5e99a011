//! The daemon under test: killed, started again, handed over, while others use it.

use std::net::SocketAddr;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use lifecycle::Budget;
use parking_lot::Mutex;
use tokio::sync::watch;

use super::model::Violation;
use super::schedule::faults;
use crate::client::Client;
use crate::service::{Launch, Service, Starting};

/// From the ready line to a health of 200.
const HEALTHY: Duration = Duration::from_secs(60);
/// From its start to the ready line, the base template included.
const READY: Duration = Duration::from_secs(300);
/// How long a daemon's death may take to be noticed here.
const NOTICED: Duration = Duration::from_secs(2);
/// How often is looked whether it still runs.
const LOOK: Duration = Duration::from_millis(10);

/// Which daemon serves, if one does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Standing {
    pub generation: u32,
    pub up: bool,
}

/// How to reach it. The same for every daemon of a run.
#[derive(Debug, Clone)]
pub(crate) struct Access {
    pub address: SocketAddr,
    pub key: String,
    pub admin: String,
}

#[derive(Debug)]
pub(crate) struct Daemon {
    launch: Launch,
    seed: u64,
    /// Faults that a start may have.
    faults: Vec<String>,
    service: tokio::sync::Mutex<Option<Service>>,
    standing: watch::Sender<Standing>,
    access: Access,
    counts: Mutex<Counts>,
    /// Nobody is to be started again.
    over: AtomicBool,
}

/// How often, and how long the start after it took until it was healthy.
#[derive(Debug, Default, Clone)]
pub(crate) struct Counts {
    pub kills: u32,
    /// Kills by a fault of its own, at the point it names.
    pub own_kills: u32,
    pub handovers: u32,
    pub leaves: u32,
    pub restarts: Vec<Duration>,
}

impl Daemon {
    /// Starts the first one. Later ones listen where it does.
    pub(crate) async fn start(
        mut launch: Launch,
        seed: u64,
        faults: Vec<String>,
    ) -> anyhow::Result<Self> {
        let service = ready(launch.spawn()?).await?;
        launch.listen = service.address;
        let access = Access {
            address: service.address,
            key: service.key.clone(),
            admin: service.admin.clone(),
        };
        let daemon = Self {
            launch,
            seed,
            faults,
            service: tokio::sync::Mutex::new(Some(service)),
            standing: watch::Sender::new(Standing { generation: 1, up: false }),
            access,
            counts: Mutex::default(),
            over: AtomicBool::new(false),
        };
        daemon.healthy().await?;
        daemon.standing.send_modify(|standing| standing.up = true);
        Ok(daemon)
    }

    pub(crate) fn access(&self) -> &Access {
        &self.access
    }

    pub(crate) fn launch(&self) -> &Launch {
        &self.launch
    }

    pub(crate) fn counts(&self) -> Counts {
        self.counts.lock().clone()
    }

    /// Whether requests may fail by the faults the daemon was started with.
    pub(crate) fn is_faulty(&self) -> bool {
        !self.faults.is_empty()
    }

    pub(crate) async fn pid(&self) -> Option<u32> {
        self.service.lock().await.as_ref().map(Service::pid)
    }

    /// Which one serves now, if one does.
    pub(crate) fn standing(&self) -> Standing {
        *self.standing.borrow()
    }

    /// Waits for one that serves.
    ///
    /// # Errors
    /// None does within a minute and a half.
    pub(crate) async fn up(&self) -> Result<Standing, Violation> {
        let mut standing = self.standing.subscribe();
        let up = standing.wait_for(|standing| standing.up);
        match Budget::within(HEALTHY + HEALTHY / 2).run("start", up).await {
            Ok(Ok(standing)) => Ok(*standing),
            Ok(Err(_)) | Err(_) => Err(Violation::unexpected("no daemon has come up again")),
        }
    }

    /// Whether what went wrong under `standing` has its reason in the end of that daemon.
    pub(crate) async fn went(&self, standing: Standing) -> bool {
        let mut now = self.standing.subscribe();
        let changed = now.wait_for(|now| *now != standing);
        Budget::within(NOTICED).run("notice", changed).await.is_ok()
    }

    /// `kill -9`, and the next one. Answers when that is healthy.
    pub(crate) async fn kill(&self) -> anyhow::Result<()> {
        let mut service = self.service.lock().await;
        self.down();
        service.take().context("no daemon")?.kill()?;
        self.counts.lock().kills += 1;
        self.again(&mut service, None).await
    }

    /// The same, and the next one is killed after `gap`, while it starts.
    pub(crate) async fn kill_twice(&self, gap: Duration) -> anyhow::Result<()> {
        let mut service = self.service.lock().await;
        self.down();
        service.take().context("no daemon")?.kill()?;
        self.counts.lock().kills += 2;
        self.again(&mut service, Some(gap)).await
    }

    /// A signal to one that leaves its sandboxes, and the next one.
    pub(crate) async fn leave(&self) -> anyhow::Result<()> {
        let mut service = self.service.lock().await;
        self.down();
        let old = service.take().context("no daemon")?;
        let status = tokio::task::spawn_blocking(move || old.terminate()).await??;
        self.went_well("left its sandboxes", status)?;
        self.counts.lock().leaves += 1;
        self.again(&mut service, None).await
    }

    /// Starts the next one beside the one that serves, which ends by itself.
    pub(crate) async fn hand_over(&self) -> anyhow::Result<()> {
        let mut service = self.service.lock().await;
        let began = Instant::now();
        let next = Launch { handover: true, ..self.launch.clone() };
        let next = match ready(next.spawn()?).await {
            // A fault has killed the one that was asked, before it had given everything.
            Err(_) if self.is_faulty() && is_killed(service.as_mut())? => {
                self.down();
                *service = None;
                self.counts.lock().own_kills += 1;
                return self.again(&mut service, None).await;
            }
            next => next?,
        };
        let old = service.replace(next).context("no daemon")?;
        self.counts.lock().handovers += 1;
        self.standing.send_modify(|standing| standing.generation += 1);
        let status = tokio::task::spawn_blocking(move || old.wait()).await??;
        self.went_well("handed over", status)?;
        self.healthy().await?;
        self.counts.lock().restarts.push(began.elapsed());
        Ok(())
    }

    /// Starts the next one whenever a fault has killed one, until [`Daemon::let_go`].
    ///
    /// Cancel safety: no; a start that is dropped leaves its process.
    ///
    /// # Errors
    /// One has ended otherwise, or the next does not start.
    pub(crate) async fn keep(&self) -> Result<(), Violation> {
        while !self.over.load(Ordering::Relaxed) {
            tokio::time::sleep(LOOK).await;
            match self.look().await {
                Ok(None) => {}
                Ok(Some(violation)) => return Err(violation),
                Err(error) => return Err(Violation::unexpected(format!("{error:#}"))),
            }
        }
        Ok(())
    }

    /// Ends [`Daemon::keep`].
    pub(crate) fn let_go(&self) {
        self.over.store(true, Ordering::Relaxed);
    }

    async fn look(&self) -> anyhow::Result<Option<Violation>> {
        // Whoever has it is ending it.
        let Ok(mut service) = self.service.try_lock() else { return Ok(None) };
        let Some(running) = service.as_mut() else { return Ok(None) };
        let Some(status) = running.ended()? else { return Ok(None) };
        self.down();
        *service = None;
        if !self.is_faulty() || status.signal() != Some(9) {
            let what = format!("the daemon ended by itself: {status}");
            return Ok(Some(Violation::unexpected(what)));
        }
        self.counts.lock().own_kills += 1;
        self.again(&mut service, None).await?;
        Ok(None)
    }

    /// How one has ended that was asked to go. A fault may have killed it on the way, or it tells of
    /// the fault by its exit code: the next one finds what is left.
    fn went_well(&self, what: &str, status: ExitStatus) -> anyhow::Result<()> {
        match (status.code(), status.signal()) {
            (Some(0), _) => {}
            (Some(1), _) if self.is_faulty() => {}
            (_, Some(9)) if self.is_faulty() => self.counts.lock().own_kills += 1,
            _ => bail!("the daemon that {what} ended with {status}"),
        }
        Ok(())
    }

    /// The next one; `gap` is how long a first try lives.
    async fn again(
        &self,
        service: &mut Option<Service>,
        gap: Option<Duration>,
    ) -> anyhow::Result<()> {
        if let Some(gap) = gap {
            let starting = self.launch.spawn()?;
            tokio::time::sleep(gap).await;
            starting.kill()?;
        }
        let began = Instant::now();
        *service = Some(self.next().await?);
        self.counts.lock().restarts.push(began.elapsed());
        self.standing.send_modify(|standing| {
            *standing = Standing { generation: standing.generation + 1, up: true };
        });
        Ok(())
    }

    /// One that is healthy. With faults it may be killed on the way, more than once.
    async fn next(&self) -> anyhow::Result<Service> {
        const TRIES: usize = 5;
        for number in 0..TRIES {
            let starts = self.counts.lock().restarts.len() + number;
            let faults = faults(self.seed, starts as u64, &self.faults);
            // The last try has none: a fault on the way in would never end.
            let faults = faults.filter(|_| number + 1 < TRIES);
            let launch = Launch { faults, ..self.launch.clone() };
            let tried = async {
                let mut service = ready(launch.spawn()?).await?;
                match self.healthy().await {
                    Err(error) if service.ended()?.is_none() => {
                        service.kill()?;
                        Err(error)
                    }
                    healthy => healthy.map(|()| service),
                }
            };
            match tried.await {
                Err(_) if launch.faults.is_some() => self.counts.lock().own_kills += 1,
                tried => return tried,
            }
        }
        bail!("the daemon does not start")
    }

    /// Said before the deed, so that who sees its effect knows of it.
    fn down(&self) {
        self.standing.send_modify(|standing| standing.up = false);
    }

    async fn healthy(&self) -> anyhow::Result<()> {
        let budget = Budget::within(HEALTHY);
        let mut last = String::new();
        while !budget.remaining().is_zero() {
            let health = async {
                let mut client = Client::new(self.access.address, &self.access.key).await?;
                client.call("GET", "/health", "").await
            };
            let health = budget.run("health", health).await??;
            if health.status() == 200 {
                return Ok(());
            }
            last = String::from_utf8_lossy(health.body()).into_owned();
            tokio::time::sleep(LOOK).await;
        }
        bail!("the daemon is not healthy: {last}")
    }

    /// SIGTERM to the last one. Its exit code.
    pub(crate) async fn stop(&self) -> anyhow::Result<Option<i32>> {
        let Some(service) = self.service.lock().await.take() else { return Ok(None) };
        self.down();
        let status = tokio::task::spawn_blocking(move || service.terminate()).await??;
        Ok(status.code())
    }
}

/// Waits for its ready line; one that does not say it in time is killed.
async fn ready(starting: Starting) -> anyhow::Result<Service> {
    let pid = starting.pid();
    let mut reading = tokio::task::spawn_blocking(move || starting.ready());
    if let Ok(ready) = Budget::within(READY).run("the ready line", &mut reading).await {
        return ready?;
    }
    // It is not reaped before its output ends, so the number is still its own.
    if let Some(pid) = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw) {
        rustix::process::kill_process(pid, rustix::process::Signal::KILL)?;
    }
    reading.await??;
    bail!("no ready line within {READY:?}")
}

/// Whether it was killed.
fn is_killed(service: Option<&mut Service>) -> anyhow::Result<bool> {
    let Some(service) = service else { return Ok(false) };
    Ok(service.ended()?.is_some_and(|status| status.signal() == Some(9)))
}
