//! Connections of TLS whose requests are given headers. The proxy speaks with the server first and
//! believes it or not, and then with the program, as the server and in the protocol that it chose.
//!
//! A server that cannot be believed gets no request, and the program an answer that says why.

use std::convert::Infallible;
use std::net::SocketAddrV4;
use std::sync::Arc;
use std::time::Duration;

use http::header::{CONNECTION, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use lifecycle::Budget;
use model::{HostName, Scheme};
use rustls::CertificateError;
use rustls::pki_types::ServerName;
use tokio_rustls::{TlsAcceptor, TlsConnector, client, server};

use crate::beside::{Beside, Runner};
use crate::carry::Allowed;
use crate::http::{self as http1_requests, HEAD_MAX, REQUEST_LIMIT};
use crate::intercept::{Offer, Protocol};
use crate::line::{Cut, Line};
use crate::outside::Outside;
use crate::proxy::Shared;
use crate::requests::refused;
use crate::{Interceptor, Refusal};

mod streams;

/// Each of the two handshakes may take this long.
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(10);

/// How a program has begun.
#[derive(Debug)]
pub(crate) struct Hello {
    pub(crate) origin: SocketAddrV4,
    pub(crate) name: HostName,
    pub(crate) offer: Offer,
}

/// Serves the requests that come on `line`, from which `hello` was read and is to be read again.
pub(crate) async fn serve(
    shared: Arc<Shared>,
    line: Line,
    cut: Cut,
    hello: Hello,
) -> Result<(), Refusal> {
    let beside = Beside::new(&shared.tasks);
    let Hello { origin, name, offer } = hello;
    let interceptor = shared.interceptor()?;
    let runner = beside.runner();
    let upstream = Upstream { shared: Arc::clone(&shared), interceptor, origin, name, runner };
    let upstream = Arc::new(upstream);
    // To one that is not allowed that is told, whatever other rules come.
    let allowed = upstream.allowed();
    let holds = allowed.as_ref().ok().cloned();
    tokio::select! {
        biased;
        () = shared.wait_for_change(|| holds.clone()) => cut.reset_on_drop(),
        () = Box::pin(upstream.carry(line, &offer, allowed)) => {}
    }
    Ok(())
}

/// The one server that a program's connection is for.
#[derive(Debug)]
pub(crate) struct Upstream {
    shared: Arc<Shared>,
    interceptor: Arc<Interceptor>,
    origin: SocketAddrV4,
    name: HostName,
    runner: Runner,
}

/// A connection with a server that is who it says.
#[derive(Debug)]
pub(crate) struct Connected {
    pub(crate) stream: client::TlsStream<Outside>,
    pub(crate) protocol: Protocol,
}

impl Upstream {
    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    pub(crate) fn name(&self) -> &HostName {
        &self.name
    }

    pub(crate) fn runner(&self) -> Runner {
        self.runner.clone()
    }

    /// What the rules say of it now.
    pub(crate) fn allowed(&self) -> Result<Allowed, Refusal> {
        let (egress, scheme) = (self.shared.egress(), Scheme::Https);
        let target = self.shared.rules(&egress).decide(self.origin, scheme, Some(&self.name))?;
        Ok(Allowed { origin: self.origin, scheme, name: Some(self.name.clone()), target, egress })
    }

    async fn carry(self: &Arc<Self>, line: Line, offer: &Offer, allowed: Result<Allowed, Refusal>) {
        let mut room = self.shared.enter_h2();
        let usable = offer.usable(room.is_some());
        let connected = match allowed {
            Ok(_) if usable.is_empty() => Err(Refusal::TooMany),
            Ok(allowed) => self.connect(&allowed, &usable).await.map(|server| (allowed, server)),
            Err(refusal) => Err(refusal),
        };
        let spoken = match &connected {
            Ok((_, server)) => server.protocol,
            Err(_) => offer.usable(true).first().copied().unwrap_or(Protocol::Http1),
        };
        drop(room.take_if(|_| spoken != Protocol::H2));
        let program = match self.greet(line, offer.told(spoken)).await {
            Ok(program) => program,
            Err(refusal) => return self.shared.refused(&refusal),
        };
        match connected {
            Ok((allowed, Connected { stream, protocol: Protocol::Http1 })) => {
                let upstream = Arc::clone(self);
                http1_requests::serve_one(upstream, program, (allowed, stream)).await;
            }
            Ok((_, Connected { stream, protocol: Protocol::H2 })) => {
                Box::pin(streams::serve(Arc::clone(self), program, stream)).await;
            }
            Err(refusal) => {
                self.shared.refused(&refusal);
                self.say(program, spoken, &refusal).await;
            }
        }
    }

    /// Connects to the server in one of `protocols`, and believes that it is the one by its name.
    pub(crate) async fn connect(
        &self,
        allowed: &Allowed,
        protocols: &[Protocol],
    ) -> Result<Connected, Refusal> {
        let name = ServerName::try_from(self.name.as_str().to_owned())
            .map_err(|_odd| Refusal::Request("TLS has no such name of a server"))?;
        let rules = self.shared.rules(&allowed.egress);
        let stream = self.shared.dialer.dial(rules, &allowed.target).await?;
        let connector = TlsConnector::from(self.interceptor.as_client(protocols));
        let handshake = Budget::within(HANDSHAKE_LIMIT)
            .run("TLS handshake with the server", connector.connect(name, stream))
            .await;
        let stream = match handshake {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => return Err(self.disbelief(&error)),
            Err(expired) => return Err(Refusal::Dial(expired.to_string())),
        };
        // Without a word of it, it is HTTP/1.1. It was offered nothing that is not in `protocols`.
        let protocol = match stream.get_ref().1.alpn_protocol() {
            Some(b"h2") => Protocol::H2,
            _ => Protocol::Http1,
        };
        Ok(Connected { stream, protocol })
    }

    fn disbelief(&self, error: &std::io::Error) -> Refusal {
        let cause = error.get_ref().and_then(|cause| cause.downcast_ref::<rustls::Error>());
        match cause {
            Some(rustls::Error::InvalidCertificate(why)) => {
                Refusal::Certificate { name: self.name.clone(), why: words(why) }
            }
            _ => Refusal::Dial(format!("no TLS with {}: {}", self.name, observe::chain(error))),
        }
    }

    /// Takes the server's part in the handshake with the program.
    async fn greet(
        &self,
        line: Line,
        protocol: Option<Protocol>,
    ) -> Result<server::TlsStream<Line>, Refusal> {
        let config = self.interceptor.as_server(&self.name, protocol).map_err(|error| {
            tracing::error!(error = %observe::chain(&error), "no certificate can be made");
            Refusal::Unready("no certificate can be made")
        })?;
        let handshake = TlsAcceptor::from(config).accept(line);
        match Budget::within(HANDSHAKE_LIMIT).run("TLS handshake", handshake).await {
            Ok(Ok(program)) => Ok(program),
            // As a rule it believes only its own authorities.
            Ok(Err(error)) => Err(Refusal::Handshake(observe::chain(&error).to_string())),
            Err(expired) => Err(Refusal::Handshake(expired.to_string())),
        }
    }

    /// Answers the first request of `program` with `refusal`, and lets it go.
    async fn say(&self, program: server::TlsStream<Line>, protocol: Protocol, refusal: &Refusal) {
        if protocol == Protocol::H2 {
            return streams::say(&self.runner, program, refusal).await;
        }
        let service = service_fn(|_request| {
            let mut answer = refused(refusal);
            drop(answer.headers_mut().insert(CONNECTION, HeaderValue::from_static("close")));
            async { Ok::<_, Infallible>(answer) }
        });
        let serving = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(REQUEST_LIMIT)
            .max_buf_size(HEAD_MAX)
            .serve_connection(TokioIo::new(program), service);
        if let Err(error) = serving.await {
            tracing::trace!(%error, "a program does not hear why it is refused");
        }
    }
}

fn words(why: &CertificateError) -> String {
    match why {
        // Of one whose issuer has the name of a known one the signature does not fit.
        CertificateError::UnknownIssuer | CertificateError::BadSignature => {
            "no certificate authority that this host believes has signed its certificate".into()
        }
        why => why.to_string(),
    }
}
