//! `cofferdam up`: control plane, node and edge in one process, on one port.

mod driver;
mod greeting;
mod helm;
mod metrics;
mod outcome;
mod rpc;
mod settings;
mod start;
mod stop;

use std::net::SocketAddr;
use std::pin::pin;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use control_plane::ControlPlane;
use edge::{Edge, ServeError};
use futures::FutureExt;
use futures::future::{Fuse, FusedFuture, Pending};
use host::view::View;
use images::Store;
use images::base;
use lifecycle::Budget;
use node::{Node, StopPlan};
use node_wire::{NodeApi, Routes};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use self::helm::Helm;
use self::outcome::Outcome;
use self::rpc::Rpc;
use self::start::Start;
use self::stop::{Cause, listener_ended, patience, stop};
use crate::commands::images as templates;
use crate::config::Config;
use crate::credentials::{Addresses, Credentials};
use crate::data_dir;
use crate::supervisor::{Stage, Supervisor};

pub(crate) use driver::choose as choose_driver;

/// How long the control plane may take to put its records away.
const CLOSE_LIMIT: Duration = Duration::from_secs(10);
/// The same when somebody asked twice to stop.
const HURRIED_CLOSE_LIMIT: Duration = Duration::from_secs(1);

/// Serves until a signal, and then until what runs has ended, or is to be ended.
///
/// # Errors
/// It could not start. What had been started is stopped again.
pub(crate) async fn run(
    config: Config,
    view: View,
    supervisor: Supervisor,
) -> anyhow::Result<ExitCode> {
    let mut helm = Helm::take(supervisor)?;
    // Before anything is changed on the host: who cannot have the port leaves no trace.
    let listener = TcpListener::bind(config.listen).await.with_context(|| {
        format!("listen on {}; `--listen ADDR:PORT` chooses another address", config.listen)
    })?;
    let address = listener.local_addr().context("ask for the address listened on")?;
    let node_listener = rpc::bind(&config).await?;
    let agent = settings::agent(&config)?;
    settings::raise_open_files();
    data_dir::prepare(&config.data_dir)?;
    // Not written yet: the directory may be another service's.
    Credentials::read(&config.data_dir)?;

    let store = templates::open(&config)?;
    if store.find(base::ALIAS).is_none() {
        let stopped = helm.signal(Stage::Starting, || "making the template base".to_owned());
        if templates::build_base(&store, stopped).await?.is_none() {
            return Ok(Outcome::while_starting().tell());
        }
    }
    let starting = Box::pin(Node::start(settings::node(&config, agent), view, Arc::clone(&store)));
    let outcome = match start::run(starting, config.timeout_stop, &mut helm).await? {
        Start::Up(node) => {
            let port = Port { listener, address, node: node_listener };
            Box::pin(serve(&config, &node, &store, port, &mut helm)).await
        }
        Start::Unwanted(node) => {
            // Nothing was admitted, so there is nothing to wait for.
            let plan = StopPlan::at_once(config.timeout_stop);
            stop(&node, plan, Cause::Asked, &mut helm, pin!(nobody())).await
        }
        Start::GivenUp => Outcome { gave_up: true, ..Outcome::while_starting() },
        Start::Refused(code) => return Ok(ExitCode::from(code)),
    };
    Ok(outcome.tell())
}

/// Where clients come in.
struct Port {
    listener: TcpListener,
    address: SocketAddr,
    /// The node's own, if it has one.
    node: Option<TcpListener>,
}

/// What stands between clients and the node.
struct Front {
    edge: Arc<Edge>,
    control_plane: ControlPlane,
    credentials: Credentials,
    addresses: Addresses,
    rpc: Option<Rpc>,
}

impl Front {
    async fn open(
        config: &Config,
        node: &Arc<Node>,
        store: &Store,
        address: SocketAddr,
        node_listener: Option<TcpListener>,
    ) -> anyhow::Result<Self> {
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
            vec![Arc::clone(node) as Arc<dyn NodeApi>],
            Arc::clone(&edge) as Arc<dyn Routes>,
        )
        .await?;
        let rpc = node_listener.map(|listener| {
            Rpc::start(listener, Arc::clone(node) as Arc<dyn NodeApi>, &credentials)
        });
        Ok(Self { edge, control_plane, rpc: rpc.transpose()?, credentials, addresses })
    }
}

/// From a started node to one that is stopped. API, edge and sandboxes serve until it is.
async fn serve(
    config: &Config,
    node: &Arc<Node>,
    store: &Store,
    port: Port,
    helm: &mut Helm,
) -> Outcome {
    let plan = |helm: &Helm, cause: &Cause| StopPlan {
        graceful: patience(config, helm, cause),
        force: config.timeout_stop,
    };
    let address = port.address;
    let front = match Front::open(config, node, store, address, port.node).await {
        Ok(front) => front,
        Err(error) => {
            let cause = Cause::Broken(format!("{error:#}"));
            return stop(node, plan(helm, &cause), cause, helm, pin!(nobody())).await;
        }
    };
    let enough = CancellationToken::new();
    let token = front.credentials.admin_token.clone();
    let router = metrics::beside(front.control_plane.router(), Arc::clone(node), token);
    let serving = edge::serve(port.listener, Arc::clone(&front.edge), router, enough.clone());
    let mut serving = pin!(serving.fuse());
    // The listener has been accepting into its queue since it was bound: a client that reads the
    // line and connects is served.
    if let Err(error) = greeting::greet(address, &front.credentials, &front.addresses) {
        tracing::warn!(error = %observe::chain(&error), "nobody reads standard output; serving");
    }
    helm.ready(&format!("serving on {address}"));
    let status = || format!("serving on {address}, {} sandboxes", node.sandboxes());
    let cause = match helm.unless_signalled(Stage::Serving, status, serving.as_mut()).await {
        None => Cause::Asked,
        Some(ended) => Cause::Broken(listener_ended(ended)),
    };
    let outcome = stop(node, plan(helm, &cause), cause, helm, serving.as_mut()).await;

    enough.cancel();
    let hurried = outcome.gave_up || !clients_left(serving, helm).await;
    let limit = if hurried { HURRIED_CLOSE_LIMIT } else { CLOSE_LIMIT };
    if let Err(error) = front.control_plane.close(Budget::within(limit)).await {
        tracing::warn!(error = %observe::chain(&error), "the control plane did not close in time");
    }
    if let Some(rpc) = front.rpc {
        rpc.close(Budget::within(limit)).await;
    }
    outcome
}

/// Clients may finish what is under way, until they have, or their time is over, or a signal says
/// not to wait: `false`. Whoever is still connected then is cut off by the end of the process.
async fn clients_left<S>(mut serving: std::pin::Pin<&mut S>, helm: &mut Helm) -> bool
where
    S: FusedFuture<Output = Result<(), ServeError>>,
{
    if serving.is_terminated() {
        return true;
    }
    let status = || "waiting for clients to finish".to_owned();
    match helm.unless_signalled(Stage::Stopping, status, serving.as_mut()).await {
        Some(Ok(())) => true,
        Some(Err(error)) => {
            tracing::warn!(error = %observe::chain(&error), "some connections were left open");
            true
        }
        None => false,
    }
}

/// A listener that is not there.
fn nobody() -> Fuse<Pending<Result<(), ServeError>>> {
    Fuse::terminated()
}
