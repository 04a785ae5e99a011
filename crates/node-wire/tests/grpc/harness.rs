//! A listener with a node behind it.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use lifecycle::{Budget, TaskGroup};
use model::Secret;
use node_wire::NodeApi;
use node_wire::grpc::{Auth, Client, ServeError, serve, server};
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use crate::fake_node::FakeNode;

pub(crate) const TOKEN: &str = "0123456789abcdef";
/// No test takes this long, not even on a machine that has much else to do.
pub(crate) const LIMIT: Duration = Duration::from_secs(60);

pub(crate) fn token() -> Secret {
    Secret::new(TOKEN.into())
}

/// A listener at an address that nobody else on this machine uses, all of which that begin with 127
/// are its own: nobody is given its port when it is free again.
pub(crate) async fn listener() -> TcpListener {
    static NEXT: AtomicU8 = AtomicU8::new(0);
    let [.., high, low] = std::process::id().to_be_bytes();
    let own = 64 + NEXT.fetch_add(1, Ordering::Relaxed) % 128;
    TcpListener::bind((Ipv4Addr::new(127, own, high, low), 0)).await.unwrap()
}

pub(crate) struct Service {
    pub(crate) node: Arc<FakeNode>,
    pub(crate) address: SocketAddr,
    stop: CancellationToken,
    served: oneshot::Receiver<Result<(), ServeError>>,
    _tasks: TaskGroup,
}

impl Service {
    pub(crate) async fn start() -> Self {
        Self::on(listener().await, Arc::default(), Duration::ZERO)
    }

    pub(crate) fn on(listener: TcpListener, node: Arc<FakeNode>, grace: Duration) -> Self {
        let address = listener.local_addr().unwrap();
        let stop = CancellationToken::new();
        let tasks = TaskGroup::default();
        let (ended, served) = oneshot::channel();
        let service = server(Arc::clone(&node) as Arc<dyn NodeApi>, Auth::bearer(token()));
        let serving = serve(listener, service, stop.clone(), grace);
        tasks.spawn(tracing::Span::none(), async move {
            drop(ended.send(serving.await));
        });
        Self { node, address, stop, served, _tasks: tasks }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub(crate) fn client(&self) -> Client {
        Client::new(&self.url(), &token()).unwrap()
    }

    pub(crate) fn ask_to_stop(&self) {
        self.stop.cancel();
    }

    /// Stops it and waits until every connection is gone.
    pub(crate) async fn stop(self) {
        self.stop.cancel();
        within(self.served).await.unwrap().unwrap();
    }
}

/// The outcome of `work`, which is expected to come.
pub(crate) async fn within<T>(work: impl Future<Output = T>) -> T {
    Budget::within(LIMIT).run("test", work).await.expect("it takes too long")
}

/// Waits until `state` is so.
pub(crate) async fn eventually(what: &str, state: impl Fn() -> bool) {
    let turn = Duration::from_millis(2);
    let until = async {
        while !state() {
            tokio::time::sleep(turn).await;
        }
    };
    Budget::within(LIMIT).run("wait", until).await.unwrap_or_else(|late| panic!("{what}: {late}"));
}
