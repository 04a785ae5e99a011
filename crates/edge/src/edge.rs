use std::collections::HashMap;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use e2b_wire::host_name::{BadTarget, ENVD_PORT, Target};
use e2b_wire::proxy_error::ProxyError;
use http::header::HOST;
use http::{Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use lifecycle::{Budget, Expired, TaskGroup};
use model::{LifecycleId, SandboxId};
use node_wire::{Ingress, Route, Routes, Waker};
use parking_lot::RwLock;
use tokio::runtime::Handle;
use tokio::sync::Notify;
use tracing::{debug, warn};

use crate::answer::Form;
use crate::control_path::is_control_path;
use crate::exchange::{Failure, exchange};
use crate::request_body::RequestBody;
use crate::seats::Seats;
use crate::serve::{AtHome, ClientPass};
use crate::signed::SignedRequest;
use crate::tunnel::Tunnel;
use crate::upstream::{DialError, Full, Lease, Passes, Port, Protocol, Upstream};
use crate::{Body, Config, answer, grpc, headers, private, wake};

/// The proxy: a table of running sandboxes and what is under way to them.
#[derive(Debug)]
pub struct Edge {
    config: Config,
    table: RwLock<HashMap<SandboxId, Arc<Upstream>>>,
    pub(crate) exchanges: Arc<Seats>,
    pub(crate) waker: OnceLock<Arc<dyn Waker>>,
    idle: Arc<Seats>,
    /// Called when unused connections to sandboxes have been left by their other end.
    pub(crate) left: Arc<Notify>,
    /// Where the service runs that the edge is in front of.
    home: OnceLock<Handle>,
    /// Client connections and what runs on them.
    clients: TaskGroup,
    /// Connections to sandboxes, and tunnels.
    sandboxes: TaskGroup,
}

impl Edge {
    /// An edge that knows no sandbox yet. It is given its traffic by [`crate::serve`], which also
    /// ends what the edge has started.
    #[must_use]
    pub fn new(config: Config) -> Arc<Self> {
        Arc::new(Self {
            exchanges: Seats::new(config.max_exchanges),
            waker: OnceLock::new(),
            idle: Seats::new(config.max_idle),
            left: Arc::new(Notify::new()),
            home: OnceLock::new(),
            config,
            table: RwLock::default(),
            clients: TaskGroup::default(),
            sandboxes: TaskGroup::default(),
        })
    }

    /// Which sandbox `request` is for; `None` when it is for the API.
    ///
    /// The routing headers decide under any host name, so one address without wildcard DNS is
    /// enough for everything; without them the host name does.
    ///
    /// # Errors
    /// [`BadTarget`] when it is for a sandbox, and does not say properly for which.
    pub fn target<B>(request: &Request<B>) -> Result<Option<Target>, BadTarget> {
        if let Some(target) = Target::from_headers(request.headers())? {
            return Ok(Some(target));
        }
        if let Some(host) = request.uri().host() {
            return Target::from_host(host);
        }
        let mut hosts = request.headers().get_all(HOST).iter();
        let Some(host) = hosts.next() else { return Ok(None) };
        if hosts.next().is_some() {
            return Err(BadTarget::Host);
        }
        // A name that is not text is no sandbox's.
        host.to_str().map_or(Ok(None), Target::from_host)
    }

    /// Which sandbox has signed the address of `request`; `None` when that is not a signed one.
    ///
    /// # Errors
    /// [`ProxyError::NobodySigned`].
    pub(crate) fn signer<B>(
        &self,
        request: &Request<B>,
    ) -> Result<Option<Target>, ProxyError<'static>> {
        let Some(signed) = SignedRequest::of(request) else { return Ok(None) };
        let table = self.table.read();
        let signer = table.iter().find(|(_sandbox, upstream)| {
            let token = upstream.ingress().agent_token.as_ref();
            token.is_some_and(|token| signed.is_signed_by(token.expose()))
        });
        let (sandbox, _upstream) = signer.ok_or(ProxyError::NobodySigned)?;
        Ok(Some(Target { sandbox: sandbox.clone(), port: ENVD_PORT }))
    }

    /// Sends `request` to the sandbox and answers what it answers, or why it could not.
    ///
    /// Cancel safety: yes; dropping the call, or the body of its answer, closes the connection to
    /// the sandbox.
    pub async fn handle(&self, target: &Target, request: Request<Incoming>) -> Response<Body> {
        let form = Form::wanted(&request);
        if request.method() == Method::CONNECT {
            let why = "CONNECT is not possible here; use GET with an Upgrade header";
            return answer::text(StatusCode::METHOD_NOT_ALLOWED, why.to_owned());
        }
        let path = request.uri().path();
        if target.port == ENVD_PORT && is_control_path(path) {
            return form.refused(ProxyError::EndpointNotAvailable { path });
        }
        if target.port == ENVD_PORT && matches!(form, Form::Grpc) {
            return grpc::not_spoken();
        }
        match self.forward(target, request).await {
            Ok(response) => response,
            Err(error) => form.refused(error),
        }
    }

    async fn forward<'a>(
        &self,
        target: &'a Target,
        mut request: Request<Incoming>,
    ) -> Result<Response<Body>, ProxyError<'a>> {
        let Target { sandbox, port } = target;
        let upstream = match self.upstream(sandbox) {
            Some(upstream) => upstream,
            None => {
                let knock = wake::knock(target, request.headers());
                Box::pin(self.wake(target, knock)).await?
            }
        };
        private::admit(target, upstream.ingress(), request.headers())?;
        let passes = upstream.enter(&self.exchanges).map_err(|full| match full {
            Full::Edge => ProxyError::ProxyBusy { sandbox },
            Full::Sandbox => {
                let limit = self.config.max_exchanges_per_sandbox;
                ProxyError::TooManyConnections { sandbox, limit }
            }
        })?;

        let upgrade = headers::wanted_upgrade(&request).map(|protocol| Upgrade {
            protocol,
            client: hyper::upgrade::on(&mut request),
            pass: request.extensions_mut().remove(),
        });
        let is_grpc = grpc::is_call(&request);
        let (mut head, body) = request.into_parts();
        headers::for_sandbox(&mut head, upgrade.as_ref().map(|upgrade| upgrade.protocol.clone()));
        if let Some(mask) = upstream.ingress().mask_host.as_ref().filter(|_| *port != ENVD_PORT) {
            headers::mask_host(&mut head.headers, mask, *port);
        }
        let protocol = if is_grpc { Protocol::Http2 } else { Protocol::Http1 };
        let place = upstream.port(*port, protocol);
        if is_grpc {
            headers::for_http2(&mut head, place.tls);
        }
        let request = Request::from_parts(head, RequestBody::new(body));

        let (response, sender) = match exchange(&upstream, place, request).await {
            Ok(done) => done,
            Err(failure) => {
                debug!(%sandbox, port, error = %observe::chain(&failure), "no answer");
                return Err(explain(&failure, target));
            }
        };
        let lease = Lease { upstream, port: place, sender, passes };
        if response.status() == StatusCode::SWITCHING_PROTOCOLS {
            return start_tunnel(response, upgrade, lease)
                .ok_or(ProxyError::NoAnswer { sandbox, port: *port });
        }
        let (mut head, body) = response.into_parts();
        headers::for_client(&mut head);
        Ok(Response::from_parts(head, Body::sandbox(body, lease, is_grpc)))
    }

    /// The way of a request that only has to be passed on; `None` when there is none, or something
    /// is to be asked or changed first.
    pub(crate) fn way(&self, target: &Target) -> Option<Way> {
        let upstream = self.upstream(&target.sandbox)?;
        let Ingress { traffic_token, mask_host, .. } = upstream.ingress();
        let has_terms = traffic_token.is_some() || mask_host.is_some();
        let port = upstream.port(target.port, Protocol::Http1);
        if port.tls || (has_terms && target.port != ENVD_PORT) {
            return None;
        }
        let passes = upstream.enter(&self.exchanges).ok()?;
        Some(Way { upstream, port, passes })
    }

    pub(crate) fn upstream(&self, sandbox: &SandboxId) -> Option<Arc<Upstream>> {
        self.table.read().get(sandbox).map(Arc::clone)
    }

    /// What others are asked to do is done where the caller of this runs.
    pub(crate) fn settle(&self) {
        self.home.get_or_init(Handle::current);
    }

    /// Does `work`, which is not the edge's own.
    pub(crate) async fn at_home<F: Future>(&self, work: F) -> F::Output {
        match self.home.get() {
            Some(home) => AtHome::new(home.clone(), work).await,
            None => work.await,
        }
    }

    pub(crate) fn config(&self) -> &Config {
        &self.config
    }

    pub(crate) fn clients(&self) -> &TaskGroup {
        &self.clients
    }

    /// Ends every client connection, then everything towards sandboxes: the other way round, a
    /// client would be told that its sandbox is gone.
    ///
    /// # Errors
    /// [`Expired`] when something is still there at the end of `budget`.
    pub(crate) async fn close(&self, budget: Budget) -> Result<(), Expired> {
        let clients = self.clients.close(budget).await;
        self.for_each(Upstream::end);
        let sandboxes = self.sandboxes.close(budget).await;
        clients.and(sandboxes)
    }

    /// How many tasks there are, of clients and towards sandboxes.
    pub(crate) fn running(&self) -> usize {
        self.clients.running() + self.sandboxes.running()
    }

    /// Closes connections to sandboxes that were not used for `max_age`.
    pub(crate) fn close_idle(&self, max_age: Duration) {
        self.for_each(|upstream| upstream.close_idle(max_age));
    }

    /// Closes unused connections to sandboxes whose other end has left.
    pub(crate) fn close_left(&self) {
        self.for_each(Upstream::close_left);
    }

    fn for_each(&self, act: impl Fn(&Upstream)) {
        let all: Vec<_> = self.table.read().values().map(Arc::clone).collect();
        all.iter().for_each(|upstream| act(upstream));
    }
}

/// Where a request goes, and the right to go there.
#[derive(Debug)]
pub(crate) struct Way {
    pub(crate) upstream: Arc<Upstream>,
    pub(crate) port: Port,
    pub(crate) passes: Passes,
}

/// A request to leave HTTP.
struct Upgrade {
    protocol: http::HeaderValue,
    client: hyper::upgrade::OnUpgrade,
    pass: Option<Arc<ClientPass>>,
}

/// Starts the tunnel that `response` offers; `None` when nobody asked for it.
fn start_tunnel(
    response: Response<Incoming>,
    upgrade: Option<Upgrade>,
    mut lease: Lease,
) -> Option<Response<Body>> {
    let upgrade = upgrade?;
    let sandbox = lease.sender.take_transport();
    let (mut head, _no_body) = response.into_parts();
    if !headers::for_upgraded_client(&mut head, &upgrade.protocol) {
        return None;
    }
    let tunnel = Tunnel {
        client: upgrade.client,
        sandbox,
        is_websocket: upgrade.protocol.as_bytes().eq_ignore_ascii_case(b"websocket"),
        stop: lease.upstream.stop_token().clone(),
        passes: (lease.passes, upgrade.pass),
    };
    lease.upstream.spawn("tunnel", tunnel.run());
    Some(Response::from_parts(head, Body::empty()))
}

fn explain<'a>(failure: &Failure, target: &'a Target) -> ProxyError<'a> {
    let Target { sandbox, port } = target;
    match failure {
        Failure::Ended => ProxyError::SandboxNotFound { sandbox },
        Failure::Dial(DialError::Closed { .. } | DialError::Slow { .. }) => {
            ProxyError::PortClosed { sandbox, port: *port }
        }
        Failure::Dial(error @ DialError::NoRoom { .. }) => {
            warn!(error = %observe::chain(error), "no room for connections to sandboxes");
            ProxyError::ProxyBusy { sandbox }
        }
        Failure::Dial(DialError::Tls { .. }) => ProxyError::NoTls { sandbox, port: *port },
        Failure::Dial(DialError::Handshake(_)) | Failure::Broken(_) => {
            ProxyError::NoAnswer { sandbox, port: *port }
        }
    }
}

impl Routes for Edge {
    fn publish(&self, route: Route, ingress: Ingress) {
        let mut table = self.table.write();
        let known = table.get(&route.sandbox);
        if known.is_some_and(|known| *known.route() == route && *known.ingress() == ingress) {
            return;
        }
        let sandbox = route.sandbox.clone();
        let (idle, tasks) = (Arc::clone(&self.idle), self.sandboxes.clone());
        let left = Arc::clone(&self.left);
        let upstream = Arc::new(Upstream::new(route, ingress, &self.config, idle, left, tasks));
        let replaced = table.insert(sandbox, upstream);
        drop(table);
        if let Some(replaced) = replaced {
            replaced.end();
        }
    }

    fn withdraw(&self, sandbox: &SandboxId, lifecycle: &LifecycleId) {
        let mut table = self.table.write();
        if table.get(sandbox).is_none_or(|known| known.route().lifecycle != *lifecycle) {
            return;
        }
        let withdrawn = table.remove(sandbox);
        drop(table);
        if let Some(withdrawn) = withdrawn {
            withdrawn.end();
        }
    }
}
