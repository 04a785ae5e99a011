//! The way out of each sandbox: by routes where addresses decide, through the daemon where names,
//! headers or a proxy do.
//!
//! What goes through the daemon needs it to know the rules, so those are written beside the
//! lifecycle's record, and the next daemon serves by them. Until it does, connections are refused.

use std::collections::BTreeMap;
use std::io;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use egress::{Proxy, Resolver};
use guest_wire::client::ClientError;
use host::HostError;
use host::net::{FirewallError, Ports, Redirect, Slot};
use lifecycle::{Budget, Expired, Owned, TaskGroup, close_in};
use model::{Egress, SocksProxy};
use parking_lot::Mutex;

use authority::{Trust, TrustError};
use kept::{KeptError, KeptRules};
use parts::{Network, Parts, subnets};

pub(super) use agent::Agent;

mod agent;
mod authority;
mod kept;
mod parts;

/// Setting rules, all of it: programs run for it, and connections are cut off.
const SET_LIMIT: Duration = Duration::from_secs(8);
/// Between two tries to serve a sandbox that an earlier daemon has left.
const RETRY_PAUSE: Duration = Duration::from_secs(1);

/// The rules of a sandbox could not be set.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WayError {
    #[error(transparent)]
    Host(#[from] HostError),
    #[error(transparent)]
    Table(#[from] FirewallError),
    #[error(transparent)]
    Kept(#[from] KeptError),
    #[error("serve what is handed over")]
    Serve(#[source] io::Error),
    #[error(transparent)]
    Closing(#[from] egress::Closing),
    #[error(transparent)]
    Trust(#[from] TrustError),
    #[error("have the sandbox believe the node's certificate authority")]
    Tell(#[source] ClientError),
    #[error(transparent)]
    Expired(#[from] Expired),
}

impl WayError {
    /// Whether the host ran out of room for files.
    pub(crate) fn is_disk_full(&self) -> bool {
        match self {
            Self::Kept(error) => error.is_disk_full(),
            Self::Host(error) => error.is_disk_full(),
            Self::Trust(error) => error.is_disk_full(),
            Self::Table(_)
            | Self::Serve(_)
            | Self::Closing(_)
            | Self::Tell(_)
            | Self::Expired(_) => false,
        }
    }
}

/// The ways out of all sandboxes.
#[derive(Debug)]
pub(super) struct Ways {
    nft: PathBuf,
    resolvers: Vec<Ipv4Addr>,
    node: Arc<egress::Node>,
    trust: Trust,
    ways: Mutex<BTreeMap<String, Arc<Way>>>,
    /// Those that are still to be served after an earlier daemon.
    tasks: TaskGroup,
}

/// One sandbox's. Whoever changes it holds it.
type Way = tokio::sync::Mutex<State>;

#[derive(Debug)]
enum State {
    ByAddress,
    Served(Served),
    /// It is over: nothing may be opened any more.
    Closed,
}

#[derive(Debug)]
struct Served {
    ports: Ports,
    /// `None` when it is closed.
    proxy: Option<Owned<Proxy>>,
}

impl Ways {
    /// `data` is the node's directory, and `roots` a file with the authorities by which servers are
    /// believed, if it is not the host's own.
    pub(super) fn new(
        nft: PathBuf,
        resolvers: Vec<Ipv4Addr>,
        data: PathBuf,
        roots: Option<PathBuf>,
    ) -> Self {
        let node = Arc::new(egress::Node::new(Resolver::new(&resolvers)));
        let trust = Trust::new(data, roots);
        Self { nft, resolvers, node, trust, ways: Mutex::default(), tasks: TaskGroup::default() }
    }

    /// The certificate that programs of a sandbox with `rules` must believe. `None`: they go without.
    ///
    /// # Errors
    /// When there is none and none can be made.
    pub(super) async fn certificate(&self, rules: &Egress) -> Result<Option<String>, TrustError> {
        if !rules.changes_https() {
            return Ok(None);
        }
        Ok(Some(self.trust.interceptor().await?.authority().certificate().to_owned()))
    }

    /// Prepares for `rules` of a sandbox that believes `known`: it believes what is returned then. With
    /// no agent yet it is told at its start.
    async fn trusted(
        &self,
        rules: &Egress,
        known: Option<String>,
        agent: Option<&Agent>,
        budget: Budget,
    ) -> Result<Option<String>, WayError> {
        if rules
            .proxy
            .as_ref()
            .and_then(SocksProxy::tls)
            .is_some_and(|tls| tls.authorities().is_none())
        {
            self.node.believe(self.trust.roots().await?.clone());
        }
        if !rules.changes_https() {
            return Ok(known);
        }
        let interceptor = self.trust.interceptor().await?;
        let authority = interceptor.authority();
        if known.as_deref() != Some(authority.id())
            && let Some(agent) = agent
        {
            agent.tell(authority.certificate(), budget).await?;
        }
        self.node.intercept(Arc::clone(interceptor));
        Ok(Some(authority.id().to_owned()))
    }

    /// Has `rules` be in force in `network`, which is `lifecycle`'s; what is kept of them is in `dir`.
    /// Before that its programs believe who stands in for servers. False when its way out is closed
    /// for good, or was never opened.
    ///
    /// Cancel safety: no. It ends by itself, soon.
    ///
    /// # Errors
    /// See [`WayError`]; the rules before may be in force, or some of both.
    pub(super) async fn set(
        &self,
        lifecycle: &str,
        dir: &Path,
        network: Redirect,
        rules: &Egress,
        agent: Option<&Agent>,
    ) -> Result<bool, WayError> {
        let Some(way) = self.ways.lock().get(lifecycle).cloned() else { return Ok(false) };
        let mut state = way.lock().await;
        if matches!(*state, State::Closed) {
            return Ok(false);
        }
        let budget = Budget::within(SET_LIMIT);
        if rules.is_by_address() {
            self.by_address(&mut state, dir, &network, rules, budget).await?;
        } else {
            let before = kept::read(dir)?;
            let known = before.as_ref().and_then(|before| before.authority.clone());
            let authority = self.trusted(rules, known, agent, budget).await?;
            kept::write(dir, Some(&KeptRules { rules: rules.clone(), authority }))?;
            let network = Arc::new(network);
            if let Err(error) = self.serve(lifecycle, &mut state, &network, rules, budget).await {
                kept::write(dir, before.as_ref())?;
                return Err(error);
            }
        }
        Ok(true)
    }

    /// Opens the way of `lifecycle`, which is made with `rules`.
    ///
    /// # Errors
    /// As [`Ways::set`].
    pub(super) async fn open(
        &self,
        lifecycle: &str,
        dir: &Path,
        slot: &Slot,
        rules: &Egress,
    ) -> Result<(), WayError> {
        self.enter(lifecycle);
        // A slot is made with everything open.
        if *rules != Egress::default() {
            self.set(lifecycle, dir, Redirect::of(slot)?, rules, None).await?;
        }
        Ok(())
    }

    fn enter(&self, lifecycle: &str) -> Arc<Way> {
        let way = Arc::new(Way::new(State::ByAddress));
        Arc::clone(self.ways.lock().entry(lifecycle.to_owned()).or_insert(way))
    }

    /// Serves the way of `lifecycle` as an earlier daemon did, soon. Until then connections are
    /// refused. Of one that goes by address there is nothing to do.
    pub(super) fn adopt(
        self: &Arc<Self>,
        lifecycle: &str,
        dir: &Path,
        network: Redirect,
        agent: Agent,
    ) {
        let way = self.enter(lifecycle);
        if !kept::is_there(dir) {
            return;
        }
        let (dir, network) = (dir.to_owned(), Arc::new(network));
        let (ways, name, stop) =
            (Arc::clone(self), lifecycle.to_owned(), self.tasks.stop_token().clone());
        let work = async move {
            let mut told = false;
            while let Err(error) = ways.serve_again(&name, &way, &dir, &network, &agent).await {
                if !std::mem::replace(&mut told, true) {
                    tracing::error!(error = %observe::chain(&error), "connections to the outside are refused");
                }
                tokio::select! {
                    () = stop.cancelled() => return,
                    () = tokio::time::sleep(RETRY_PAUSE) => {}
                }
            }
        };
        self.tasks.spawn(tracing::info_span!("egress", lifecycle), work);
    }

    async fn serve_again(
        &self,
        lifecycle: &str,
        way: &Way,
        dir: &Path,
        network: &Arc<Redirect>,
        agent: &Agent,
    ) -> Result<(), WayError> {
        let mut state = way.lock().await;
        if !matches!(*state, State::ByAddress) {
            return Ok(());
        }
        match kept::read(dir)? {
            Some(KeptRules { rules, authority: known }) => {
                let budget = Budget::within(SET_LIMIT);
                // It knows the authority, unless that was replaced in the meantime.
                let now = self.trusted(&rules, known.clone(), Some(agent), budget).await?;
                if now != known {
                    kept::write(dir, Some(&KeptRules { rules: rules.clone(), authority: now }))?;
                }
                self.serve(lifecycle, &mut state, network, &rules, budget).await
            }
            // They were replaced by some that go by address.
            None => Ok(()),
        }
    }

    async fn by_address(
        &self,
        state: &mut State,
        dir: &Path,
        network: &Redirect,
        rules: &Egress,
        budget: Budget,
    ) -> Result<(), WayError> {
        let (open, closed) = subnets(rules);
        // First what denies, then what has denied: at no time is nothing in force.
        network.restrict(&open, &closed)?;
        let was_served = kept::is_there(dir) || matches!(state, State::Served(_));
        if let State::Served(served) = state {
            // While the table is there, or nobody is told that it is over.
            close_in(&mut served.proxy, budget).await?;
        }
        if was_served {
            network.clear(&self.nft, budget).await?;
        }
        *state = State::ByAddress;
        Ok(kept::write(dir, None)?)
    }

    /// Serves `network` by `rules`, from now on or otherwise than before.
    async fn serve(
        &self,
        lifecycle: &str,
        state: &mut State,
        network: &Arc<Redirect>,
        rules: &Egress,
        budget: Budget,
    ) -> Result<(), WayError> {
        let parts = Parts::of(rules, &self.resolvers);
        let handover = parts.handover();
        match state {
            State::Served(Served { ports, proxy: Some(proxy) }) => {
                network.apply(&self.nft, handover, *ports, budget).await?;
                proxy.set_rules(parts.rules);
            }
            _ => {
                let host::net::Inlets { connections, questions, ports } = network.listen()?;
                network.apply(&self.nft, handover, ports, budget).await?;
                *state = State::Served(Served { ports, proxy: None });
                let inlets = egress::Inlets { connections, questions };
                let sockets = Arc::new(Network(Arc::clone(network)));
                let node = Arc::clone(&self.node);
                let proxy = Proxy::start(lifecycle, inlets, sockets, node, parts.rules);
                let proxy = Owned::adopt(proxy.map_err(WayError::Serve)?);
                if let State::Served(served) = state {
                    served.proxy = Some(proxy);
                }
            }
        }
        // Every way leads out as far as the table, which decides.
        Ok(network.restrict(&[], &[])?)
    }

    /// Cuts off what goes out of `lifecycle`, for good, and removes what is kept of its rules. May
    /// be repeated, and needs nothing but the name.
    ///
    /// Cancel safety: yes; what is not closed is found by the next call.
    pub(super) async fn close(
        &self,
        lifecycle: &str,
        dir: &Path,
        budget: Budget,
    ) -> Result<(), WayError> {
        let way = self.ways.lock().get(lifecycle).cloned();
        if let Some(way) = way {
            let mut state = way.lock().await;
            if let State::Served(served) = &mut *state {
                close_in(&mut served.proxy, budget).await?;
            }
            *state = State::Closed;
        }
        kept::write(dir, None)?;
        drop(self.ways.lock().remove(lifecycle));
        Ok(())
    }

    /// Lets go of all of them, as they are: what goes through here is cut off, and refused until the
    /// next daemon serves it.
    pub(super) async fn leave(&self, budget: Budget) -> Result<(), Expired> {
        self.tasks.close(budget).await?;
        let ways = std::mem::take(&mut *self.ways.lock());
        for (lifecycle, way) in ways {
            let left = async {
                let mut state = way.lock().await;
                if let State::Served(served) = &mut *state
                    && let Err(error) = close_in(&mut served.proxy, budget).await
                {
                    tracing::warn!(lifecycle, %error, "connections are left open");
                }
                *state = State::Closed;
            };
            budget.run("ways out", left).await?;
        }
        Ok(())
    }
}
