//! Requests of HTTP/1, one by one: each is let through for the host it names, and gets the headers
//! that the rules have for that.
//!
//! They are read and written anew: what two servers may understand in two ways does not go on.

use std::convert::Infallible;
use std::net::SocketAddrV4;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_TYPE, HOST, HeaderName, HeaderValue, UPGRADE};
use http::uri::PathAndQuery;
use http::{Method, Request, Response, StatusCode, Uri};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::SendRequest;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::{TokioIo, TokioTimer};
use lifecycle::TaskGroup;
use model::{Egress, HostName};
use parking_lot::Mutex;

use crate::Refusal;
use crate::line::{Cut, Line};
use crate::opening::host;
use crate::proxy::{Allowed, Shared};

/// The lines of a request, and the pause before it.
const REQUEST_LIMIT: Duration = Duration::from_secs(60);
/// The most bytes that the lines of a request may have.
const HEAD_MAX: usize = 64 * 1024;

type Body = BoxBody<Bytes, hyper::Error>;

/// Serves the requests that come on `line`, which was for `origin`.
pub(crate) async fn serve(
    shared: Arc<Shared>,
    line: Line,
    cut: Cut,
    origin: SocketAddrV4,
) -> Result<(), Refusal> {
    let tasks = TaskGroup::default();
    let exchange = Exchange {
        shared: Arc::clone(&shared),
        origin,
        server: tokio::sync::Mutex::default(),
        allowed: Mutex::default(),
        switched: Mutex::default(),
        tasks: tasks.clone(),
    };
    let exchange = Arc::new(exchange);
    let all = exchange.serve_all(line);
    tokio::select! {
        biased;
        () = shared.wait_for_change(|| exchange.allowed.lock().clone()) => cut.reset_on_drop(),
        () = Box::pin(all) => {}
    }
    // What it has connected to is of use to nobody else.
    tasks.stop_token().cancel();
    Ok(())
}

/// One program's requests, in their order.
#[derive(Debug)]
struct Exchange {
    shared: Arc<Shared>,
    origin: SocketAddrV4,
    /// Requests come one at a time: nobody ever waits for it.
    server: tokio::sync::Mutex<Option<Server>>,
    /// What the last request was let through as.
    allowed: Mutex<Option<Allowed>>,
    /// Both ends of what is no HTTP any more.
    switched: Mutex<Option<[OnUpgrade; 2]>>,
    tasks: TaskGroup,
}

/// Where requests go, as long as they go there.
#[derive(Debug)]
struct Server {
    allowed: Allowed,
    requests: SendRequest<Incoming>,
}

impl Exchange {
    async fn serve_all(self: &Arc<Self>, line: Line) {
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
            .serve_connection(TokioIo::new(line), service)
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
                refused(&refusal)
            }
        }
    }

    async fn forward(&self, mut request: Request<Incoming>) -> Result<Response<Body>, Refusal> {
        let name = named(&request)?;
        let egress = self.shared.egress();
        let target = self.shared.rules(&egress).decide(self.origin, name.as_ref())?;
        if let Some(name) = &name {
            set_headers(&egress, name, &mut request)?;
        }
        let path = request.uri().path_and_query().cloned();
        *request.uri_mut() = Uri::from(path.unwrap_or(PathAndQuery::from_static("/")));
        let allowed = Allowed { origin: self.origin, name, target, egress };
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
        let rules = self.shared.rules(&allowed.egress);
        let stream = self.shared.dialer.dial(rules, &allowed.target).await?;
        let (requests, connection) = hyper::client::conn::http1::Builder::new()
            .preserve_header_case(true)
            .max_buf_size(HEAD_MAX)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(|error| broken(&error))?;
        let stop = self.tasks.stop_token().clone();
        let work = async move {
            tokio::select! {
                () = stop.cancelled() => {}
                _ended = connection.with_upgrades() => {}
            }
        };
        self.tasks.spawn(tracing::Span::current(), work);
        Ok(requests)
    }
}

impl Server {
    fn leads_as(&self, allowed: &Allowed) -> bool {
        self.allowed.target == allowed.target && self.allowed.egress.proxy == allowed.egress.proxy
    }
}

/// The host a request is for. There may be one only, wherever it is written.
fn named<B>(request: &Request<B>) -> Result<Option<HostName>, Refusal> {
    if request.method() == Method::CONNECT {
        return Err(Refusal::Request("CONNECT is for proxies, and this is none"));
    }
    let mut hosts = request.headers().get_all(HOST).iter();
    let in_header = hosts.next().map(HeaderValue::as_bytes);
    if hosts.next().is_some() {
        return Err(Refusal::Request("the request has more than one Host header"));
    }
    let in_header = in_header.and_then(host);
    match request.uri().authority() {
        None => Ok(in_header),
        Some(authority) if host(authority.as_str().as_bytes()) == in_header => Ok(in_header),
        Some(_) => Err(Refusal::Request("the request names another host in its first line")),
    }
}

fn set_headers<B>(
    egress: &Egress,
    name: &HostName,
    request: &mut Request<B>,
) -> Result<(), Refusal> {
    let wrong = |_error| Refusal::Request("a header of the network rules cannot be sent");
    for (name, value) in egress.headers_for(name).into_iter().flat_map(|rule| &rule.headers) {
        let name = HeaderName::from_bytes(name.as_bytes()).map_err(|_bad| wrong(()))?;
        let mut value = HeaderValue::from_str(value.expose()).map_err(|_bad| wrong(()))?;
        value.set_sensitive(true);
        drop(request.headers_mut().insert(name, value));
    }
    Ok(())
}

fn broken(error: &hyper::Error) -> Refusal {
    tracing::debug!(error = %observe::chain(error), "a request to the outside has failed");
    Refusal::Dial("the server has ended the connection before it answered".into())
}

fn refused(refusal: &Refusal) -> Response<Body> {
    let text = Full::new(Bytes::from(format!("{refusal}\n")));
    let mut answer = Response::new(text.map_err(|never| match never {}).boxed());
    *answer.status_mut() = refusal.status();
    let headers = answer.headers_mut();
    drop(headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8")));
    drop(headers.insert(CONNECTION, HeaderValue::from_static("close")));
    answer
}
