//! The node's own listener of `cofferdam up`, from outside. Needs root; starts no sandbox.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use futures::StreamExt as _;
use images::{NewTemplate, Store};
use lifecycle::Budget;
use model::{NodePhase, NodeRequest, Resources, Secret};
use node_wire::grpc::Client;
use node_wire::{NodeApi, NodeError};

/// Killed if the test fails before it stopped.
struct Service(Child);

impl Drop for Service {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// A data directory with a template `base`, so that none has to be made.
fn data_dir() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&dir.path().join("images")).unwrap();
    let draft = store.begin().unwrap();
    fs::create_dir(draft.rootfs()).unwrap();
    let content = NewTemplate {
        aliases: vec!["base".to_owned()],
        resources: Resources { vcpus: 1, memory_mib: 64, disk_mib: 64 },
        user: "root".to_owned(),
        workdir: None,
        envd_version: "0.6.4".to_owned(),
        packages: Vec::new(),
    };
    store.publish(draft, content).unwrap();
    dir
}

/// A service that serves, and its node's address, which it logs.
fn start(data: &Path) -> (Service, String) {
    #[expect(clippy::disallowed_methods, reason = "a test runs the binary from outside")]
    let mut command = Command::new(env!("CARGO_BIN_EXE_cofferdam"));
    let mut child = command
        .args(["up", "--listen", "127.0.0.1:0", "--node-listen", "127.0.0.1:0"])
        .args(["--warm-slots", "0", "--envd", "/bin/true", "--log", "info", "--data-dir"])
        .arg(data)
        .env_clear()
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut log = BufReader::new(child.stderr.take().unwrap()).lines().map(Result::unwrap);
    let service = Service(child);
    let line = log.find(|line| line.contains("the node's gRPC is served")).unwrap();
    let address = line.split("address=").nth(1).unwrap();
    let address = address.split_whitespace().next().unwrap().to_owned();
    drop(std::thread::spawn(move || log.for_each(drop)));
    (service, address)
}

fn token(data: &Path) -> Secret {
    let text = fs::read_to_string(data.join("credentials.env")).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix("COFFERDAM_NODE_TOKEN=")).unwrap();
    Secret::new(line.to_owned())
}

#[tokio::test]
async fn the_node_is_asked_with_its_token_and_its_drain_is_watched_to_the_end() {
    let data = data_dir();
    let (mut service, address) = start(data.path());
    let url = format!("http://{address}");

    let stranger = Client::new(&url, &Secret::new("wrong".into())).unwrap();
    assert!(matches!(stranger.info().await.unwrap_err(), NodeError::Internal(_)));

    let client = Client::new(&url, &token(data.path())).unwrap();
    let info = client.info().await.unwrap();
    assert_eq!(info.phase, NodePhase::Healthy);
    assert_eq!(info.templates.len(), 1);
    assert!(client.list().await.unwrap().is_empty());

    let mut drain = client.drain_updates().await.unwrap();
    client.request(NodeRequest::Drain).await.unwrap();
    let limit = Budget::within(Duration::from_secs(120));
    let drained = async { while drain.next().await.unwrap().phase != NodePhase::Draining {} };
    limit.run("drain", drained).await.unwrap();

    let pid = rustix::process::Pid::from_child(&service.0);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    // The stream ends with the service, not before: the listener outlives the node's work.
    let over = async {
        let mut last = NodePhase::Draining;
        while let Some(status) = drain.next().await {
            last = status.phase;
        }
        last
    };
    assert_eq!(limit.run("stop", over).await.unwrap(), NodePhase::Stopped);
    let status = tokio::task::spawn_blocking(move || service.0.wait().unwrap()).await.unwrap();
    assert!(status.success(), "{status}");
}
