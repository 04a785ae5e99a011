//! The container driver: an OCI bundle run by crun or runc.

mod bundle;
mod capabilities;
mod runtime;
mod seccomp;

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use async_trait::async_trait;
use host::cgroup::Support;
use host::files::remove_below;
use host::mount::{RootMount, RootPaths};
use host::{Faults, HostError, blocking};
use lifecycle::{Budget, Release, close_in};

pub use runtime::{Runtime, RuntimeError};

use crate::driver::{BootError, BootSpec, Driver, Part, Stop};

/// What the driver is told once.
#[derive(Debug)]
pub struct ContainerConfig {
    pub runtime: Runtime,
    /// The guest agent, a static binary, bound read-only into every sandbox. Everybody must be able
    /// to get to it.
    pub agent: PathBuf,
    /// Where mount points are made: in the private view.
    pub view: PathBuf,
    /// Prefix of the cgroup path for runtimes that join by path.
    pub cgroup_root: String,
    pub support: Vec<Support>,
    pub faults: Faults,
}

/// Runs sandboxes as containers.
#[derive(Debug)]
pub struct Container {
    config: ContainerConfig,
    seccomp: seccomp::Policy,
    /// The most open files a sandbox may raise itself to.
    open_files: u64,
}

/// Files the driver keeps in a lifecycle directory.
const STATE: &str = "runtime";
const BUNDLE: &str = "config.json";
const LOG: &str = "runtime.log";
const PID: &str = "pid";
/// The node's own record there, and the one that is about to replace it, begin so.
const RECORD: &str = "lifecycle.json";

impl Container {
    #[must_use]
    pub fn new(config: ContainerConfig) -> Self {
        let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
        // Without CAP_SYS_RESOURCE a runtime cannot raise the host's own limit.
        let open_files = limit.maximum.unwrap_or(runtime::OPEN_FILES).min(runtime::OPEN_FILES);
        Self { config, seccomp: seccomp::Policy::new(), open_files }
    }

    /// Mounts the root and writes the bundle: everything that comes before the runtime is called.
    ///
    /// # Errors
    /// The step that failed; what was made is in `spec.held` or goes with [`Part::Files`].
    pub async fn prepare(&self, spec: &mut BootSpec<'_>, budget: Budget) -> Result<(), BootError> {
        let faults = &self.config.faults;
        let paths = RootPaths::new(spec.dir, &self.config.view, spec.id);
        faults.hit("create.mount.before", budget).await?;
        let owner = spec.slot.net().uid_base;
        let is_first_run = spec.layers.len() == 1 && !paths.upper.exists();
        let mount =
            blocking(|| RootMount::create(spec.layers, paths.clone(), spec.slot.userns(), owner));
        spec.held.mount = Some(mount?);
        // Whatever a sandbox has written may lead anywhere: nothing is written into that.
        if is_first_run {
            blocking(|| write_resolvers(spec, &paths))?;
        }
        if self.config.runtime.mounts_in_proc() {
            write_boot_id(&paths)?;
        }
        faults.hit("create.mount.after", budget).await?;
        blocking(|| self.write_bundle(spec, &paths))
    }

    fn write_bundle(&self, spec: &BootSpec<'_>, paths: &RootPaths) -> Result<(), BootError> {
        let bundle = bundle::Bundle {
            spec,
            root: &paths.root,
            agent: &self.config.agent,
            seccomp: &self.seccomp,
            boot_id: self.config.runtime.mounts_in_proc().then_some(paths.boot_id.as_path()),
            cgroup_path: (!self.config.runtime.leaves_cgroups_alone())
                .then(|| format!("/{}/{}", self.config.cgroup_root, spec.id)),
        };
        let text = serde_json::to_vec(&bundle.to_json())
            .map_err(|error| BootError::Write { what: BUNDLE, source: error.into() })?;
        fs::write(spec.dir.join(BUNDLE), text)
            .map_err(|source| BootError::Write { what: BUNDLE, source })
    }
}

/// Puts `/etc/resolv.conf` into the writable layer: a plain file that programs may change.
fn write_resolvers(spec: &BootSpec<'_>, paths: &RootPaths) -> Result<(), BootError> {
    let write = || {
        let etc = paths.upper.join("etc");
        fs::DirBuilder::new().mode(0o755).create(&etc)?;
        // The mode given to mkdir is cut by the umask, and this directory hides the base's.
        fs::set_permissions(&etc, std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
        let file = etc.join("resolv.conf");
        let lines: String = spec.resolvers.iter().map(|r| format!("nameserver {r}\n")).collect();
        fs::write(&file, lines)?;
        fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o644))
    };
    write().map_err(|source| BootError::Write { what: "/etc/resolv.conf", source })
}

/// Makes what the sandbox sees as the id of its boot (random(4)): one run is one boot, so one that
/// starts anew with its files has another, and none has the host's.
fn write_boot_id(paths: &RootPaths) -> Result<(), BootError> {
    let write = || {
        fs::write(&paths.boot_id, fs::read("/proc/sys/kernel/random/uuid")?)?;
        fs::set_permissions(&paths.boot_id, std::os::unix::fs::PermissionsExt::from_mode(0o444))
    };
    write().map_err(|source| BootError::Write { what: "the id of its boot", source })
}

#[async_trait]
impl Driver for Container {
    fn name(&self) -> &'static str {
        "container"
    }

    fn support(&self) -> Vec<Support> {
        let mut support = self.config.support.clone();
        support.push(Support {
            what: "disk",
            enforced: false,
            detail: "sandboxes share the file system of the data directory; new work is refused \
                     when it runs low"
                .into(),
        });
        support
    }

    fn log(&self, dir: &Path) -> Vec<String> {
        runtime::last_lines(dir)
    }

    async fn boot(&self, mut spec: BootSpec<'_>, stop: &Stop) -> Result<(), BootError> {
        let faults = &self.config.faults;
        self.prepare(&mut spec, stop.budget).await?;
        let call = self.config.runtime.on(spec.id, spec.dir);
        faults.hit("create.runtime.before", stop.budget).await?;
        call.create(spec.cgroup, spec.slot.listener(), self.open_files, stop).await?;
        spec.held.process = Some(call.first_process(spec.cgroup)?);
        faults.hit("create.runtime.after", stop.budget).await?;
        call.start(spec.cgroup, stop).await?;
        faults.hit("create.start.after", stop.budget).await?;
        spec.slot.hand_over_listener()?;
        // The machine has the root in its own namespace now; every mount left here would be copied
        // into every later machine's namespace first.
        Ok(close_in(&mut spec.held.mount, stop.budget).await?)
    }

    async fn release(
        &self,
        part: Part,
        id: &str,
        dir: &Path,
        budget: Budget,
    ) -> Result<(), HostError> {
        let paths = RootPaths::new(dir, &self.config.view, id);
        match part {
            Part::Runtime => blocking(|| runtime::forget(dir, budget)),
            Part::Mounts => RootMount::named(paths).release(budget).await,
            Part::Files => {
                // Runtimes leave files of names that only they know.
                let is_record = |name: &OsStr| name.as_bytes().starts_with(RECORD.as_bytes());
                remove_below(dir, is_record, budget)
            }
        }
    }
}
