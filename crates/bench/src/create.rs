//! `bench create`.

mod crowd;

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use clap::Args;
use images::Store;

use self::crowd::Crowd;
use crate::client::Client;
use crate::floor::Floor;
use crate::numbers::{Series, line};
use crate::service::{Service, data_dir, target};
use crate::soak::Host;

#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Sandboxes measured one at a time.
    #[arg(long, default_value_t = 100)]
    n: u16,
    /// Sandboxes created at a concurrency of 8.
    #[arg(long, default_value_t = 200)]
    burst: u16,
    /// Sandboxes that run while creates are measured again; 0 leaves that part out.
    #[arg(long, default_value_t = 500)]
    many: u16,
    /// Connections that the host remembers meanwhile, beside those of sandboxes (conntrack); half a
    /// million at most.
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u32).range(..=500_000))]
    connections: u32,
}

const CONCURRENCY: u16 = 8;

pub(crate) fn run(options: &Options) -> anyhow::Result<()> {
    // Started from a thread outside the floor's view, as it is on a host.
    let service = Service::start()?;
    let crowd = Crowd::gather(options.connections)?;
    println!("connections that the host remembers: {}", Host::take().connections);
    let measured = std::thread::scope(|scope| {
        // The view is a thread's: this one ends with it.
        scope.spawn(|| measure(&service, options)).join().ok()
    });
    drop(crowd);
    service.stop()?;
    let (floors, ours) = measured.context("the measuring thread panicked")??;
    report(options, &floors, &ours);
    Ok(())
}

/// How long the host is left alone before a sample of what comes after a rest. The kernel delays what
/// was not done for a time: with cgroup v1 the first process that is moved between groups by
/// `cgroup.procs` waits for an RCU grace period, 5 to 20 ms, and those right after it do not
/// (kernel/rcu/sync.c). Most creates of a user come after a rest.
const REST: Duration = Duration::from_millis(100);

/// What the runtime alone takes.
#[derive(Default)]
struct Floors {
    rested: Series,
    create: Series,
    kill: Series,
    burst: Duration,
}

#[derive(Default)]
struct Measured {
    /// Creates on a host at rest; all others are back to back.
    rested: Series,
    create: Series,
    kill: Series,
    burst: Duration,
    command: Series,
    resident_mib_at_100: f64,
    with_10: Series,
    with_many: Series,
}

fn measure(service: &Service, options: &Options) -> anyhow::Result<(Floors, Measured)> {
    let view = host::view::enter()?;
    let runtime = tokio::runtime::Runtime::new()?;
    let images = Store::open(&data_dir().join("images"))?;
    let floor = Floor::new(view, &images, &target("release/envd"))?;
    let measured = runtime.block_on(series(service, &floor, options));
    runtime.block_on(floor.close())?;
    measured
}

async fn series(
    service: &Service,
    floor: &Arc<Floor>,
    options: &Options,
) -> anyhow::Result<(Floors, Measured)> {
    let (mut floors, mut ours) = (Floors::default(), Measured::default());
    let mut client = Client::new(service.address, &service.key).await?;
    for index in 0..options.n {
        let mut bare = floor.prepare(index).await?;
        tokio::time::sleep(REST).await;
        floors.rested.push(floor.create(&mut bare).await?);
        floor.kill(&mut bare).await?;
        floor.clean_up(bare).await?;
        tokio::time::sleep(REST).await;
        let id = timed(&mut ours.rested, client.create()).await?;
        client.kill(&id).await?;
    }
    let id = client.create().await?;
    for _ in 0..options.n {
        timed(&mut ours.command, client.run_true(&id)).await?;
    }
    client.kill(&id).await?;
    // By turns, so that whatever else the machine does falls on both.
    for index in 0..options.n {
        let mut bare = floor.prepare(index).await?;
        floors.create.push(floor.create(&mut bare).await?);
        floors.kill.push(floor.kill(&mut bare).await?);
        floor.clean_up(bare).await?;
        let id = timed(&mut ours.create, client.create()).await?;
        timed(&mut ours.kill, client.kill(&id)).await?;
    }
    floors.burst = bare_burst(floor, options).await?;
    let (took, ids) = burst(service, options.burst).await?;
    ours.burst = took;
    for id in ids {
        client.kill(&id).await?;
    }
    crowded(service, &mut client, options, &mut ours).await?;
    Ok((floors, ours))
}

/// Creates beside some, and beside many; the memory that so many take.
async fn crowded(
    service: &Service,
    client: &mut Client,
    options: &Options,
    ours: &mut Measured,
) -> anyhow::Result<()> {
    let mut live = Vec::new();
    grow(client, &mut live, 10).await?;
    ours.with_10 = creates(client, options.n).await?;
    grow(client, &mut live, 100).await?;
    ours.resident_mib_at_100 = service.resident_mib()?;
    grow(client, &mut live, usize::from(options.many)).await?;
    ours.with_many = creates(client, options.n).await?;
    for id in live {
        client.kill(&id).await?;
    }
    Ok(())
}

/// The runtime alone, [`CONCURRENCY`] at a time.
async fn bare_burst(floor: &Arc<Floor>, options: &Options) -> anyhow::Result<Duration> {
    let mut ready = Vec::new();
    for index in 0..options.burst {
        ready.push(floor.prepare(options.n + index).await?);
    }
    let queue = Arc::new(tokio::sync::Mutex::new(ready));
    let began = Instant::now();
    let mut workers = tokio::task::JoinSet::new();
    for _ in 0..CONCURRENCY {
        let (floor, queue) = (Arc::clone(floor), Arc::clone(&queue));
        workers.spawn(async move {
            let mut done = Vec::new();
            loop {
                let next = queue.lock().await.pop();
                let Some(mut bare) = next else { return anyhow::Ok(done) };
                floor.create(&mut bare).await?;
                done.push(bare);
            }
        });
    }
    let mut running = Vec::new();
    while let Some(done) = workers.join_next().await {
        running.extend(done??);
    }
    let took = began.elapsed();
    for mut bare in running {
        floor.kill(&mut bare).await?;
        floor.clean_up(bare).await?;
    }
    Ok(took)
}

async fn timed<T>(
    series: &mut Series,
    work: impl Future<Output = anyhow::Result<T>>,
) -> anyhow::Result<T> {
    let began = Instant::now();
    let done = work.await?;
    series.push(began.elapsed());
    Ok(done)
}

async fn creates(client: &mut Client, n: u16) -> anyhow::Result<Series> {
    let mut series = Series::default();
    for _ in 0..n {
        let id = timed(&mut series, client.create()).await?;
        client.kill(&id).await?;
    }
    Ok(series)
}

async fn grow(client: &mut Client, live: &mut Vec<String>, to: usize) -> anyhow::Result<()> {
    while live.len() < to {
        live.push(client.create().await?);
    }
    Ok(())
}

pub(crate) async fn burst(
    service: &Service,
    count: u16,
) -> anyhow::Result<(Duration, Vec<String>)> {
    let left = Arc::new(std::sync::atomic::AtomicU16::new(count));
    let began = Instant::now();
    let mut workers = tokio::task::JoinSet::new();
    for _ in 0..CONCURRENCY {
        let left = Arc::clone(&left);
        let mut client = Client::new(service.address, &service.key).await?;
        workers.spawn(async move {
            use std::sync::atomic::Ordering::Relaxed;
            let mut ids = Vec::new();
            while left.fetch_update(Relaxed, Relaxed, |n| n.checked_sub(1)).is_ok() {
                ids.push(client.create().await?);
            }
            anyhow::Ok(ids)
        });
    }
    let mut ids = Vec::new();
    while let Some(done) = workers.join_next().await {
        ids.extend(done??);
    }
    Ok((began.elapsed(), ids))
}

fn report(options: &Options, floor: &Floors, ours: &Measured) {
    println!("after a rest of {} ms:", REST.as_millis());
    println!("floor: crun create+start+first byte  {}", floor.rested.summary());
    println!("ours:  create to 201                 {}", ours.rested.summary());
    println!("ours:  commands.run(\"true\")          {}", ours.command.summary());
    println!("back to back:");
    println!("floor: crun create+start+first byte  {}", floor.create.summary());
    println!("ours:  create to 201                 {}", ours.create.summary());
    println!("floor: kill+delete+unmount           {}", floor.kill.summary());
    println!("ours:  kill to 204                   {}", ours.kill.summary());
    println!("ours:  create with 10 live           {}", ours.with_10.summary());
    println!("ours:  create with {} live          {}", options.many, ours.with_many.summary());
    println!();
    ratio("create after a rest, p50", ours.rested.p50(), floor.rested.p50(), 1.5, "ms");
    ratio("create, one at a time, p50", ours.create.p50(), floor.create.p50(), 1.5, "ms");
    ratio("kill, p50", ours.kill.p50(), floor.kill.p50(), 1.5, "ms");
    let what = format!("{} created, 8 at a time", options.burst);
    ratio(&what, ours.burst.as_secs_f64(), floor.burst.as_secs_f64(), 1.5, "s");
    let what = format!("create with {} live against 10 live, p50", options.many);
    ratio(&what, ours.with_many.p50(), ours.with_10.p50(), 1.3, "ms");
    let command = ours.command.p50();
    line("command round trip, p50", &format!("{command:.2} ms"), "< 5 ms", command < 5.0);
    let mib = ours.resident_mib_at_100;
    line("resident memory with 100 idle", &format!("{mib:.1} MiB"), "< 60 MB", mib < 57.2);
}

fn ratio(what: &str, ours: f64, floor: f64, limit: f64, unit: &str) {
    let measured = format!("{ours:.1} / {floor:.1} {unit} = {:.2}x", ours / floor);
    line(what, &measured, &format!("<= {limit}x"), ours <= floor * limit);
}
