//! Requests of HTTP/1, one by one: each is let through for the host it names, and gets the headers
//! that the rules have for that. Those of HTTPS are for the one host that their connection is with.
//!
//! They are read and written anew: what two servers may understand in two ways does not go on.

use std::convert::Infallible;
use std::net::SocketAddrV4;
use std::sync::Arc;
use std::time::Duration;

use http::header::{CONNECTION, HeaderValue, UPGRADE};
use http::uri::PathAndQuery;
use http::{Request, Response, StatusCode, Uri};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::client::conn::http1::SendRequest;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::{TokioIo, TokioTimer};
use model::Scheme;
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite};

use crate::Refusal;
use crate::beside::{Beside, Runner};
use crate::carry::Allowed;
use crate::https::Upstream;
use crate::intercept::Protocol;
use crate::line::{Cut, Line};
use crate::proxy::Shared;
use crate::requests::{Body, broken, check_is_for, named, refused, set_headers};

/// The lines of a request, and the pause before it.
pub(crate) const REQUEST_LIMIT: Duration = Duration::from_secs(60);
/// The most bytes that the lines of a request may have.
pub(crate) const HEAD_MAX: usize = 64 * 1024;

/// Serves the requests that come on `line`, which was for `origin`.
pub(crate) async fn serve(
    shared: Arc<Shared>,
    line: Line,
    cut: Cut,
    origin: SocketAddrV4,
) -> Result<(), Refusal> {
    // What it has connected to is of use to nobody else.
    let beside = Beside::new(&shared.tasks);
    let exchange = Exchange::new(Arc::clone(&shared), To::Anybody(origin), beside.runner());
    tokio::select! {
        biased;
        () = shared.wait_for_change(|| exchange.allowed.lock().clone()) => cut.reset_on_drop(),
        () = Box::pin(exchange.serve_all(line)) => {}
    }
    Ok(())
}

/// Serves the requests that come from `program` in TLS, which are for one server: `first` is a
/// connection with that, and others are made as they are needed.
pub(crate) async fn serve_one<P, S>(upstream: Arc<Upstream>, program: P, first: (Allowed, S))
where
    P: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (shared, runner) = (Arc::clone(upstream.shared()), upstream.runner());
    let exchange = Exchange::new(shared, To::One(upstream), runner);
    let (allowed, stream) = first;
    // Without it the first request makes one, or is told why there is none.
    if let Ok(requests) = exchange.begin(stream).await {
        *exchange.server.lock().await = Some(Server { allowed, requests });
    }
    Box::pin(exchange.serve_all(program)).await;
}

/// One program's requests, in their order.
#[derive(Debug)]
struct Exchange {
    shared: Arc<Shared>,
    to: To,
    /// Requests come one at a time: nobody ever waits for it.
    server: tokio::sync::Mutex<Option<Server>>,
    /// What the last request was let through as.
    allowed: Mutex<Option<Allowed>>,
    /// Both ends of what is no HTTP any more.
    switched: Mutex<Option<[OnUpgrade; 2]>>,
    runner: Runner,
}

/// For whom the requests of a connection may be.
#[derive(Debug)]
enum To {
    /// For whom each of them says. The connection was for this address.
    Anybody(SocketAddrV4),
    One(Arc<Upstream>),
}

/// Where requests go, as long as they go there.
#[derive(Debug)]
struct Server {
    allowed: Allowed,
    requests: SendRequest<Incoming>,
}

impl Exchange {
    fn new(shared: Arc<Shared>, to: To, runner: Runner) -> Arc<Self> {
        Arc::new(Self {
            shared,
            to,
            server: tokio::sync::Mutex::default(),
            allowed: Mutex::default(),
            switched: Mutex::default(),
            runner,
        })
    }

    async fn serve_all<P>(self: &Arc<Self>, program: P)
    where
        P: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let service = service_fn(|request| {
            let exchange = Arc::clone(self);
            async move { Ok::<_, Infallible>(exchange.answer(request).await) }
        });
        let serving = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(REQUEST_LIMIT)
            .max_buf_size(HEAD_MAX)
            .preserve_header_case(true)
            .half_close(true)
            .serve_connection(TokioIo::new(program), service)
            .with_upgrades();
        if let Err(error) = serving.await {
            tracing::trace!(%error, "requests to the outside are broken off");
        }
        let switched = self.switched.lock().take();
        if let Some([program, server]) = switched
            && let (Ok(program), Ok(server)) = tokio::join!(program, server)
        {
            let (mut program, mut server) = (TokioIo::new(program), TokioIo::new(server));
            if let Err(error) = tokio::io::copy_bidirectional(&mut program, &mut server).await {
                tracing::trace!(%error, "a connection to the outside is broken");
            }
        }
    }

    async fn answer(&self, request: Request<Incoming>) -> Response<Body> {
        match Box::pin(self.forward(request)).await {
            Ok(answer) => answer,
            Err(refusal) => {
                self.shared.refused(&refusal);
                let mut answer = refused(&refusal);
                drop(answer.headers_mut().insert(CONNECTION, HeaderValue::from_static("close")));
                answer
            }
        }
    }

    async fn forward(&self, mut request: Request<Incoming>) -> Result<Response<Body>, Refusal> {
        let allowed = self.admit(&request)?;
        if let Some(name) = &allowed.name {
            set_headers(&allowed.egress, allowed.scheme, name, &mut request)?;
        }
        let path = request.uri().path_and_query().cloned();
        *request.uri_mut() = Uri::from(path.unwrap_or(PathAndQuery::from_static("/")));
        *self.allowed.lock() = Some(allowed.clone());
        let switches = request.headers().contains_key(UPGRADE);
        let program = switches.then(|| hyper::upgrade::on(&mut request));
        let mut answer = self.send(allowed, request).await?;
        if answer.status() == StatusCode::SWITCHING_PROTOCOLS
            && let Some(program) = program
        {
            *self.switched.lock() = Some([program, hyper::upgrade::on(&mut answer)]);
        }
        Ok(answer.map(BodyExt::boxed))
    }

    fn admit<B>(&self, request: &Request<B>) -> Result<Allowed, Refusal> {
        match &self.to {
            To::Anybody(origin) => {
                let (name, scheme) = (named(request)?, Scheme::Http);
                let egress = self.shared.egress();
                let target = self.shared.rules(&egress).decide(*origin, scheme, name.as_ref())?;
                Ok(Allowed { origin: *origin, scheme, name, target, egress })
            }
            To::One(upstream) => {
                check_is_for(request, upstream.name())?;
                upstream.allowed()
            }
        }
    }

    /// Sends it to where the request before went, if that is where it goes, too.
    async fn send(
        &self,
        allowed: Allowed,
        mut request: Request<Incoming>,
    ) -> Result<Response<Incoming>, Refusal> {
        let mut server = self.server.lock().await;
        let same = server.take().filter(|server| server.leads_as(&allowed));
        if let Some(mut known) = same
            && known.requests.ready().await.is_ok()
        {
            match known.requests.try_send_request(request).await {
                Ok(answer) => {
                    *server = Some(known);
                    return Ok(answer);
                }
                // It was closed in the meantime, as servers do, and nothing was sent.
                Err(mut error) => match error.take_message() {
                    Some(unsent) => request = unsent,
                    None => return Err(broken(&error.into_error())),
                },
            }
        }
        let mut requests = self.connect(&allowed).await?;
        let answer = requests.send_request(request).await.map_err(|error| broken(&error))?;
        *server = Some(Server { allowed, requests });
        Ok(answer)
    }

    async fn connect(&self, allowed: &Allowed) -> Result<SendRequest<Incoming>, Refusal> {
        match &self.to {
            To::Anybody(_) => {
                let rules = self.shared.rules(&allowed.egress);
                self.begin(self.shared.dialer.dial(rules, &allowed.target).await?).await
            }
            To::One(upstream) => {
                let connected = upstream.connect(allowed, &[Protocol::Http1]).await?;
                self.begin(connected.stream).await
            }
        }
    }

    /// Begins to speak HTTP/1 with the server on `stream`.
    async fn begin<S>(&self, stream: S) -> Result<SendRequest<Incoming>, Refusal>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (requests, connection) = hyper::client::conn::http1::Builder::new()
            .preserve_header_case(true)
            .max_buf_size(HEAD_MAX)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(|error| broken(&error))?;
        self.runner.spawn(async move { drop(connection.with_upgrades().await) });
        Ok(requests)
    }
}

impl Server {
    fn leads_as(&self, allowed: &Allowed) -> bool {
        self.allowed.target == allowed.target
            && self.allowed.egress.proxy == allowed.egress.proxy
            && self.allowed.reaches_the_same_by(&allowed.egress)
    }
}
