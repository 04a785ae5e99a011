use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use control_plane::{Config, ControlPlane, Limits};
use e2b_wire::{ApiKey, TokenSeed};
use lifecycle::{Budget, TaskGroup};
use model::{SandboxId, Secret};
use node_wire::NodeApi;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;

use crate::client::Client;
use crate::fake_node::FakeNode;
use crate::fake_routes::FakeRoutes;

pub(crate) const ADMIN_TOKEN: &str = "admin-token-of-this-test";
pub(crate) const SEED: &[u8] = b"seed of this test";
/// Nothing takes this long, not even on a machine that has much else to do.
const LIMIT: Duration = Duration::from_secs(60);

/// A control plane that serves on a port of its own.
#[derive(Debug)]
pub(crate) struct Service {
    /// The first of its nodes, mostly the only one.
    pub(crate) node: Arc<FakeNode>,
    pub(crate) nodes: Vec<Arc<FakeNode>>,
    pub(crate) routes: Arc<FakeRoutes>,
    pub(crate) plane: Arc<ControlPlane>,
    pub(crate) addr: SocketAddr,
    pub(crate) key: ApiKey,
    /// Sends the key.
    pub(crate) client: Client,
    server: TaskGroup,
    dir: Arc<TempDir>,
}

impl Service {
    pub(crate) async fn start() -> Self {
        Self::start_with(|_| {}).await
    }

    pub(crate) async fn start_with(change: impl FnOnce(&mut Config)) -> Self {
        let dir = Arc::new(tempfile::tempdir().unwrap());
        Self::start_on(vec![FakeNode::new()], dir, ApiKey::generate(), change).await
    }

    /// On nodes of these names.
    pub(crate) async fn start_nodes<const N: usize>(names: [&'static str; N]) -> Self {
        let dir = Arc::new(tempfile::tempdir().unwrap());
        let nodes = names.map(FakeNode::named).to_vec();
        Self::start_on(nodes, dir, ApiKey::generate(), |_| {}).await
    }

    /// On one node, which is asked through `api`.
    pub(crate) async fn start_through(api: Arc<dyn NodeApi>, node: &Arc<FakeNode>) -> Self {
        let dir = Arc::new(tempfile::tempdir().unwrap());
        let nodes = vec![Arc::clone(node)];
        Self::start_asking(vec![api], nodes, dir, ApiKey::generate(), |_| {}).await
    }

    /// Ends this control plane and starts another on the same database, which asks through `api`.
    pub(crate) async fn restart_through(self, api: Arc<dyn NodeApi>) -> Self {
        self.stop().await;
        Self::start_asking(vec![api], self.nodes, self.dir, self.key, |_| {}).await
    }

    /// Ends this control plane and starts another on the same database and these nodes.
    pub(crate) async fn restart_on(self, nodes: Vec<Arc<FakeNode>>) -> Self {
        self.stop().await;
        Self::start_on(nodes, self.dir, self.key, |_| {}).await
    }

    /// Ends this control plane and starts another on the same database and node.
    pub(crate) async fn restart(self, between: impl FnOnce(&FakeNode)) -> Self {
        self.stop().await;
        between(&self.node);
        Self::start_on(self.nodes, self.dir, self.key, |_| {}).await
    }

    /// A second control plane on the same database and node, as after a crash of the first.
    pub(crate) async fn beside(&self) -> Self {
        let (nodes, dir) = (self.nodes.clone(), Arc::clone(&self.dir));
        Self::start_on(nodes, dir, self.key.clone(), |_| {}).await
    }

    /// A control plane that ends with [`Service::crash`] instead of a stop.
    pub(crate) async fn start_doomed() -> (Self, Runtime) {
        let mut runtime = tokio::runtime::Builder::new_multi_thread();
        let runtime = runtime.worker_threads(1).enable_all().build().unwrap();
        let service = runtime.spawn(Self::start()).await.unwrap();
        (service, runtime)
    }

    /// Ends this control plane as the death of its process does: wherever its tasks wait, and
    /// without a word. Starts another on the same database and node.
    pub(crate) async fn crash(self, runtime: Runtime, between: impl FnOnce(&FakeNode)) -> Self {
        tokio::task::spawn_blocking(move || runtime.shutdown_timeout(LIMIT)).await.unwrap();
        between(&self.node);
        let Self { nodes, dir, key, plane, .. } = self;
        drop(plane);
        Self::start_on(nodes, dir, key, |_| {}).await
    }

    /// Ends this control plane, has another database made, and starts on that and this node.
    pub(crate) async fn restart_without_records(self, change: impl FnOnce(&mut Config)) -> Self {
        self.stop().await;
        let dir = Arc::new(tempfile::tempdir().unwrap());
        Self::start_on(self.nodes, dir, self.key, change).await
    }

    /// As [`Service::restart`], configured with another key.
    pub(crate) async fn restart_with_key(self, key: ApiKey) -> Self {
        self.stop().await;
        Self::start_on(self.nodes, self.dir, key, |_| {}).await
    }

    /// The bytes of the database; all of them once it is stopped.
    pub(crate) fn database(&self) -> Vec<u8> {
        std::fs::read(self.dir.path().join("store.sqlite")).unwrap()
    }

    pub(crate) async fn stop(&self) {
        self.server.close(Budget::within(LIMIT)).await.unwrap();
        self.plane.close(Budget::within(LIMIT)).await.unwrap();
    }

    async fn start_on(
        nodes: Vec<Arc<FakeNode>>,
        dir: Arc<TempDir>,
        key: ApiKey,
        change: impl FnOnce(&mut Config),
    ) -> Self {
        let apis = nodes.iter().map(|node| Arc::clone(node) as _).collect();
        Self::start_asking(apis, nodes, dir, key, change).await
    }

    /// On `nodes`, which are asked through `apis`.
    async fn start_asking(
        apis: Vec<Arc<dyn NodeApi>>,
        nodes: Vec<Arc<FakeNode>>,
        dir: Arc<TempDir>,
        key: ApiKey,
        change: impl FnOnce(&mut Config),
    ) -> Self {
        let routes = Arc::new(FakeRoutes::default());
        let mut config = Config::new(
            dir.path().join("store.sqlite"),
            key.clone(),
            Secret::new(ADMIN_TOKEN.to_owned()),
            TokenSeed::new(SEED),
        );
        // Only what a test asks for is compared.
        config.limits = Limits {
            reconcile_every: Duration::from_secs(3600),
            node_every: Duration::from_millis(10),
            // Nodes that are away say so at once here.
            node_answer: LIMIT,
            ..Limits::default()
        };
        change(&mut config);
        let plane = ControlPlane::start(config, apis, Arc::clone(&routes) as _);
        let plane = Arc::new(plane.await.unwrap());
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let addr = listener.local_addr().unwrap();
        let server = TaskGroup::default();
        let (router, stop) = (plane.router(), server.stop_token().clone());
        server.spawn(tracing::Span::none(), async move {
            let serve = axum::serve(listener, router);
            serve.with_graceful_shutdown(stop.cancelled_owned()).await.unwrap();
        });
        let client = Client::new(addr).with("x-api-key", &key.expose());
        let node = nodes.first().cloned().unwrap_or_else(FakeNode::new);
        Self { node, nodes, routes, plane, addr, key, client, server, dir }
    }

    /// Makes a sandbox from `base` with these fields too; its id.
    pub(crate) async fn create(&self, mut body: Value) -> SandboxId {
        body["templateID"] = json!("base");
        let sandbox = self.client.post("/sandboxes", &body).await.ok(201);
        SandboxId::parse(sandbox["sandboxID"].as_str().unwrap()).unwrap()
    }

    /// Sends the admin token.
    pub(crate) fn admin(&self) -> Client {
        Client::new(self.addr).with("x-admin-token", ADMIN_TOKEN)
    }

    /// Makes another team; its id, and a client that sends a key of it.
    pub(crate) async fn second_team(&self, name: &str) -> (String, Client) {
        let team = self.admin().post("/admin/teams", &json!({"name": name})).await.ok(201);
        let id = team["teamID"].as_str().unwrap().to_owned();
        let path = format!("/admin/teams/{id}/api-keys");
        let key = self.admin().post(&path, &json!({"name": "first"})).await.ok(201);
        (id, self.client.with("x-api-key", key["key"].as_str().unwrap()))
    }

    /// How many sandboxes each node has.
    pub(crate) fn counts(&self) -> Vec<usize> {
        self.nodes.iter().map(|node| node.count()).collect()
    }

    /// Waits until every node has said anew how it is.
    pub(crate) async fn ready(&self) {
        for node in &self.nodes {
            let mut asked = node.asked.subscribe();
            let before = *asked.borrow_and_update();
            // One may be under way; the one after it is over when another begins.
            asked.wait_for(|asked| *asked >= before + 3).await.unwrap();
        }
    }

    /// Waits until a node is shown with this status.
    pub(crate) async fn shown(&self, node: &str, status: &str) -> Value {
        let path = format!("/nodes/{node}");
        let admin = self.admin();
        wait_for(async || admin.get(&path).await.ok(200)["status"] == status).await;
        admin.get(&path).await.ok(200)
    }

    /// Ids of the list that was asked for.
    pub(crate) async fn list(&self, query: &str) -> Vec<String> {
        let rows = self.client.get(&format!("/v2/sandboxes{query}")).await.ok(200);
        rows.as_array()
            .unwrap()
            .iter()
            .map(|row| row["sandboxID"].as_str().unwrap().to_owned())
            .collect()
    }

    /// Has the records compared with the node, which happens soon after the answer.
    pub(crate) fn compare(&self) {
        self.node.babble();
    }

    /// What is explained of a sandbox.
    pub(crate) async fn explain(&self, id: &SandboxId) -> Value {
        self.client.get(&format!("/sandboxes/{id}/explain")).await.ok(200)
    }

    /// Waits until the sandbox is in this state, the finest there is.
    pub(crate) async fn is(&self, id: &SandboxId, state: &str) {
        wait_for(async || self.explain(id).await["state"] == state).await;
    }

    /// Waits until the sandbox is not found any more.
    pub(crate) async fn gone(&self, id: &SandboxId) {
        let path = format!("/sandboxes/{id}");
        wait_for(async || self.client.get(&path).await.status == 404).await;
    }
}

/// Asks again until it is so.
pub(crate) async fn wait_for(mut is_so: impl AsyncFnMut() -> bool) {
    let asked = Budget::within(LIMIT).run("wait", async {
        while !is_so().await {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    });
    asked.await.unwrap();
}
