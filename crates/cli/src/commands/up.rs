//! `cofferdam up`: control plane, node and edge in one process, on one port.

mod driver;
mod greeting;
mod settings;

use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use control_plane::ControlPlane;
use edge::Edge;
use host::view::View;
use images::Store;
use images::base;
use lifecycle::Budget;
use node::{Node, ShutdownReport};
use node_wire::{NodeApi, Routes};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::commands::images as templates;
use crate::config::Config;
use crate::credentials::Credentials;
use crate::data_dir;
use crate::say;
use crate::signals::Signals;

pub(crate) use driver::choose as choose_driver;

/// The exit code when something is left on the host.
const LEFT_OVER: u8 = 2;

/// How long the control plane may take to put its records away.
const CLOSE_LIMIT: Duration = Duration::from_secs(10);
/// The same when somebody asked twice to stop.
const HURRIED_CLOSE_LIMIT: Duration = Duration::from_secs(1);

/// Serves until a signal, then ends every sandbox.
///
/// # Errors
/// It could not start. What had been started is stopped again.
pub(crate) async fn run(config: Config, view: View) -> anyhow::Result<ExitCode> {
    let mut signals = Signals::listen()?;
    // Before anything is changed on the host: who cannot have the port leaves no trace.
    let listener = TcpListener::bind(config.listen).await.with_context(|| {
        format!("listen on {}; `--listen ADDR:PORT` chooses another address", config.listen)
    })?;
    let address = listener.local_addr().context("ask for the address listened on")?;
    let agent = settings::agent(&config)?;
    settings::raise_open_files();
    data_dir::prepare(&config.data_dir)?;
    // Not written yet: the directory may be another service's.
    Credentials::read(&config.data_dir)?;

    let store = templates::open(&config)?;
    if store.find(base::ALIAS).is_none() {
        templates::build_base(&store, &mut signals).await?;
    }
    let node = Node::start(settings::node(&config, agent), view, Arc::clone(&store)).await?;
    let served = serve(&config, &node, &store, listener, address, &mut signals).await;
    let (report, failed) = match served {
        Ok(report) => (report, None),
        Err(error) => {
            let report = node.shutdown(Budget::within(config.timeout_stop)).await;
            (report, Some(error))
        }
    };
    told(&report);
    if let Some(error) = failed {
        if report.left.is_empty() {
            return Err(error);
        }
        say::remark(&format!("cofferdam: {error:#}"));
    } else {
        farewell(&report);
    }
    Ok(exit_code(&report))
}

/// What is left is what a caller must know first.
fn exit_code(report: &ShutdownReport) -> ExitCode {
    if !report.left.is_empty() {
        return ExitCode::from(LEFT_OVER);
    }
    if report.is_clean() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// From a started node to one that is shut down again. On an error the node is still running.
async fn serve(
    config: &Config,
    node: &Arc<Node>,
    store: &Store,
    listener: TcpListener,
    address: SocketAddr,
    signals: &mut Signals,
) -> anyhow::Result<ShutdownReport> {
    // Every sandbox of an earlier run that goes on has its lease by now.
    let replaced = store.collect().context("remove replaced templates")?;
    if replaced > 0 {
        tracing::info!(replaced, "removed templates that were replaced");
    }
    let addresses = settings::addresses(config, address);
    let credentials = Credentials::ensure(&config.data_dir, &addresses)?;
    let edge = Edge::new(settings::edge(config));
    let control_plane = ControlPlane::start(
        settings::control_plane(config, &credentials, &addresses)?,
        Arc::clone(node) as Arc<dyn NodeApi>,
        Arc::clone(&edge) as Arc<dyn Routes>,
    )
    .await?;

    let stop = CancellationToken::new();
    let serving = edge::serve(listener, edge, control_plane.router(), stop.clone());
    tokio::pin!(serving);
    // The listener has been accepting into its queue since it was bound: a client that reads the
    // line and connects is served.
    if let Err(error) = greeting::greet(address, &credentials, &addresses) {
        tracing::warn!(error = %observe::chain(&error), "nobody reads standard output; serving");
    }
    let early = tokio::select! {
        biased;
        () = signals.next() => None,
        served = &mut serving => Some(served),
    };
    tracing::info!(asked = early.is_none(), "stopping");
    stop.cancel();
    // Clients may finish what is under way, until they have, or their time is over, or a second
    // signal says not to wait.
    let waited = match early {
        Some(served) => Some(served),
        None => tokio::select! {
            biased;
            () = signals.next() => None,
            served = &mut serving => Some(served),
        },
    };
    let report = node.shutdown(Budget::within(config.timeout_stop)).await;
    let close_limit = match waited {
        Some(Ok(())) => CLOSE_LIMIT,
        Some(Err(error)) => {
            tracing::warn!(error = %observe::chain(&error), "some connections were left open");
            CLOSE_LIMIT
        }
        // Whoever is still connected is cut off by the end of the process.
        None => HURRIED_CLOSE_LIMIT,
    };
    if let Err(error) = control_plane.close(Budget::within(close_limit)).await {
        tracing::warn!(error = %observe::chain(&error), "the control plane did not close in time");
    }
    Ok(report)
}

fn told(report: &ShutdownReport) {
    for error in &report.errors {
        say::remark(&format!("cofferdam: while stopping: {error}"));
    }
    for item in &report.left {
        say::remark(&format!("cofferdam: left: {:?} {}", item.kind, item.name));
    }
}

/// The last line. That nobody reads it any more changes nothing about how the service stopped.
fn farewell(report: &ShutdownReport) {
    let line = format!(
        "cofferdam: stopped in {:.1} s, {} sandboxes ended, {} objects left",
        report.took.as_secs_f64(),
        report.ended,
        report.left.len()
    );
    if let Err(error) = say::answer(&line) {
        tracing::info!(error = %observe::chain(&error), "nobody reads standard output");
        say::remark(&line);
    }
}
