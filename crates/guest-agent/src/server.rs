//! The listener and the table of routes.

mod paced;

use std::net::SocketAddr;
use std::os::fd::{AsFd as _, RawFd};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::DefaultBodyLimit;
use axum::response::Response;
use axum::routing::{get, post};
use connectrpc::{CompressionPolicy, ConnectRpcService, DeadlinePolicy, Limits};
use guest_wire::proto::filesystem::FilesystemExt as _;
use guest_wire::proto::process::ProcessExt as _;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use rustix::net::sockopt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, TryAcquireError};

use self::paced::Paced;
use crate::agent::Agent;
use crate::cli::Listen;
use crate::filesystem::FilesystemService;
use crate::process::ProcessService;
use crate::upgrade::claim;
use crate::{control, cors, files, gatekeeper, log, rest, tasks, upgrade};

/// Longer than the proxies in front keep a connection, so that it is always they who close one
/// that nobody uses.
const IDLE_MAX: Duration = Duration::from_secs(640);
/// Open at once; more are refused. Above the 4096 exchanges that the edge lets into one sandbox,
/// so that the node and programs in the sandbox find room as well.
const CONNECTIONS_MAX: usize = 5120;
/// Of one RPC message, such as input for a process.
const MESSAGE_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Of a REST body that is not a file.
const BODY_BYTES_MAX: usize = 4 * 1024 * 1024;
/// What the kernel keeps of one connection for a peer that does not read, in the memory of the
/// sandbox, where it takes up to twice as much. By itself the kernel would keep some megabytes; the
/// proxy is one hop away and needs far less.
const SEND_BUFFER_BYTES: usize = 128 * 1024;
/// How long to wait when there are no descriptors left for another connection.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Why there is nothing to accept connections from.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    #[error("listen on {addr}")]
    Bind { addr: SocketAddr, source: std::io::Error },
    #[error("use descriptor {fd} as the listener: it must be an inherited TCP socket that listens")]
    Inherited { fd: RawFd, source: std::io::Error },
}

/// Binds, or takes over the socket that was inherited. To be called before anything else is
/// opened: then a wrong number cannot mean a descriptor of this program.
pub(crate) fn listen(wanted: &Listen) -> Result<std::net::TcpListener, ListenError> {
    let listener = match *wanted {
        Listen::Addr(addr) => {
            let bind = || {
                let listener = std::net::TcpListener::bind(addr)?;
                listener.set_nonblocking(true)?;
                Ok(listener)
            };
            bind().map_err(|source| ListenError::Bind { addr, source })?
        }
        Listen::Inherited(fd) => {
            inherit(fd).map_err(|source| ListenError::Inherited { fd, source })?
        }
    };
    // Connections have it from their listener, if they come later. Where it is refused, they work
    // all the same.
    let _refused = sockopt::set_socket_send_buffer_size(&listener, SEND_BUFFER_BYTES);
    Ok(listener)
}

fn inherit(fd: RawFd) -> std::io::Result<std::net::TcpListener> {
    let owned = claim(fd)?;
    if !sockopt::socket_acceptconn(owned.as_fd())? {
        return Err(std::io::Error::other("it does not listen"));
    }
    let listener = std::net::TcpListener::from(owned);
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// Accepts and serves connections for ever.
pub(crate) async fn serve(listener: Arc<TcpListener>, agent: Arc<Agent>) {
    // The other half of the descriptors is for processes and files.
    let places = CONNECTIONS_MAX.min(agent.open_files.most / 2);
    let places = Arc::new(Semaphore::new(places));
    let mut worker = agent.upgrades.requests.worker();
    let router = router(agent);
    let mut is_failing = false;
    loop {
        let accepted = tokio::select! {
            biased;
            () = worker.wanted() => {
                worker.park().await;
                continue;
            }
            accepted = listener.accept() => accepted,
        };
        let stream = match accepted {
            Ok((stream, _peer)) => {
                is_failing = false;
                stream
            }
            Err(error) => {
                if !is_failing {
                    log::odd(format_args!("a connection could not be accepted: {error}"));
                }
                is_failing = true;
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let place = match Arc::clone(&places).try_acquire_owned() {
            Ok(place) => place,
            Err(TryAcquireError::NoPermits) => {
                refuse(&stream);
                continue;
            }
            // It never is.
            Err(TryAcquireError::Closed) => return,
        };
        let router = router.clone();
        tasks::spawn(async move {
            serve_connection(stream, router).await;
            drop(place);
        });
    }
}

/// Says so without a look at the request, and hangs up: whoever sends none must not stay either.
fn refuse(stream: &TcpStream) {
    const BODY: &str = "{\"code\":\"resource_exhausted\",\"message\":\"too many connections to the \
                        agent of this sandbox are open: close some of them and try again\"}";
    let answer = format!(
        "HTTP/1.1 429 Too Many Requests\r\ncontent-type: application/json\r\nretry-after: 1\r\n\
         content-length: {}\r\nconnection: close\r\n\r\n{BODY}",
        BODY.len()
    );
    // There is room for it in a connection that has sent nothing yet.
    let _gone_already = rustix::io::write(stream, answer.as_bytes());
}

async fn serve_connection(stream: TcpStream, router: Router) {
    // Small answers must not wait for more to send. A socket that cannot is closed already.
    drop(stream.set_nodelay(true));
    let service = TowerToHyperService::new(router);
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(IDLE_MAX)
        .serve_connection(TokioIo::new(stream), service);
    // A peer that goes away in the middle is what peers do.
    drop(connection.await);
}

fn router(agent: Arc<Agent>) -> Router {
    let deadlines = DeadlinePolicy::new().with_enforce_on_streams(true);
    let limits = Limits::default()
        .with_max_request_body_size(MESSAGE_BYTES_MAX)
        .with_max_message_size(MESSAGE_BYTES_MAX);
    let services = connectrpc::Router::new();
    let services = Arc::new(ProcessService::new(Arc::clone(&agent))).register(services);
    let services = Arc::new(FilesystemService::new(Arc::clone(&agent))).register(services);
    // The proxy is one hop away: compressing for it costs more time than it saves.
    let rpc = ConnectRpcService::new(services)
        .with_limits(limits)
        .with_deadline_policy(deadlines)
        .with_compression_policy(CompressionPolicy::disabled());
    let unread = Arc::clone(agent.processes.unread());
    let rpc = Router::new()
        .route_service("/process.Process/{method}", rpc.clone())
        .route_service("/filesystem.Filesystem/{method}", rpc)
        .layer(axum::middleware::map_response(move |response: Response| {
            let paced = response.map(|body| Body::new(Paced::new(body, Arc::clone(&unread))));
            std::future::ready(paced)
        }));
    let file_routes = Router::new()
        .route("/files", get(files::download).post(files::upload))
        .route("/upgrade", post(upgrade::upgrade))
        .layer(DefaultBodyLimit::disable());
    Router::new()
        .route("/health", get(rest::health))
        .route("/metrics", get(rest::metrics))
        .route("/envs", get(rest::envs))
        .route("/init", post(rest::init))
        .route("/journal", get(rest::journal))
        .route("/files/compose", post(files::compose))
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .merge(file_routes)
        .merge(control::routes())
        .merge(rpc)
        .layer(axum::middleware::from_fn_with_state(Arc::clone(&agent), upgrade::layer))
        .layer(axum::middleware::from_fn_with_state(Arc::clone(&agent), gatekeeper::layer))
        .layer(axum::middleware::from_fn(cors::layer))
        .with_state(agent)
}
