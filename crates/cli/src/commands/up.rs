//! `cofferdam up`: control plane, node and edge in one process, on one port.

mod driver;
mod greeting;
mod helm;
mod leave;
mod metrics;
mod outcome;
mod replace;
mod rpc;
pub(super) mod settings;
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
use host::Faults;
use host::view::View;
use images::Store;
use images::base;
use lifecycle::Budget;
use node::{Node, StopPlan};
use node_wire::{NodeApi, Routes};
use rustix::process::{Signal, getpid, kill_process};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use self::helm::Helm;
use self::leave::{LEAVING, Way};
use self::outcome::Outcome;
use self::replace::is_to_stop;
use self::rpc::Rpc;
use self::start::Start;
use self::stop::{Cause, patience, stop};
use crate::commands::images as templates;
use crate::config::Config;
use crate::credentials::{Addresses, Credentials};
use crate::data_dir;
use crate::sockets::handover::Asker;
use crate::sockets::{Passed, Sockets, handover};
use crate::supervisor::{Stage, Supervisor};

pub(crate) use driver::choose as choose_driver;
pub(crate) use replace::{Again, Next};

/// How long the control plane may take to put its records away.
const CLOSE_LIMIT: Duration = Duration::from_secs(10);
/// The same when somebody asked twice to stop.
const HURRIED_CLOSE_LIMIT: Duration = Duration::from_secs(1);
/// How long clients may go on with what they have under way when another program follows in this
/// process: whoever connects meanwhile waits for that. Who is cut off comes again.
const CLIENTS_LIMIT: Duration = Duration::from_secs(2);

/// What a service is given beside its configuration.
#[derive(Debug)]
pub(crate) struct Given {
    pub(crate) supervisor: Supervisor,
    pub(crate) passed: Passed,
    pub(crate) faults: Faults,
    /// Whether it takes the place of the service that runs.
    pub(crate) succeeds: bool,
    pub(crate) again: Again,
}

/// How a service came to its end.
#[derive(Debug)]
pub(crate) enum Ended {
    Stopped(ExitCode),
    /// Another program follows, in this process.
    Replaced(Box<Next>),
}

/// The same, with what is to be told of it.
struct End {
    outcome: Outcome,
    next: Option<Next>,
}

impl From<Outcome> for End {
    fn from(outcome: Outcome) -> Self {
        Self { outcome, next: None }
    }
}

/// Serves until a signal, and then until what runs has ended, or is to be ended.
///
/// # Errors
/// It could not start. What had been started is stopped again.
pub(crate) async fn run(config: Config, view: View, given: Given) -> anyhow::Result<Ended> {
    let Given { supervisor, mut passed, faults, succeeds, again } = given;
    let mut helm = Helm::take(supervisor)?;
    let asker = passed.asker();
    // A program that has followed another in its process has what there was to be given.
    let before = if succeeds && asker.is_none() { handover::ask(&config.data_dir)? } else { None };
    let (passed, before) = match before {
        Some(given) => (given.passed, Some(given.by)),
        None => (passed, None),
    };
    let sockets = Sockets::open(config.listen, config.node_listen, passed)?;
    let agent = settings::agent(&config)?;
    settings::raise_open_files();
    data_dir::prepare(&config.data_dir)?;
    // Not written yet: the directory may be another service's.
    Credentials::read(&config.data_dir)?;

    let store = templates::open(&config)?;
    if store.find(base::ALIAS).is_none() {
        let stopped = helm.signal(Stage::Starting, || "making the template base".to_owned());
        if templates::build_base(&store, stopped).await?.is_none() {
            return Ok(Ended::Stopped(Outcome::while_starting().tell()));
        }
    }
    if let Some(before) = before {
        leave::wait_until_left(&config.data_dir, &before, &mut helm).await?;
    }
    let told = node::Config { faults, ..settings::node(&config, agent) };
    let starting = Box::pin(Node::start(told, view, Arc::clone(&store)));
    let end = match start::run(starting, config.timeout_stop, &mut helm).await? {
        Start::Up(node) => {
            let with = With { sockets, asker, again };
            Box::pin(serve(&config, &node, &store, with, &mut helm)).await
        }
        Start::Unwanted(node) => {
            // Nothing was admitted, so there is nothing to wait for.
            let plan = StopPlan::at_once(config.timeout_stop);
            stop(&node, plan, Cause::Asked, &mut helm, pin!(nobody())).await.into()
        }
        Start::GivenUp => Outcome { gave_up: true, ..Outcome::while_starting() }.into(),
        Start::Refused(code) => return Ok(Ended::Stopped(ExitCode::from(code))),
    };
    let code = end.outcome.tell();
    Ok(end.next.map_or(Ended::Stopped(code), |next| Ended::Replaced(Box::new(next))))
}

/// The sockets as what serves them wants them.
struct Port {
    listener: TcpListener,
    address: SocketAddr,
    /// The node's own, if it has one.
    node: Option<TcpListener>,
}

impl Port {
    fn of(sockets: &Sockets) -> anyhow::Result<Self> {
        let own = sockets.try_clone().context("share the sockets")?;
        let address = own.api.local_addr().context("ask for the address listened on")?;
        let listener = TcpListener::from_std(own.api).context("serve the socket")?;
        let node = own.node.map(TcpListener::from_std).transpose();
        Ok(Self { listener, address, node: node.context("serve the node's socket")? })
    }
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
        edge.set_waker(control_plane.waker());
        let rpc = node_listener.map(|listener| {
            Rpc::start(listener, Arc::clone(node) as Arc<dyn NodeApi>, &credentials)
        });
        Ok(Self { edge, control_plane, rpc: rpc.transpose()?, credentials, addresses })
    }
}

/// What a service serves with, beside its node.
struct With {
    sockets: Sockets,
    /// Who waits until it serves.
    asker: Option<Asker>,
    again: Again,
}

/// From a started node to one that is stopped. API, edge and sandboxes serve until it is.
async fn serve(
    config: &Config,
    node: &Arc<Node>,
    store: &Store,
    with: With,
    helm: &mut Helm,
) -> End {
    let With { sockets, asker, again } = with;
    let plan = |helm: &Helm, cause: &Cause| StopPlan {
        graceful: patience(config, helm, cause),
        force: config.timeout_stop,
    };
    let opened = async {
        let port = Port::of(&sockets)?;
        let front = Front::open(config, node, store, port.address, port.node).await?;
        anyhow::Ok((front, port.listener, port.address))
    };
    let (front, listener, address) = match opened.await {
        Ok(opened) => opened,
        // What ran before this service runs on after it: what it lacks may be there for the next.
        Err(error) if node.sandboxes() > 0 => {
            helm.stopping(LEAVING);
            let why = Some(format!("{error:#}"));
            return leave::leave(node, why, helm, pin!(nobody())).await.into();
        }
        Err(error) => {
            let cause = Cause::Broken(format!("{error:#}"));
            return stop(node, plan(helm, &cause), cause, helm, pin!(nobody())).await.into();
        }
    };
    let enough = CancellationToken::new();
    let token = front.credentials.admin_token.clone();
    let router = metrics::beside(front.control_plane.router(), Arc::clone(node), token);
    let serving = edge::serve(listener, Arc::clone(&front.edge), router, enough.clone());
    let mut serving = pin!(serving.fuse());
    helm.keep(&sockets);
    let status = || format!("serving on {address}, {} sandboxes", node.sandboxes());
    let stops = is_to_stop(&again.env);
    let opened = async {
        front.control_plane.nodes_started().await;
        // A client that reads the line and connects is served, and gets a sandbox.
        if let Err(error) = greeting::greet(address, &front.credentials, &front.addresses) {
            let error = observe::chain(&error).to_string();
            tracing::warn!(error, "nobody reads standard output; serving");
        }
        drop(asker.inspect(|asker| asker.serves(env!("CARGO_PKG_VERSION"))));
        if stops {
            // To the program before this one, in the same process.
            raise(Signal::TERM);
        }
    };
    let ends =
        leave::Ends { node, sockets: &sockets, serving: serving.as_mut(), opened: pin!(opened) };
    let (outcome, candidate) = match ends.way_out((config, &again), status, helm).await {
        Way::Stop(cause) => {
            (stop(node, plan(helm, &cause), cause, helm, serving.as_mut()).await, None)
        }
        Way::Leave(cause) => {
            helm.stopping(LEAVING);
            // Who connects from here on waits for the next service.
            enough.cancel();
            (leave::leave(node, cause, helm, serving.as_mut()).await, None)
        }
        Way::Replace(candidate) => {
            helm.replacing(LEAVING);
            enough.cancel();
            (leave::leave(node, None, helm, serving.as_mut()).await, Some(candidate))
        }
    };
    enough.cancel();
    // From here on nobody is let in, not into the queue either, unless somebody follows.
    let kept = candidate.map(|candidate| (candidate, sockets));
    let left = clients_left(serving, helm);
    let left = match &kept {
        Some(_) => Budget::within(CLIENTS_LIMIT).run("clients", left).await.unwrap_or(false),
        None => left.await,
    };
    let hurried = outcome.gave_up || !left;
    let limit = if hurried { HURRIED_CLOSE_LIMIT } else { CLOSE_LIMIT };
    if let Err(error) = front.control_plane.close(Budget::within(limit)).await {
        tracing::warn!(error = %observe::chain(&error), "the control plane did not close in time");
    }
    if let Some(rpc) = front.rpc {
        rpc.close(Budget::within(limit)).await;
    }
    let stops = helm.was_signalled();
    let next = |(candidate, sockets)| Next::new(candidate, sockets, again, stops);
    End { outcome, next: kept.map(next) }
}

/// The signal, to this process.
fn raise(signal: Signal) {
    if let Err(error) = kill_process(getpid(), signal) {
        tracing::error!(%error, "a signal to the program before this one is lost");
    }
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
