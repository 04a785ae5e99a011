//! `bench drain`.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use clap::Args;
use images::Store;
use lifecycle::Gate;

use crate::client::{Client, leave_running};
use crate::create::burst;
use crate::floor::Floor;
use crate::numbers::{Series, line};
use crate::service::{Service, data_dir, target};

#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Sandboxes that are ended at once.
    #[arg(long, default_value_t = 200)]
    many: u16,
    /// Times an empty node is drained and stopped.
    #[arg(long, default_value_t = 5)]
    empty: u16,
}

/// As many teardowns as the node releases at a time.
const CONCURRENCY: u16 = 16;
/// Keeps a processor and the disk busy.
const BUSY: &str = "while :; do head -c 65536 /dev/zero > /tmp/busy; done";

pub(crate) fn run(options: &Options) -> anyhow::Result<()> {
    // Makes the base template on the first run.
    Service::start()?.stop()?;
    let floors = (floor(options, None)?, floor(options, Some(BUSY))?);
    let runtime = tokio::runtime::Runtime::new()?;
    let idle = forced(&runtime, options, None)?;
    let busy = forced(&runtime, options, Some(BUSY))?;
    let (mut drained, mut stopped) = (Series::default(), Series::default());
    for _ in 0..options.empty {
        let service = Service::start()?;
        drained.push(runtime.block_on(drain_empty(&service))?);
        stopped.push(service.stop()?);
    }
    let pass = pass_ns();
    report(options, floors, (idle, busy), &drained, &stopped, pass);
    Ok(())
}

/// Kill, runtime delete and unmount of as many containers, in which `command` runs, without the node.
fn floor(options: &Options, command: Option<&'static str>) -> anyhow::Result<Duration> {
    let many = options.many;
    let measure = move || {
        let view = host::view::enter()?;
        let runtime = tokio::runtime::Runtime::new()?;
        let images = Store::open(&data_dir().join("images"))?;
        let floor = Floor::new(view, &images, &target("release/envd"))?;
        let took = runtime.block_on(bare_kills(&floor, many, command));
        runtime.block_on(floor.close())?;
        took
    };
    // The view is a thread's: this one ends with it.
    std::thread::spawn(measure).join().ok().context("the floor panicked")?
}

async fn bare_kills(
    floor: &Arc<Floor>,
    many: u16,
    command: Option<&str>,
) -> anyhow::Result<Duration> {
    let mut running = Vec::new();
    // Indices of its own: the kernel takes links away a little later than they are let go.
    let first = if command.is_some() { many } else { 0 };
    for index in first..first + many {
        let mut bare = floor.prepare(index).await?;
        floor.create(&mut bare).await?;
        running.push(bare);
    }
    for bare in command.iter().flat_map(|_| &running) {
        leave_running(bare.agent()?, bare.id(), command.unwrap_or_default()).await?;
    }
    let queue = Arc::new(tokio::sync::Mutex::new(running));
    let began = Instant::now();
    let mut workers = tokio::task::JoinSet::new();
    for _ in 0..CONCURRENCY {
        let (floor, queue) = (Arc::clone(floor), Arc::clone(&queue));
        workers.spawn(async move {
            let mut done = Vec::new();
            loop {
                let next = queue.lock().await.pop();
                let Some(mut bare) = next else { return anyhow::Ok(done) };
                floor.kill(&mut bare).await?;
                done.push(bare);
            }
        });
    }
    let mut dead = Vec::new();
    while let Some(done) = workers.join_next().await {
        dead.extend(done??);
    }
    let took = began.elapsed();
    for bare in dead {
        floor.clean_up(bare).await?;
    }
    Ok(took)
}

/// From the signal to the end of the process, which is after an empty census.
fn forced(
    runtime: &tokio::runtime::Runtime,
    options: &Options,
    command: Option<&str>,
) -> anyhow::Result<Duration> {
    let service = Service::start()?;
    let (_, ids) = runtime.block_on(burst(&service, options.many))?;
    for id in command.iter().flat_map(|_| &ids) {
        runtime.block_on(leave_running(service.address, id, command.unwrap_or_default()))?;
    }
    service.stop()
}

/// From the request to a document that says that nothing is left.
async fn drain_empty(service: &Service) -> anyhow::Result<Duration> {
    let mut client = Client::new(service.address, &service.key).await?;
    let nodes = client.admin(&service.admin, "GET", "/nodes", "").await?;
    let nodes: serde_json::Value = serde_json::from_slice(nodes.body())?;
    let id = nodes[0]["id"].as_str().context("no node")?.to_owned();
    let began = Instant::now();
    let body = r#"{"status":"draining"}"#;
    let asked = client.admin(&service.admin, "POST", &format!("/nodes/{id}"), body).await?;
    ensure!(asked.status() == 204, "drain: {}", asked.status());
    let path = format!("/nodes/{id}/drain");
    let document = client.admin(&service.admin, "GET", &path, "").await?;
    let text = String::from_utf8_lossy(document.body()).into_owned();
    ensure!(text.contains("\"draining\""), "not draining: {text}");
    Ok(began.elapsed())
}

/// Nanoseconds to enter and leave a gate that nobody else uses.
fn pass_ns() -> f64 {
    const TIMES: u32 = 1_000_000;
    let gate = Gate::default();
    let began = Instant::now();
    for _ in 0..TIMES {
        drop(std::hint::black_box(gate.enter()));
    }
    began.elapsed().as_secs_f64() * 1e9 / f64::from(TIMES)
}

fn report(
    options: &Options,
    (bare_idle, bare_busy): (Duration, Duration),
    (idle, busy): (Duration, Duration),
    drained: &Series,
    stopped: &Series,
    pass: f64,
) {
    let many = options.many;
    let ratio = |what: &str, ours: Duration, floor: Duration, limit: f64| {
        let (ours, floor) = (ours.as_secs_f64() * 1000.0, floor.as_secs_f64() * 1000.0);
        let measured = format!("{ours:.0} / {floor:.0} ms = {:.2}x", ours / floor);
        line(what, &measured, &format!("<= {limit}x"), ours <= floor * limit);
    };
    ratio(&format!("force stop of {many} idle, empty census"), idle, bare_idle, 2.0);
    ratio(&format!("force stop of {many} busy against idle"), busy, idle, 1.3);
    // What the kernel needs more to end busy ones, whoever asks.
    ratio(&format!("force stop of {many} busy against the bare kill"), busy, bare_busy, 2.0);
    let (bare_busy, bare_idle) = (bare_busy.as_secs_f64(), bare_idle.as_secs_f64());
    println!("bare kill of {many} busy against idle: {:.2}x", bare_busy / bare_idle);
    let ms = drained.p50();
    line("drain of an empty node, p50", &format!("{ms:.1} ms"), "< 50 ms", ms < 50.0);
    let ms = stopped.p50();
    line("stop with nothing running, p50", &format!("{ms:.0} ms"), "< 1000 ms", ms < 1000.0);
    line("pass, enter and leave", &format!("{pass:.0} ns"), "< 1000 ns", pass < 1000.0);
}
