//! For tests and benchmarks only: a real node in a scratch directory, and waiting for states.

#![expect(
    clippy::expect_used,
    clippy::missing_panics_doc,
    clippy::panic,
    reason = "tests fail by panicking"
)]

mod template;
mod view;

use std::future::Future;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use images::Store;
use lifecycle::Budget;
use model::{Egress, OnTimeout, SandboxId, SandboxSpec, TeamId, TemplateId};
use node::{Config, Node};
use tokio::time::Instant;

pub use template::{busybox, busybox_with, has_busybox};
pub use view::{in_view, in_view_after, with_view};

/// Waits until `check` says so, for at most `limit`.
///
/// # Panics
/// When it never does.
pub async fn wait_for<F: Future<Output = bool>>(
    what: &str,
    limit: Duration,
    mut check: impl FnMut() -> F,
) {
    let end = Instant::now() + limit;
    while !check().await {
        assert!(Instant::now() < end, "waited {limit:?} in vain for: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// The static guest agent that `cargo xtask build` made.
#[must_use]
pub fn agent() -> PathBuf {
    let target = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target");
    let found = ["release/envd", "agent/envd"].map(|path| target.join(path));
    let built = found.into_iter().find(|path| path.is_file());
    built.expect("no envd: run `cargo xtask build` first").canonicalize().expect("resolve envd")
}

/// A node on this host, with everything it has below a directory of its own.
#[derive(Debug)]
pub struct TestNode {
    pub node: Arc<Node>,
    pub template: TemplateId,
    root: PathBuf,
    /// Removed with it, unless it is somebody else's.
    dir: Option<tempfile::TempDir>,
}

impl TestNode {
    /// Starts a node in `view` that can start the busybox template.
    pub async fn start(view: host::view::View, change: impl FnOnce(&mut Config)) -> Self {
        let dir = tempfile::tempdir().expect("scratch directory");
        Self::start_in(dir, view, change).await
    }

    /// Starts a node on a data directory that another one has used.
    pub async fn start_in(
        dir: tempfile::TempDir,
        view: host::view::View,
        change: impl FnOnce(&mut Config),
    ) -> Self {
        let root = dir.path().to_owned();
        Self { dir: Some(dir), ..Self::start_at(root, view, change).await }
    }

    /// Starts a node below a directory that somebody else removes. What an earlier one has left is
    /// taken over, or removed, by then.
    pub async fn start_at(
        root: PathBuf,
        view: host::view::View,
        change: impl FnOnce(&mut Config),
    ) -> Self {
        let images = Arc::new(Store::open(&root.join("images")).expect("open images"));
        let template = match images.find("busybox") {
            Some(template) => template.id.clone(),
            None => busybox(&images),
        };
        let mut config = Config::new(root.join("data"), agent());
        config.warm_slots = 2;
        change(&mut config);
        let node = Node::start(config, view, images).await.expect("start node");
        let opened = Budget::within(Duration::from_secs(60)).run("start", node.opened()).await;
        opened.expect("a node that has started");
        Self { node, template, root, dir: None }
    }

    /// What a sandbox of this template is asked for with.
    #[must_use]
    pub fn spec(&self, id: &str) -> SandboxSpec {
        SandboxSpec {
            id: SandboxId::parse(id).expect("sandbox id"),
            team: TeamId::parse("team").expect("team id"),
            template: self.template.clone(),
            resources: None,
            env: [("GREETING".to_owned(), "hello".to_owned())].into(),
            metadata: [("k".to_owned(), "v".to_owned())].into(),
            access_token: None,
            ttl: Duration::from_secs(300),
            on_timeout: OnTimeout::Kill,
            internet: true,
            egress: Egress::default(),
        }
    }

    #[must_use]
    pub fn data_dir(&self) -> PathBuf {
        self.root.join("data")
    }

    /// Where its templates are.
    #[must_use]
    pub fn images_dir(&self) -> PathBuf {
        self.root.join("images")
    }

    /// Gives the directory up to the next node.
    #[must_use]
    pub fn into_dir(self) -> tempfile::TempDir {
        self.dir.expect("a directory of its own")
    }

    /// Stops the node; nothing may be left.
    ///
    /// # Panics
    /// When something is.
    pub async fn stop(self) {
        let report = self.node.shutdown(Budget::within(Duration::from_secs(60))).await;
        assert!(report.is_clean(), "left behind: {:#?}, errors: {:#?}", report.left, report.errors);
        // Other tests of this process may have one for an instant.
        wait_for("no zombie child", Duration::from_secs(60), || async {
            host::process::zombie_children().is_empty()
        })
        .await;
    }

    /// Waits until nothing but the node's own objects and its warm slots is on the host.
    pub async fn wait_no_sandbox_objects(&self) {
        let limit = Duration::from_secs(60);
        wait_for("an empty census of sandboxes", limit, || async {
            let items = self.node.census(Budget::within(limit)).await.expect("census");
            let sandbox =
                |i: &&host::census::Item| matches!(i.owner, host::census::Owner::Lifecycle(_));
            let links = items.iter().filter(|i| i.kind == host::census::Kind::Link).count();
            items.iter().find(sandbox).is_none() && links == self.node.warm_slots()
        })
        .await;
    }
}
