//! `bench pause`.

use std::fs::{self, File};
use std::io::Write;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use clap::Args;

use crate::client::Client;
use crate::numbers::{Series, line, told};
use crate::service::{Service, data_dir};

#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Times a sandbox is paused and resumed.
    #[arg(long, default_value_t = 30)]
    times: u16,
}

/// What a sandbox has written when it is paused.
const LAYER: usize = 10 << 20;
const WRITE: &str = "head -c 10485760 /dev/urandom > /home/user/layer";

pub(crate) fn run(options: &Options) -> anyhow::Result<()> {
    let service = Service::start()?;
    let runtime = tokio::runtime::Runtime::new()?;
    let measured = runtime.block_on(measure(&service, options))?;
    service.stop()?;
    let (floor, times) = (measured.floor, measured.times);
    told("floor: 10 MB written to disk", &floor.summary());
    told("pause, 10 MB just written", &times.written.summary());
    let kept = times.still.p50() < 30.0;
    line("pause, 10 MB written before", &times.still.summary(), "p50 < 30 ms", kept);
    line("resume", &times.resumed.summary(), "p50 < 15 ms", times.resumed.p50() < 15.0);
    told("pause of the files only", &times.files.summary());
    told("start with the files", &times.anew.summary());
    told("snapshot, 10 MB", &times.snapshot.summary());
    Ok(())
}

struct Measured {
    floor: Series,
    times: Times,
}

#[derive(Default)]
struct Times {
    /// A pause right after the sandbox has written everything anew.
    written: Series,
    /// A pause of a sandbox that has done nothing since the last.
    still: Series,
    resumed: Series,
    files: Series,
    anew: Series,
    snapshot: Series,
}

async fn measure(service: &Service, options: &Options) -> anyhow::Result<Measured> {
    let mut client = Client::new(service.address, &service.key).await?;
    let id = client.create().await?;
    let (mut floor, mut times) = (Series::default(), Times::default());
    for _ in 0..options.times {
        floor.push(write_through()?);
        client.run(&id, WRITE).await?;
        times.written.push(post(&mut client, &id, "pause", r#"{"memory":true}"#, 204).await?);
        times.resumed.push(resume(&mut client, &id).await?);
        times.still.push(post(&mut client, &id, "pause", r#"{"memory":true}"#, 204).await?);
        times.resumed.push(resume(&mut client, &id).await?);
    }
    for _ in 0..options.times.div_ceil(3) {
        times.files.push(post(&mut client, &id, "pause", r#"{"memory":false}"#, 204).await?);
        times.anew.push(resume(&mut client, &id).await?);
        let began = Instant::now();
        let path = format!("/sandboxes/{id}/snapshots");
        let made = client.call("POST", &path, "{}").await?;
        times.snapshot.push(began.elapsed());
        ensure!(made.status() == 201, "snapshot: {} {:?}", made.status(), made.body());
        let made: serde_json::Value = serde_json::from_slice(made.body())?;
        let snapshot = made["snapshotID"].as_str().context("no snapshotID")?.replace('/', "%2F");
        let gone = client.call("DELETE", &format!("/templates/{snapshot}"), "").await?;
        ensure!(gone.status() == 204, "remove: {} {:?}", gone.status(), gone.body());
    }
    client.kill(&id).await?;
    Ok(Measured { floor, times })
}

async fn resume(client: &mut Client, id: &str) -> anyhow::Result<Duration> {
    let took = post(client, id, "connect", r#"{"timeout":3600}"#, 201).await?;
    client.run_true(id).await?;
    Ok(took)
}

async fn post(
    client: &mut Client,
    id: &str,
    what: &str,
    body: &str,
    status: u16,
) -> anyhow::Result<Duration> {
    let began = Instant::now();
    let answer = client.call("POST", &format!("/sandboxes/{id}/{what}"), body).await?;
    let took = began.elapsed();
    ensure!(answer.status() == status, "{what}: {} {:?}", answer.status(), answer.body());
    Ok(took)
}

/// As much as the sandbox has written, by a plain program that waits for the disk.
fn write_through() -> anyhow::Result<Duration> {
    let path = data_dir().join("floor");
    let text = vec![7; LAYER];
    let mut file = File::create(&path)?;
    file.write_all(&text)?;
    let began = Instant::now();
    rustix::fs::syncfs(&file)?;
    let took = began.elapsed();
    fs::remove_file(&path)?;
    Ok(took)
}
