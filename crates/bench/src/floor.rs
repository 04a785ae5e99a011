//! The floor: crun alone, on the bundle that the service would run, in a slot that is ready.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use host::Faults;
use host::cgroup::{Cgroup, Cgroups, Limits};
use host::files::keep_apart;
use host::identity::Claim;
use host::mount::RootPaths;
use host::net::Slot;
use host::process::Spawn;
use images::Store;
use lifecycle::{Budget, Owned, Release, close_in};
use machine::{BootSpec, Container, ContainerConfig, Held, Runtime};

/// What the floor is measured with: a node's parts without the node.
#[derive(Debug)]
pub(crate) struct Floor {
    claim: Claim,
    cgroups: Cgroups,
    driver: Container,
    crun: PathBuf,
    dir: tempfile::TempDir,
    base: PathBuf,
    helpers: std::os::fd::OwnedFd,
}

/// One container, ready to be created.
pub(crate) struct Bare {
    id: String,
    dir: PathBuf,
    slot: Option<Owned<Slot>>,
    cgroup: Option<Owned<Cgroup>>,
    held: Held,
}

const LIMIT: Duration = Duration::from_secs(30);

impl Bare {
    pub(crate) fn id(&self) -> &str {
        &self.id
    }

    /// Where its guest agent is.
    pub(crate) fn agent(&self) -> anyhow::Result<SocketAddr> {
        let slot = self.slot.as_ref().context("no slot")?;
        Ok(SocketAddr::from((slot.net().guest, guest_wire::ENVD_PORT)))
    }
}

impl Floor {
    /// `agent` is what runs in the containers.
    pub(crate) fn new(
        view: host::view::View,
        images: &Store,
        agent: &Path,
    ) -> anyhow::Result<Arc<Self>> {
        let dir = tempfile::tempdir()?;
        // As the service does with its own.
        keep_apart(dir.path())?;
        let claim = Claim::take(dir.path(), Ipv4Addr::new(10, 213, 0, 0))?;
        let cgroups = Cgroups::open(view.into_layout(), claim.mark().cgroup_root())?;
        let helpers = cgroups.helpers()?;
        let runtime = Runtime::find("crun")?;
        let crun = runtime.program().to_owned();
        let driver = Container::new(ContainerConfig {
            runtime,
            agent: host::view::show_file(agent, "envd")?,
            view: host::view::DIR.into(),
            cgroup_root: claim.mark().cgroup_root(),
            support: Vec::new(),
            faults: Faults::default(),
        });
        let base = images.find("base").context("no base template")?;
        let base = images.dir().join(base.build.as_str()).join("rootfs");
        Ok(Arc::new(Self { claim, cgroups, driver, crun, dir, base, helpers }))
    }

    /// Everything before the clock starts: slot, cgroup, mount, bundle.
    pub(crate) async fn prepare(&self, index: u16) -> anyhow::Result<Bare> {
        let id = format!("l{index}");
        let dir = self.dir.path().join(&id);
        fs::create_dir(&dir)?;
        let mut slot = Owned::adopt(Slot::create(
            self.claim.mark(),
            index,
            guest_wire::ENVD_PORT,
            self.helpers.as_fd(),
        )?);
        let limits =
            Limits { memory_bytes: Some(512 << 20), pids: Some(2048), cpu_millis: Some(2000) };
        let cgroup = self.cgroups.create(&id, &limits)?;
        let mut held = Held::default();
        let mut spec = BootSpec {
            id: &id,
            dir: &dir,
            layers: std::slice::from_ref(&self.base),
            hostname: "bare",
            env: &[],
            memory_bytes: 512 << 20,
            resolvers: &[],
            cgroup: &cgroup,
            slot: &mut slot,
            held: &mut held,
        };
        self.driver.prepare(&mut spec, Budget::within(LIMIT)).await?;
        Ok(Bare { id, dir, slot: Some(slot), cgroup: Some(cgroup), held })
    }

    fn crun<'a>(&self, bare: &'a Bare, args: &[&str]) -> Spawn<'a> {
        let spawn = Spawn::new(&self.crun)
            .env("PATH", "/usr/bin:/bin")
            .args(["--root".into(), bare.dir.join("runtime").into_os_string()])
            .args(["--cgroup-manager=disabled"])
            .args(args);
        match &bare.cgroup {
            Some(cgroup) => {
                let spawn = spawn.join(cgroup.tasks());
                match cgroup.dir() {
                    Some(dir) => spawn.in_cgroup(dir),
                    None => spawn,
                }
            }
            None => spawn,
        }
    }

    /// crun create, crun start, first byte from the agent.
    pub(crate) async fn create(&self, bare: &mut Bare) -> anyhow::Result<Duration> {
        let agent = bare.agent()?;
        let slot = bare.slot.as_ref().context("no slot")?;
        let began = Instant::now();
        let bundle = bare.dir.to_string_lossy();
        let create = self
            .crun(bare, &["create", "--preserve-fds", "1", "--bundle", &bundle, &bare.id])
            .inherit(slot.listener())
            .start()?;
        ensure!(create.exited().await?.is_some_and(|s| s.success()), "crun create failed");
        let start = self.crun(bare, &["start", &bare.id]).start()?;
        ensure!(start.exited().await?.is_some_and(|s| s.success()), "crun start failed");
        guest_wire::client::health(agent).await?;
        Ok(began.elapsed())
    }

    /// Kill until empty, crun delete, unmount.
    pub(crate) async fn kill(&self, bare: &mut Bare) -> anyhow::Result<Duration> {
        let budget = Budget::within(LIMIT);
        let began = Instant::now();
        bare.cgroup.as_ref().context("no cgroup")?.kill(budget).await?;
        let delete = Spawn::new(&self.crun)
            .args(["--root".into(), bare.dir.join("runtime").into_os_string()])
            .args(["--cgroup-manager=disabled", "delete", "--force", &bare.id])
            .start()?;
        ensure!(delete.exited().await?.is_some_and(|s| s.success()), "crun delete failed");
        close_in(&mut bare.held.mount, budget).await?;
        Ok(began.elapsed())
    }

    /// Everything after the clock has stopped.
    pub(crate) async fn clean_up(&self, mut bare: Bare) -> anyhow::Result<()> {
        let budget = Budget::within(LIMIT);
        close_in(&mut bare.cgroup, budget).await?;
        close_in(&mut bare.slot, budget).await?;
        RootPaths::new(&bare.dir, Path::new(host::view::DIR), &bare.id).remove_files(budget)?;
        fs::remove_dir_all(&bare.dir)?;
        Ok(())
    }

    /// Removes what the floor has on the host.
    pub(crate) async fn close(&self) -> anyhow::Result<()> {
        self.cgroups.named(host::census::HELPERS).release(Budget::within(LIMIT)).await?;
        self.cgroups.close()?;
        Ok(self.claim.give_back()?)
    }
}
