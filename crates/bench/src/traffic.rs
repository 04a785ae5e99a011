//! `bench traffic`: what the edge and the guest agent add to traffic, beside nginx and a plain
//! server on the same road in the same run.

mod agent;
mod files;
mod inside;
mod load;
mod nginx;
mod report;

use std::time::Duration;

use anyhow::Context;
use clap::Args;

use self::files::Bulk;
use self::inside::Inside;
use self::load::{Kind, Load, Way};
use self::nginx::Nginx;
use crate::client::Client;
use crate::service::Service;

#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Connections that are busy at a time; every number is a series of its own.
    #[arg(long, value_delimiter = ',', default_values_t = [1, 16, 128])]
    connections: Vec<usize>,
    /// What is asked over these connections.
    #[arg(long, value_delimiter = ',', value_enum, default_values_t = [Kind::Http, Kind::WebSocket])]
    kinds: Vec<Kind>,
    /// Times files are measured, by turns with what they are compared to.
    #[arg(long, default_value_t = 5)]
    rounds: u32,
    /// Turns of requests that every road has.
    #[arg(long, default_value_t = 16)]
    turns: u32,
    /// How long one turn of requests takes, in milliseconds.
    #[arg(long, default_value_t = 300)]
    turn_ms: u64,
    /// Size of the file that is sent up and down, in MiB; 0 leaves the files out.
    #[arg(long, default_value_t = 1024)]
    file_mib: u64,
    /// Entries of the directory that is listed; 0 leaves that out.
    #[arg(long, default_value_t = 100_000)]
    entries: u32,
    /// Files of the directory that is watched; 0 leaves that out.
    #[arg(long, default_value_t = 10_000)]
    watched: u32,
}

pub(crate) use self::inside::{Program, run as run_inside};

/// Requests of one kind over so many connections, on each road.
#[derive(Debug)]
struct Roads {
    kind: Kind,
    connections: usize,
    direct: Load,
    nginx: Load,
    edge: Load,
}

pub(crate) fn run(options: &Options) -> anyhow::Result<()> {
    let service = Service::start()?;
    // One thread: what asks must not take the processors from what is measured.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let measured = runtime.block_on(measure(&service, options));
    service.stop()?;
    let (roads, bulk) = measured?;
    report::roads(&roads);
    report::bulk(&bulk);
    Ok(())
}

async fn measure(service: &Service, options: &Options) -> anyhow::Result<(Vec<Roads>, Bulk)> {
    let mut client = Client::new(service.address, &service.key).await?;
    let id = client.create().await.context("create a sandbox")?;
    let inside = Inside::start(service.address, &id).await.context("start the plain server")?;
    let nginx = Nginx::start(inside.address).context("start nginx")?;
    let roads = roads(service, &inside, &nginx, options).await;
    nginx.stop()?;
    let bulk = files::measure(service, &inside, options).await?;
    client.kill(&id).await?;
    Ok((roads?, bulk))
}

async fn roads(
    service: &Service,
    inside: &Inside,
    nginx: &Nginx,
    options: &Options,
) -> anyhow::Result<Vec<Roads>> {
    let (nginxes, edges) = (nginx.processes()?, [service.pid()]);
    let way = |address, processes| Way {
        address,
        sandbox: &inside.id,
        port: inside.address.port(),
        processes,
    };
    let ways = [
        way(inside.address, &[]),
        way(nginx.address, &nginxes),
        way(service.address, edges.as_slice()),
    ];
    let turn = Duration::from_millis(options.turn_ms);
    let mut all = Vec::new();
    for &kind in &options.kinds {
        for &connections in &options.connections {
            let mut loads = [Load::default(), Load::default(), Load::default()];
            // By turns, so that whatever else the machine does falls on all, and there and back, so
            // that none is always first; the first round is a rehearsal.
            for round in 0..=options.turns {
                let mut order: Vec<_> = ways.iter().zip(&mut loads).collect();
                if round % 2 == 0 {
                    order.reverse();
                }
                for (way, load) in order {
                    let one = load::during(turn, way, kind, connections).await?;
                    if round > 0 {
                        load.push(one);
                    }
                }
            }
            let [direct, nginx, edge] = loads;
            all.push(Roads { kind, connections, direct, nginx, edge });
        }
    }
    Ok(all)
}
