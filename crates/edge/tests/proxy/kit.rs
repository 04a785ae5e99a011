//! A running edge, servers behind it and clients in front of it.

use std::convert::Infallible;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::num::NonZero;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use e2b_wire::host_name::ENVD_PORT;
use edge::{BoxError, Config, Edge, ServeError, serve};
use http::{Request, Response, Version};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Empty, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::SendRequest;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use lifecycle::{Budget, TaskGroup};
use model::{LifecycleId, SandboxId};
use node_wire::{Ingress, Route, Routes as _};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;
use tracing::Span;

pub(crate) const SANDBOX: &str = "isandbox";
pub(crate) const LIFECYCLE: &str = "one";
pub(crate) const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// No test waits longer for anything.
pub(crate) const LIMIT: Duration = Duration::from_secs(60);

pub(crate) type TestBody = UnsyncBoxBody<Bytes, BoxError>;

/// A served edge that knows one sandbox, [`SANDBOX`], whose ports are those of this machine.
pub(crate) struct World {
    pub(crate) addr: SocketAddr,
    pub(crate) edge: Arc<Edge>,
    pub(crate) stop: CancellationToken,
    pub(crate) tasks: TaskGroup,
}

/// Runs `test` in a world of its own, and sees that the listener ends in order.
pub(crate) async fn in_world(config: Config, test: impl AsyncFnOnce(&World)) {
    let listener = TcpListener::bind((LOOPBACK, 0)).await.unwrap();
    let world = World {
        addr: listener.local_addr().unwrap(),
        edge: Edge::new(config),
        stop: CancellationToken::new(),
        tasks: TaskGroup::default(),
    };
    world.publish(SANDBOX, LIFECYCLE);
    let api = tower::service_fn(async |request: Request<Incoming>| {
        let text = format!("api {}", request.uri().path());
        Ok::<_, Infallible>(Response::new(Full::new(Bytes::from(text))))
    });
    let (told, served) = oneshot::channel::<Result<(), ServeError>>();
    let (edge, stop) = (Arc::clone(&world.edge), world.stop.clone());
    world.tasks.spawn(Span::none(), async move {
        told.send(serve(listener, edge, api, stop).await).unwrap();
    });
    let all = async {
        test(&world).await;
        world.stop.cancel();
        served.await.unwrap().unwrap();
        world.tasks.close(Budget::within(LIMIT)).await.unwrap();
    };
    Budget::within(LIMIT).run("test", all).await.unwrap();
}

/// Limits for tests: nothing is waited for at the end, but for what is cut to be gone.
pub(crate) fn config() -> Config {
    let lanes = NonZero::new(2).unwrap();
    Config { grace: Duration::ZERO, reserve: LIMIT, lanes, ..Config::default() }
}

/// The same with one thread, so that all clients share the connections to sandboxes.
pub(crate) fn one_lane() -> Config {
    Config { lanes: NonZero::<usize>::MIN, ..config() }
}

impl World {
    pub(crate) fn publish(&self, sandbox: &str, lifecycle: &str) {
        self.publish_under(sandbox, lifecycle, Ingress::default());
    }

    pub(crate) fn publish_under(&self, sandbox: &str, lifecycle: &str, ingress: Ingress) {
        let route = Route {
            sandbox: sandbox.parse().unwrap(),
            lifecycle: lifecycle.parse().unwrap(),
            addr: LOOPBACK,
        };
        self.edge.publish(route, ingress);
    }

    /// The same for one at another address of this machine.
    pub(crate) fn publish_at(&self, sandbox: &str, addr: IpAddr, ingress: Ingress) {
        let (sandbox, lifecycle) = (sandbox.parse().unwrap(), LIFECYCLE.parse().unwrap());
        self.edge.publish(Route { sandbox, lifecycle, addr }, ingress);
    }

    /// A listener on the guest agent's port: every address that begins with 127 is this machine's,
    /// so there is one on which nobody else listens there.
    pub(crate) async fn agent_listener(&self) -> TcpListener {
        let own = self.addr.port().to_be_bytes();
        let address = Ipv4Addr::new(127, 49, own[0], own[1].max(1));
        TcpListener::bind((address, ENVD_PORT.get())).await.unwrap()
    }

    pub(crate) fn withdraw(&self, sandbox: &str, lifecycle: &str) {
        let (sandbox, lifecycle): (SandboxId, LifecycleId) =
            (sandbox.parse().unwrap(), lifecycle.parse().unwrap());
        self.edge.withdraw(&sandbox, &lifecycle);
    }

    /// An HTTP/1.1 server inside the sandbox.
    pub(crate) async fn sandbox_http<F, R>(&self, handle: F) -> Server
    where
        F: Fn(Request<Incoming>) -> R + Clone + Send + 'static,
        R: Future<Output = Response<TestBody>> + Send + 'static,
    {
        self.sandbox_raw(move |socket| {
            let handle = handle.clone();
            async move {
                let service = service_fn(move |request| {
                    let answer = handle(request);
                    async move { Ok::<_, Infallible>(answer.await) }
                });
                let connection = hyper::server::conn::http1::Builder::new()
                    .serve_connection(TokioIo::new(socket), service)
                    .with_upgrades();
                drop(connection.await);
            }
        })
        .await
    }

    /// A server inside the sandbox that is given each connection.
    pub(crate) async fn sandbox_raw<F, R>(&self, handle: F) -> Server
    where
        F: Fn(TcpStream) -> R + Send + 'static,
        R: Future<Output = ()> + Send + 'static,
    {
        let listener = TcpListener::bind((LOOPBACK, 0)).await.unwrap();
        self.sandbox_on(listener, handle)
    }

    pub(crate) fn sandbox_on<F, R>(&self, listener: TcpListener, handle: F) -> Server
    where
        F: Fn(TcpStream) -> R + Send + 'static,
        R: Future<Output = ()> + Send + 'static,
    {
        let addr = listener.local_addr().unwrap();
        let connections = Arc::new(AtomicUsize::new(0));
        let server =
            Server { ip: addr.ip(), port: addr.port(), connections: Arc::clone(&connections) };
        let (tasks, stop) = (self.tasks.clone(), self.tasks.stop_token().clone());
        self.tasks.spawn(Span::none(), async move {
            loop {
                let (socket, _peer) = tokio::select! {
                    () = stop.cancelled() => return,
                    accepted = listener.accept() => accepted.unwrap(),
                };
                connections.fetch_add(1, Ordering::SeqCst);
                let (stop, one) = (stop.clone(), handle(socket));
                tasks.spawn(Span::none(), async move {
                    tokio::select! {
                        () = stop.cancelled() => {}
                        () = one => {}
                    }
                });
            }
        });
        server
    }

    pub(crate) async fn socket(&self) -> TcpStream {
        TcpStream::connect(self.addr).await.unwrap()
    }

    /// An HTTP/1.1 connection to the edge.
    pub(crate) async fn client(&self) -> SendRequest<TestBody> {
        let io = TokioIo::new(self.socket().await);
        let (client, connection) = hyper::client::conn::http1::handshake(io).await.unwrap();
        self.tasks.spawn(Span::none(), async move { drop(connection.with_upgrades().await) });
        client
    }

    /// One request over a connection of its own.
    pub(crate) async fn send(&self, request: Request<TestBody>) -> Response<Incoming> {
        self.client().await.send_request(request).await.unwrap()
    }

    /// A whole answer: status, content type and text.
    pub(crate) async fn text(&self, request: Request<TestBody>) -> (u16, String, String) {
        text(self.send(request).await).await
    }

    /// What comes back for the bytes of `request`, until the edge closes.
    pub(crate) async fn raw(&self, request: &str) -> String {
        let mut socket = self.socket().await;
        socket.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        socket.read_to_string(&mut answer).await.unwrap();
        answer
    }
}

/// A server inside the sandbox.
pub(crate) struct Server {
    pub(crate) ip: IpAddr,
    pub(crate) port: u16,
    connections: Arc<AtomicUsize>,
}

impl Server {
    /// How many connections it was given so far.
    pub(crate) fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }

    /// A request for it that is routed by headers.
    pub(crate) fn get(&self, path: &str) -> Request<TestBody> {
        to_port(self.port, path)
    }

    pub(crate) fn post(&self, path: &str, body: TestBody) -> Request<TestBody> {
        let (mut head, _empty) = self.get(path).into_parts();
        head.method = http::Method::POST;
        Request::from_parts(head, body)
    }
}

pub(crate) fn to_port(port: u16, path: &str) -> Request<TestBody> {
    Request::builder()
        .uri(path)
        .header("host", "any.name:3000")
        .header("e2b-sandbox-id", SANDBOX)
        .header("e2b-sandbox-port", port)
        .body(empty())
        .unwrap()
}

pub(crate) fn to_host(host: &str) -> Request<TestBody> {
    Request::builder().uri("/").header("host", host).body(empty()).unwrap()
}

pub(crate) fn empty() -> TestBody {
    Empty::new().map_err(|never| match never {}).boxed_unsync()
}

pub(crate) fn full(text: impl Into<Bytes>) -> TestBody {
    Full::new(text.into()).map_err(|never| match never {}).boxed_unsync()
}

pub(crate) async fn text(response: Response<Incoming>) -> (u16, String, String) {
    let kind = response.headers().get("content-type").map(|kind| kind.to_str().unwrap().to_owned());
    let status = response.status().as_u16();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    (status, kind.unwrap_or_default(), String::from_utf8(body.to_vec()).unwrap())
}

/// Reads one head, to the empty line.
pub(crate) async fn read_head(socket: &mut TcpStream) -> String {
    try_read_head(socket).await.unwrap()
}

/// # Errors
/// The connection ended before the head did.
pub(crate) async fn try_read_head(socket: &mut TcpStream) -> io::Result<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(socket.read_u8().await?);
    }
    Ok(String::from_utf8(head).unwrap())
}

/// A body whose frames come from the other end of the channel; it ends when that is dropped.
pub(crate) fn channel() -> (tokio::sync::mpsc::Sender<Bytes>, TestBody) {
    let (sender, mut receiver) = tokio::sync::mpsc::channel(1);
    let frames = futures::stream::poll_fn(move |cx| {
        receiver.poll_recv(cx).map(|frame| frame.map(|bytes| Ok(http_body::Frame::data(bytes))))
    });
    (sender, http_body_util::StreamBody::new(frames).boxed_unsync())
}

#[derive(Clone)]
struct Tasks(TaskGroup);

impl<F: Future<Output = ()> + Send + 'static> hyper::rt::Executor<F> for Tasks {
    fn execute(&self, task: F) {
        self.0.spawn(Span::none(), task);
    }
}

/// An HTTP/2 connection to the edge.
pub(crate) async fn h2(world: &World) -> hyper::client::conn::http2::SendRequest<TestBody> {
    let io = TokioIo::new(world.socket().await);
    let builder = hyper::client::conn::http2::Builder::new(Tasks(world.tasks.clone()));
    let (client, connection) = builder.handshake(io).await.unwrap();
    world.tasks.spawn(Span::none(), async move { drop(connection.await) });
    client
}

pub(crate) fn h2_request(uri: String, body: TestBody) -> Request<TestBody> {
    Request::post(uri).version(Version::HTTP_2).body(body).unwrap()
}
