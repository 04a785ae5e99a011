//! `bench recover`: a daemon is killed; how soon the next one serves its sandboxes, or has removed
//! what cannot be served.
//!
//! The floor is the start of a daemon that has nothing to take over, and what no way of taking over
//! can do without: a process descriptor for every sandbox and a look at its record, which a plain
//! loop in this process does with the same processes and files.

mod leftovers;

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use clap::Args;
use tokio::task::JoinSet;

use self::leftovers::{Left, bare_look, end_sandboxes};
use crate::client::{Client, connect};
use crate::create::burst;
use crate::numbers::{Series, line, told};
use crate::service::{Launch, Service, leaks, target};

#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Numbers of sandboxes that live when the daemon is killed.
    #[arg(long, value_delimiter = ',', default_values_t = [10, 100, 500])]
    live: Vec<u16>,
    /// Starts with nothing to take over.
    #[arg(long, default_value_t = 5)]
    empty: u16,
    /// The program under test.
    #[arg(long, default_value_os_t = target("release/cofferdam"))]
    program: std::path::PathBuf,
}

/// Sandboxes made one at a time for the cost of their records.
const CREATES: u16 = 100;
/// The sum of the daemon's writes of records, in seconds.
const WRITES: &str = "cofferdam_record_write_seconds_sum{result=\"ok\"}";
/// Sandboxes asked at a time whether they serve.
const CONCURRENCY: usize = 16;
/// For everything to be served, or to be gone.
const LIMIT: Duration = Duration::from_secs(120);
/// Between two looks; a part of the precision of what is measured by them.
const LOOK: Duration = Duration::from_millis(2);

/// Times since the process was started.
#[derive(Debug)]
struct Adopted {
    healthy: Duration,
    /// The first sandbox runs a command.
    first: Duration,
    /// Every sandbox has answered. None when some are not listed any more.
    all: Option<Duration>,
    listed: usize,
}

#[derive(Debug)]
struct Reclaimed {
    healthy: Duration,
    unlisted: Duration,
    /// Nothing is left but what the new daemon itself holds.
    clean: Duration,
    objects: usize,
}

#[derive(Debug)]
struct Measured {
    live: u16,
    bare: Duration,
    adopted: Adopted,
    reclaimed: Reclaimed,
}

pub(crate) fn run(options: &Options) -> anyhow::Result<()> {
    let launch = Launch { program: options.program.clone(), ..Launch::default() };
    // Makes the base template on the first run, and clears away what another run has left.
    launch.spawn()?.ready()?.stop()?;
    let runtime = tokio::runtime::Runtime::new()?;
    let mut empty = Series::default();
    for _ in 0..options.empty {
        let (service, healthy) = runtime.block_on(started(&launch, Instant::now()))?;
        empty.push(healthy);
        service.stop()?;
    }
    let durable = runtime.block_on(durability(&launch))?;
    let mut all = Vec::new();
    for live in options.live.iter().copied() {
        all.push(runtime.block_on(measure(&launch, live))?);
    }
    report(&empty, &durable, &all);
    Ok(())
}

/// What it costs a create that a daemon may be killed during it, and after it.
#[derive(Debug)]
struct Durability {
    creates: Series,
    /// All writes of the record, for one create, on average.
    writes: Duration,
}

/// Creates one at a time, and asks the daemon how long it wrote records for them.
async fn durability(launch: &Launch) -> anyhow::Result<Durability> {
    let (service, _) = started(launch, Instant::now()).await?;
    let mut client = Client::new(service.address, &service.key).await?;
    let mut creates = Series::default();
    let mut ids = Vec::new();
    for _ in 0..CREATES {
        let began = Instant::now();
        ids.push(client.create().await?);
        creates.push(began.elapsed());
    }
    let answer = client.admin(&service.admin, "GET", "/metrics", "").await?;
    let text = String::from_utf8_lossy(answer.body());
    let sum = text.lines().find_map(|line| line.strip_prefix(WRITES)?.trim().parse::<f64>().ok());
    let sum = sum.with_context(|| format!("no {WRITES} in {text}"))?;
    for id in &ids {
        client.kill(id).await?;
    }
    service.stop()?;
    Ok(Durability { creates, writes: Duration::from_secs_f64(sum) / u32::from(CREATES) })
}

async fn measure(launch: &Launch, live: u16) -> anyhow::Result<Measured> {
    let (service, _) = started(launch, Instant::now()).await?;
    let (_, ids) = burst(&service, live).await?;
    let bare = bare_look(launch)?;
    service.kill()?;
    let (service, adopted) = adopt(launch, ids).await?;
    // Those that were not taken over are made again, so that as many can be removed.
    let missing = usize::from(live).saturating_sub(adopted.listed);
    burst(&service, u16::try_from(missing)?).await?;
    service.kill()?;
    let left = end_sandboxes(launch)?;
    let (service, reclaimed) = reclaim(launch, &left).await?;
    service.stop()?;
    Ok(Measured { live, bare, adopted, reclaimed })
}

/// A daemon whose health is 200, and how long that took since `began`.
async fn started(launch: &Launch, began: Instant) -> anyhow::Result<(Service, Duration)> {
    let launch = launch.clone();
    let service = tokio::task::spawn_blocking(move || launch.spawn()?.ready()).await??;
    let mut client = Client::new(service.address, &service.key).await?;
    until("healthy", async || Ok(client.call("GET", "/health", "").await?.status() == 200)).await?;
    Ok((service, began.elapsed()))
}

async fn until(
    what: &str,
    mut holds: impl AsyncFnMut() -> anyhow::Result<bool>,
) -> anyhow::Result<()> {
    let began = Instant::now();
    while !holds().await? {
        ensure!(began.elapsed() < LIMIT, "not {what} after {LIMIT:?}");
        tokio::time::sleep(LOOK).await;
    }
    Ok(())
}

async fn adopt(launch: &Launch, ids: Vec<String>) -> anyhow::Result<(Service, Adopted)> {
    let began = Instant::now();
    let (service, healthy) = started(launch, began).await?;
    let mut client = Client::new(service.address, &service.key).await?;
    let listed = listed(&mut client).await?;
    let there: Vec<String> = ids.iter().filter(|id| listed.contains(id)).cloned().collect();
    if let Some(first) = there.first() {
        client.run_true(first).await?;
    }
    let first = began.elapsed();
    let (asked, listed) = (ids.len(), there.len());
    answer(&service, there).await?;
    let all = (listed == asked).then(|| began.elapsed());
    Ok((service, Adopted { healthy, first, all, listed }))
}

async fn listed(client: &mut Client) -> anyhow::Result<Vec<String>> {
    let answer = client.call("GET", "/sandboxes", "").await?;
    let list: Vec<serde_json::Value> = serde_json::from_slice(answer.body())?;
    let id = |one: &serde_json::Value| Some(one["sandboxID"].as_str()?.to_owned());
    list.iter().map(|one| id(one).context("no sandboxID")).collect()
}

/// Asks the agents of all `ids` through the edge, [`CONCURRENCY`] at a time.
async fn answer(service: &Service, ids: Vec<String>) -> anyhow::Result<()> {
    let queue = Arc::new(parking_lot::Mutex::new(ids));
    let mut workers = JoinSet::new();
    for _ in 0..CONCURRENCY {
        let queue = Arc::clone(&queue);
        let mut sender = connect(service.address).await?;
        workers.spawn(async move {
            loop {
                let next = queue.lock().pop();
                let Some(id) = next else { return anyhow::Ok(()) };
                let request = http::Request::get("/health")
                    .header("host", "localhost")
                    .header("e2b-sandbox-id", &id)
                    .header("e2b-sandbox-port", guest_wire::ENVD_PORT.to_string())
                    .body(http_body_util::Full::default())?;
                sender.ready().await?;
                let answer = sender.send_request(request).await?;
                ensure!(answer.status() == 204, "{id}: {}", answer.status());
            }
        });
    }
    while let Some(done) = workers.join_next().await {
        done??;
    }
    Ok(())
}

/// The start of a daemon all of whose sandboxes are dead.
async fn reclaim(launch: &Launch, left: &Left) -> anyhow::Result<(Service, Reclaimed)> {
    let began = Instant::now();
    let (service, healthy) = started(launch, began).await?;
    let mut client = Client::new(service.address, &service.key).await?;
    until("unlisted", async || Ok(listed(&mut client).await?.is_empty())).await?;
    let unlisted = began.elapsed();
    until("clean", async || Ok(left.is_gone())).await?;
    let clean = began.elapsed();
    let report = leaks(launch)?;
    let leaked = report["leaked"].as_array().context("no list of what is leaked")?;
    ensure!(leaked.is_empty(), "leaked after the reclaim: {leaked:?}");
    Ok((service, Reclaimed { healthy, unlisted, clean, objects: left.objects() }))
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

fn report(empty: &Series, durable: &Durability, all: &[Measured]) {
    println!("floor: start of an empty daemon to health 200    {}", empty.summary());
    for Measured { live, bare, adopted, reclaimed } in all {
        println!();
        println!("floor: {live} process descriptors and records   {:.1} ms", ms(*bare));
        println!(
            "{live} live at the kill: healthy after {:.0} ms, first command after {:.0} ms, {} of \
             {live} listed{}",
            ms(adopted.healthy),
            ms(adopted.first),
            adopted.listed,
            adopted
                .all
                .map_or(String::new(), |all| format!(", all answer after {:.0} ms", ms(all)))
        );
        println!(
            "{live} dead at the start: healthy after {:.0} ms, list empty after {:.0} ms, {} \
             objects gone after {:.0} ms",
            ms(reclaimed.healthy),
            ms(reclaimed.unlisted),
            reclaimed.objects,
            ms(reclaimed.clean)
        );
    }
    println!();
    for one in all {
        verdicts(empty.p50(), one);
    }
    let writes = ms(durable.writes);
    let share = 100.0 * writes / durable.creates.p50();
    let measured = format!("{writes:.2} ms of {:.1} ms ({share:.0} %)", durable.creates.p50());
    line("writes of the record for one create", &measured, "<= 1 ms", writes <= 1.0);
}

/// What was promised of one number of sandboxes, and what it costs each.
fn verdicts(empty: f64, one: &Measured) {
    let (live, floor) = (one.live, empty + ms(one.bare));
    let each = |time: Duration| (ms(time) - empty).max(0.0) / f64::from(live.max(1));
    let what = format!("{live} adopted and serving, since process start");
    match one.adopted.all {
        None => line(&what, &format!("only {} adopted", one.adopted.listed), "all", false),
        Some(all) => {
            let measured = format!("{:.0} / {floor:.0} ms = {:.1}x", ms(all), ms(all) / floor);
            // One second is promised for a hundred; more may take longer in proportion.
            let limit = 1000.0 * (f64::from(live) / 100.0).max(1.0);
            line(&what, &measured, &format!("<= {limit:.0} ms"), ms(all) <= limit);
            let measured = format!("{:.2} ms", each(all));
            told(&format!("{live} adopted, for each"), &measured);
        }
    }
    let clean = one.reclaimed.clean;
    let objects = one.reclaimed.objects.max(1);
    #[expect(clippy::cast_precision_loss, reason = "a few thousand objects")]
    let per_object = (ms(clean) - empty).max(0.0) / objects as f64;
    let measured = format!("{:.1} ms a sandbox, {per_object:.2} ms an object", each(clean));
    told(&format!("{live} dead ones removed"), &measured);
}
