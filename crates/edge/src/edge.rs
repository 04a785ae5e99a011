use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use e2b_wire::host_name::{BadTarget, ENVD_PORT, Target};
use e2b_wire::proxy_error::{ErrorForm, ProxyError};
use http::header::HOST;
use http::{Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use lifecycle::{Budget, Expired, TaskGroup};
use model::{LifecycleId, SandboxId};
use node_wire::{Ingress, Route, Routes};
use parking_lot::RwLock;
use tokio::sync::Semaphore;
use tracing::{debug, warn};

use crate::control_path::is_control_path;
use crate::exchange::{Failure, exchange};
use crate::request_body::RequestBody;
use crate::serve::ClientPass;
use crate::signed::SignedRequest;
use crate::tunnel::Tunnel;
use crate::upstream::{DialError, Full, Lease, Upstream, semaphore};
use crate::{Body, Config, answer, headers, private};

/// The proxy: a table of running sandboxes and what is under way to them.
#[derive(Debug)]
pub struct Edge {
    config: Config,
    table: RwLock<HashMap<SandboxId, Arc<Upstream>>>,
    exchanges: Arc<Semaphore>,
    idle: Arc<Semaphore>,
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
            exchanges: semaphore(config.max_exchanges),
            idle: semaphore(config.max_idle),
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
        let form = ErrorForm::wanted(request.headers());
        if request.method() == Method::CONNECT {
            let why = "CONNECT is not possible here; use GET with an Upgrade header";
            return answer::text(StatusCode::METHOD_NOT_ALLOWED, why.to_owned());
        }
        let path = request.uri().path();
        if target.port == ENVD_PORT && is_control_path(path) {
            return answer::proxy_error(ProxyError::EndpointNotAvailable { path }, form);
        }
        match self.forward(target, request).await {
            Ok(response) => response,
            Err(error) => answer::proxy_error(error, form),
        }
    }

    async fn forward<'a>(
        &self,
        target: &'a Target,
        mut request: Request<Incoming>,
    ) -> Result<Response<Body>, ProxyError<'a>> {
        let Target { sandbox, port } = target;
        let upstream = self.table.read().get(sandbox).map(Arc::clone);
        let upstream = upstream.ok_or(ProxyError::SandboxNotFound { sandbox })?;
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
        let (mut head, body) = request.into_parts();
        headers::for_sandbox(&mut head, upgrade.as_ref().map(|upgrade| upgrade.protocol.clone()));
        if let Some(mask) = upstream.ingress().mask_host.as_ref().filter(|_| *port != ENVD_PORT) {
            headers::mask_host(&mut head.headers, mask, *port);
        }
        let request = Request::from_parts(head, RequestBody::new(body));

        let (response, sender) = match exchange(&upstream, *port, request).await {
            Ok(done) => done,
            Err(failure) => {
                debug!(%sandbox, port, error = %observe::chain(&failure), "no answer");
                return Err(explain(&failure, target));
            }
        };
        let lease = Lease { upstream, port: *port, sender, passes };
        if response.status() == StatusCode::SWITCHING_PROTOCOLS {
            return start_tunnel(response, upgrade, lease)
                .ok_or(ProxyError::NoAnswer { sandbox, port: *port });
        }
        let (mut head, body) = response.into_parts();
        headers::for_client(&mut head);
        Ok(Response::from_parts(head, Body::sandbox(body, lease)))
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
        let sandboxes = self.sandboxes.close(budget).await;
        clients.and(sandboxes)
    }

    /// How many tasks there are, of clients and towards sandboxes.
    pub(crate) fn running(&self) -> usize {
        self.clients.running() + self.sandboxes.running()
    }

    /// Closes connections to sandboxes that were not used for `max_age`.
    pub(crate) fn close_idle(&self, max_age: Duration) {
        let all: Vec<_> = self.table.read().values().map(Arc::clone).collect();
        for upstream in all {
            upstream.close_idle(max_age);
        }
    }
}

/// A request to leave HTTP.
struct Upgrade {
    protocol: http::HeaderValue,
    client: hyper::upgrade::OnUpgrade,
    pass: Option<Arc<ClientPass>>,
}

/// Starts the tunnel that `response` offers; `None` when nobody asked for it.
fn start_tunnel(
    mut response: Response<Incoming>,
    upgrade: Option<Upgrade>,
    lease: Lease,
) -> Option<Response<Body>> {
    let upgrade = upgrade?;
    let sandbox = hyper::upgrade::on(&mut response);
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
        let upstream = Arc::new(Upstream::new(route, ingress, &self.config, idle, tasks));
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
