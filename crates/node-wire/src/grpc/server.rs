//! What answers on a node's listener: who may ask, and which service is asked.

use std::convert::Infallible;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use connectrpc::{ConnectError, ConnectRpcBody, ConnectRpcService, DeadlinePolicy, Limits, Router};
use futures::FutureExt as _;
use futures::future::BoxFuture;
use http::header::{ALLOW, AUTHORIZATION, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::{Either, Full};
use hyper::body::Incoming;
use model::{NodePhase, Secret};
use serde::Serialize;
use subtle::ConstantTimeEq as _;
use tokio_util::sync::CancellationToken;
use tower::Service as _;

use super::MAX_REQUEST_BYTES;
use super::health_service::Health;
use super::info_service::Info;
use super::node_service::Nodes;
use super::sandbox_service::Sandboxes;
use super::template_service::Templates;
use crate::NodeApi;

const HEALTH_PATH: &str = "/health";

/// Who may ask a node.
///
/// Always whoever has the node's token, sent as `authorization: Bearer TOKEN`. Proof by client
/// certificate may come beside it; asking without any proof will not.
#[derive(Debug, Clone)]
pub struct Auth {
    token: Secret,
}

impl Auth {
    #[must_use]
    pub const fn bearer(token: Secret) -> Self {
        Self { token }
    }

    /// Takes the same time for every token of the same length.
    fn check(&self, headers: &HeaderMap) -> Result<(), ConnectError> {
        let given = headers.get(AUTHORIZATION).ok_or_else(|| {
            ConnectError::unauthenticated(
                "a node takes no call without its token: send `authorization: Bearer TOKEN`",
            )
        })?;
        let token = match given.as_bytes().split_at_checked(7) {
            Some((scheme, token)) if scheme.eq_ignore_ascii_case(b"bearer ") => token,
            _ => &[],
        };
        if bool::from(token.ct_eq(self.token.expose().as_bytes())) {
            Ok(())
        } else {
            Err(ConnectError::unauthenticated("the token given is not this node's"))
        }
    }
}

/// The services of one node, as one HTTP service. Made by [`server`], put on a listener by
/// [`serve`](super::serve).
#[derive(Clone)]
pub struct Server {
    node: Arc<dyn NodeApi>,
    auth: Auth,
    rpc: ConnectRpcService,
    /// Cancelled when open streams have to end.
    ending: CancellationToken,
}

impl std::fmt::Debug for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Server").field("node", &self.node).field("auth", &self.auth).finish()
    }
}

/// Serves `node` to whoever `auth` lets in: `SandboxService`, `InfoService`, `TemplateService`,
/// `cofferdam.node.v1.NodeService`, `grpc.health.v1.Health`; and to anybody `GET /health`, which
/// says no more than how the node is.
#[must_use]
pub fn server(node: Arc<dyn NodeApi>, auth: Auth) -> Server {
    let ending = CancellationToken::new();
    let router = Router::new()
        .add_service(Arc::new(Sandboxes::new(Arc::clone(&node))))
        .add_service(Arc::new(Info::new(Arc::clone(&node))))
        .add_service(Arc::new(Templates::new(Arc::clone(&node))))
        .add_service(Arc::new(Nodes::new(Arc::clone(&node), ending.clone())))
        .add_service(Arc::new(Health::new(Arc::clone(&node), ending.clone())));
    let limits = Limits::default()
        .with_max_request_body_size(MAX_REQUEST_BYTES)
        .with_max_message_size(MAX_REQUEST_BYTES);
    let rpc = ConnectRpcService::new(router)
        .with_limits(limits)
        .with_deadline_policy(DeadlinePolicy::new().with_enforce_on_streams(true));
    Server { node, auth, rpc, ending }
}

/// What answers are made of.
pub(super) type Body = Either<ConnectRpcBody, Full<Bytes>>;

impl Server {
    /// Ends open streams, each with a status that says why.
    pub(super) fn end_streams(&self) {
        self.ending.cancel();
    }

    /// Whether a request has shown the token: its connection is not a stranger's.
    pub(super) fn knows(&self, request: &Request<Incoming>) -> bool {
        self.auth.check(request.headers()).is_ok()
    }

    async fn answer(mut self, request: Request<Incoming>) -> Response<Body> {
        if request.uri().path() == HEALTH_PATH {
            return health(&*self.node, request.method()).await;
        }
        if let Err(refusal) = self.auth.check(request.headers()) {
            return refusal.into_http_response(request.headers()).map(Either::Left);
        }
        match self.rpc.call(request).await {
            Ok(response) => whole_status(response).map(Either::Left),
            Err(never) => match never {},
        }
    }
}

/// connectrpc says the status of an error twice, in the headers and in the trailers, and its
/// details only in the trailers, which a client that has found it in the headers does not read.
fn whole_status(mut response: Response<ConnectRpcBody>) -> Response<ConnectRpcBody> {
    response.headers_mut().remove("grpc-status");
    response.headers_mut().remove("grpc-message");
    response
}

impl tower::Service<Request<Incoming>> for Server {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Incoming>) -> Self::Future {
        self.clone().answer(request).map(Ok).boxed()
    }
}

/// How a node is, in the three words that supervisors of E2B's node know.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Condition {
    Healthy,
    Draining,
    Unhealthy,
}

impl Condition {
    /// A node that is not to be chosen drains as far as a supervisor is concerned; one that
    /// drains is well, or it would be killed with what it waits for.
    pub(super) const fn of(phase: NodePhase) -> Self {
        match phase {
            NodePhase::Healthy => Self::Healthy,
            NodePhase::Unhealthy => Self::Unhealthy,
            NodePhase::Starting
            | NodePhase::Standby
            | NodePhase::Draining
            | NodePhase::Forcing
            | NodePhase::ForceFailed
            | NodePhase::Stopped => Self::Draining,
        }
    }
}

#[derive(Debug, Serialize)]
struct HealthBody {
    status: Condition,
    version: String,
}

async fn health(node: &dyn NodeApi, method: &Method) -> Response<Body> {
    let mut response = Response::new(Either::Right(Full::default()));
    if !matches!(*method, Method::GET | Method::HEAD) {
        *response.status_mut() = StatusCode::METHOD_NOT_ALLOWED;
        response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        return response;
    }
    let body = match node.info().await {
        Ok(info) => HealthBody { status: Condition::of(info.phase), version: info.version },
        Err(_unreachable) => HealthBody { status: Condition::Unhealthy, version: String::new() },
    };
    if body.status == Condition::Unhealthy {
        *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
    }
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    // Two strings: cannot fail.
    *response.body_mut() = Either::Right(Full::from(serde_json::to_vec(&body).unwrap_or_default()));
    response
}
