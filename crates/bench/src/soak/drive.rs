//! A run from start to verdict.

use std::fs;
use std::pin::pin;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use lifecycle::Budget;
use tokio::sync::Mutex;
use tokio::task::JoinSet;

use super::bare::Bare;
use super::caller::Caller;
use super::course::{Course, leaks, settled};
use super::daemon::Daemon;
use super::footprint::{Footprint, Host, Rest};
use super::journal::Journal;
use super::model::{Sandbox, Violation};
use super::ops::{Worker, kill, listed};
use super::pauses::{clear, resume};
use super::probe;
use super::report::Report;
use super::schedule::{Break, End, bounded, breaks, step};
use super::{Load, Options};
use crate::service::{Launch, leaks as leak_report};

/// How often everything is compared while the daemon lives.
const EVERY: Duration = Duration::from_secs(20);
/// Longer than any step takes: what takes longer does not come to an end.
const STEP: Duration = Duration::from_secs(240);
/// How often is looked how far the run is.
const TICK: Duration = Duration::from_millis(5);
/// A worker's pause between two steps of a light load. With four workers that is some eight steps a
/// second, of a few milliseconds each.
const LIGHT_PAUSE: Duration = Duration::from_millis(500);
/// Threads, connections and slots made ahead may take that long to be as before.
const CALM: Duration = Duration::from_secs(45);

pub(super) async fn drive(options: &Options) -> anyhow::Result<ExitCode> {
    let report = Box::pin(soak(options)).await?;
    report.print();
    Ok(if report.violation.is_none() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn soak(options: &Options) -> anyhow::Result<Report> {
    fs::create_dir_all(&options.log_dir)?;
    let log = options.log_dir.join("daemon.log");
    fs::write(&log, "")?;
    let launch = Launch {
        program: options.program.clone(),
        data: options.data_dir.clone(),
        envd: options.envd.clone(),
        log: Some(log.clone()),
        ..Launch::default()
    };
    clean(&launch).await?;
    let launch = Launch { leaves: options.leaves > 0, ..launch };
    let breaks = breaks(options.seed, options.ends()?);
    let journal = Journal::create(&options.log_dir.join("journal"))?;
    journal.note("seed", &format!("{options:?}"));
    journal.note("breaks", &format!("{breaks:?}"));
    let mut report = Report::new(options.seed, journal.path().to_owned(), log, Host::take());
    let faults = options.faults.iter().map(|word| bounded(word)).collect();
    let agent = options.envd.clone().unwrap_or_else(|| options.program.with_file_name("envd"));
    let bare = Bare::start(&options.data_dir.join("images"), &agent).await?;
    let bare = Arc::new(Mutex::new(bare));
    let daemon = Daemon::start(launch, options.seed, faults).await?;
    let course = Arc::new(Course::new(options.seed, Arc::new(daemon), journal));
    let began = Instant::now();
    let mut keeping = pin!(course.daemon.keep());
    let ran = tokio::select! {
        kept = &mut keeping => kept,
        ran = Box::pin(through(options, &course, &bare, breaks, &mut report)) => {
            course.daemon.let_go();
            // Not dropped: it may be starting a daemon.
            ran.and(keeping.await)
        }
    };
    let closed = bare.lock().await.close().await;
    let stopped = stop(&course).await;
    report.took = began.elapsed();
    let closed = closed.map_err(|error| broken("remove what bare containers had", &error));
    report.violation = ran.and(stopped).and(closed).err();
    report.fill(&course);
    Ok(report)
}

/// Has a daemon take away what others have left.
async fn sweep(launch: &Launch) -> anyhow::Result<()> {
    let launch = launch.clone();
    tokio::task::spawn_blocking(move || launch.spawn()?.ready()?.stop()).await??;
    Ok(())
}

/// Removes what an earlier run has left.
async fn clean(launch: &Launch) -> anyhow::Result<()> {
    sweep(launch).await?;
    for name in ["control-plane.sqlite", "control-plane.sqlite-wal", "control-plane.sqlite-shm"] {
        match fs::remove_file(launch.data.join(name)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(error).with_context(|| format!("remove {name}"));
            }
            _ => {}
        }
    }
    let left = leak_report(launch)?;
    ensure!(left["leaked"].as_array().is_some_and(Vec::is_empty), "left before the run: {left}");
    Ok(())
}

fn broken(what: &str, error: &anyhow::Error) -> Violation {
    Violation::unexpected(format!("{what}: {error:#}"))
}

async fn through(
    options: &Options,
    course: &Arc<Course>,
    bare: &Arc<Mutex<Bare>>,
    breaks: Vec<Break>,
    report: &mut Report,
) -> Result<(), Violation> {
    let mut caller = Caller::new(Arc::clone(&course.daemon));
    clear(&mut caller).await?;
    // Also warms up what is made once.
    report.before = probe::alone(course, &mut caller, bare, options, "before").await?;
    let baseline = calm(course, &mut caller, None).await?;
    report.baseline = Some(baseline.clone());
    let mut workers = JoinSet::new();
    for number in 0..options.workers {
        let caller = Caller::new(Arc::clone(&course.daemon));
        let most = options.max_live.div_ceil(options.workers.max(1) as usize);
        let worker = Worker { number, course: Arc::clone(course), caller, most };
        workers.spawn(work(worker, options.load, options.pauses));
    }
    if options.load == Load::Light {
        workers.spawn(probe::beside(Arc::clone(course), Arc::clone(bare)));
    }
    let rest = Rest::begin();
    let mut conducting = Box::pin(conduct(options, course, breaks));
    let conducted = tokio::select! {
        conducted = &mut conducting => conducted,
        // None ends before the course is over, but by a violation.
        Some(ended) = workers.join_next() => {
            course.end();
            // Not dropped: it may be starting a daemon.
            joined(ended).and(conducting.await)
        }
    };
    course.end();
    // One that is in the middle of a step when another has failed is not waited for.
    conducted?;
    while let Some(ended) = workers.join_next().await {
        joined(ended)?;
    }
    report.idle = rest.share();
    course.check().await?;
    let paused: Vec<Sandbox> =
        course.model.lock().live().filter(|sandbox| sandbox.paused).cloned().collect();
    for sandbox in paused {
        resume(course, &mut caller, &sandbox).await?;
    }
    course.check().await?;
    report.kept = course.model.lock().live().filter(|sandbox| sandbox.keeper).count();
    for id in listed(&mut caller).await?.into_keys() {
        let sandbox = course.model.lock().live().find(|one| one.id == id).cloned();
        if let Some(sandbox) = sandbox {
            kill(course, &sandbox, 1).await?;
        }
    }
    course.check().await?;
    report.after = probe::alone(course, &mut caller, bare, options, "after").await?;
    report.end = Some(calm(course, &mut caller, Some(&baseline)).await?);
    Ok(())
}

fn joined(ended: Result<Result<(), Violation>, tokio::task::JoinError>) -> Result<(), Violation> {
    ended.unwrap_or_else(|error| Err(Violation::unexpected(error.to_string())))
}

async fn work(mut worker: Worker, load: Load, pauses: bool) -> Result<(), Violation> {
    let course = Arc::clone(&worker.course);
    let mut number = 0;
    while !course.is_over() {
        {
            let _in_the_world = course.world.read().await;
            let step = step(course.seed, worker.number, number, pauses);
            let done = Budget::within(STEP).run("a step", worker.step(number, step)).await;
            done.unwrap_or_else(|expired| {
                let what = format!("#{number} of worker {}: {expired}", worker.number);
                Err(Violation::unexpected(what))
            })?;
        }
        number += 1;
        if load == Load::Light {
            tokio::time::sleep(LIGHT_PAUSE).await;
        }
    }
    Ok(())
}

/// Ends the daemon when it is time to, and compares everything after that and in between.
async fn conduct(
    options: &Options,
    course: &Arc<Course>,
    breaks: Vec<Break>,
) -> Result<(), Violation> {
    let began = Instant::now();
    let mut checked = began;
    let mut breaks = breaks.into_iter().peekable();
    while !course.is_over() {
        let progress = progress(options, began.elapsed(), course.churned());
        if let Some(due) = breaks.next_if(|due| due.at <= progress) {
            tokio::time::sleep(Duration::from_micros(due.wait_us)).await;
            end(course, due.end).await?;
            course.check().await?;
            checked = Instant::now();
        } else if progress >= 1000 {
            return Ok(());
        } else if checked.elapsed() >= EVERY {
            course.check().await?;
            checked = Instant::now();
        } else {
            tokio::time::sleep(TICK).await;
        }
    }
    Ok(())
}

/// Thousandths of the run.
fn progress(options: &Options, elapsed: Duration, churned: u64) -> u64 {
    let made = options.churn.map_or(0, |churn| churned * 1000 / churn.max(1));
    if options.minutes.is_none() && options.churn.is_some() {
        return made;
    }
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "thousandths")]
    let passed = (elapsed.as_secs_f64() / (options.minutes() * 60.0) * 1000.0) as u64;
    passed.max(made)
}

async fn end(course: &Course, end: End) -> Result<(), Violation> {
    course.journal.note("daemon", &format!("{end:?} begins"));
    let ended = match end {
        End::Kill => course.daemon.kill().await,
        End::KillTwice { gap_ms } => course.daemon.kill_twice(Duration::from_millis(gap_ms)).await,
        End::HandOver => course.daemon.hand_over().await,
        End::Leave => course.daemon.leave().await,
    };
    ended.map_err(|error| broken("the next daemon", &error))?;
    course.came_to("outlived a daemon", course.paused());
    let took = course.daemon.counts().restarts.last().copied().unwrap_or_default();
    course.journal.note("daemon", &format!("{end:?} done, healthy after {took:.1?}"));
    Ok(())
}

/// The footprint once nothing moves any more; compared with `before`, once nothing has grown.
async fn calm(
    course: &Course,
    caller: &mut Caller,
    before: Option<&Footprint>,
) -> Result<Footprint, Violation> {
    let began = Instant::now();
    let block = block(course).map_err(|error| broken("the node's mark", &error))?;
    let mut last: Option<Footprint> = None;
    loop {
        settled(caller, CALM).await?;
        let pid = course.daemon.pid().await.unwrap_or(0);
        let now = Footprint::take(pid, &course.daemon.launch().data, block)
            .map_err(|error| broken("the footprint", &error))?;
        let grown = match before {
            Some(before) => now.grown(before, course.churned()),
            // Threads and connections of the warm-up go, too.
            None if last.is_some_and(|last| last.threads == now.threads) => Vec::new(),
            None => vec![Violation::unexpected("the number of threads does not come to rest")],
        };
        let Some(first) = grown.into_iter().next() else { return Ok(now) };
        if began.elapsed() > CALM {
            return Err(first);
        }
        last = Some(now);
        tokio::time::sleep(Duration::from_secs(2)).await;
    }
}

/// Whose names are the node's: its firewall table ends with the number.
fn block(course: &Course) -> anyhow::Result<u8> {
    let report = leak_report(course.daemon.launch())?;
    let owned = report["owned"].as_array().context("no list of what is owned")?;
    let table = owned.iter().find(|item| item["kind"] == "firewall-table");
    let name = table.and_then(|item| item["name"].as_str()).context("no firewall table")?;
    Ok(name.rsplit('_').next().unwrap_or_default().parse()?)
}

/// Stops the last daemon: it must say that nothing is left, and nothing may be.
async fn stop(course: &Course) -> Result<(), Violation> {
    let code = course.daemon.stop().await.map_err(|error| broken("stop", &error))?;
    let launch = course.daemon.launch();
    if code.is_none() || launch.leaves {
        // None came up any more, or the last one has left everything to another: which comes.
        let launch = Launch { leaves: false, ..launch.clone() };
        sweep(&launch).await.map_err(|error| broken("clean up", &error))?;
    }
    // 3 after a violation: there were sandboxes to end.
    let had = course.model.lock().live().count() > 0;
    // 1 where it left and a fault was in the way: it has said so.
    let told = launch.leaves && course.daemon.is_faulty() && code == Some(1);
    if !told && !matches!((code, had), (None | Some(0), _) | (Some(3), true)) {
        return Err(Violation::unexpected(format!("the last daemon ended with {code:?}")));
    }
    let (_, leaked) = leaks(&course.daemon).await.map_err(|error| broken("leaks", &error))?;
    match leaked.into_iter().next() {
        Some(what) => Err(Violation::Leaked { what: format!("after the stop: {what}") }),
        None => Ok(()),
    }
}
