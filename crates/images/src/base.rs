//! Makes the template `base`: a small Debian (or Ubuntu) of the host's own release, with what
//! programs written for E2B's base template expect to find.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use lifecycle::Budget;
use model::Resources;
use tokio_util::sync::CancellationToken;

use self::authorities::Authorities;
use self::sources::Sources;
use crate::command::{Command, Keeper, find_program};
use crate::{Draft, NewTemplate, Store, Template};

mod authorities;
mod error;
mod guest;
mod release;
mod sources;
#[cfg(test)]
mod tests;

pub use authorities::AuthoritiesError;
pub use error::BuildError;
pub use guest::{AGENT, USER};
pub use release::ReleaseError;
pub use sources::SourcesError;

/// What users say to get it.
pub const ALIAS: &str = "base";

/// Beyond the essential packages. Recommended packages are not followed.
const PACKAGES: [&str; 13] = [
    "bash",
    "ca-certificates",
    "curl",
    "git",
    "iproute2",
    "netcat-openbsd",
    "procps",
    "python-is-python3",
    "python3",
    "python3-pip",
    "python3-venv",
    "sudo",
    "tzdata",
];

/// A build takes longer than this only where something is wrong.
pub const USUAL_LIMIT: Duration = Duration::from_secs(900);

/// What the build needs while it runs, generously: files are unpacked beside their archives.
const ROOM_MIB: u64 = 1024;

/// Documentation is most of what a package installs that no program reads. Licences stay.
const DPKG_OPTIONS: [&str; 4] = [
    "path-exclude=/usr/share/doc/*",
    "path-include=/usr/share/doc/*/copyright",
    "path-exclude=/usr/share/man/*",
    "path-exclude=/usr/share/locale/*",
];

/// The lines by which mmdebstrap tells where it is, and what they mean to people.
const STAGES: [(&str, &str); 7] = [
    ("I: running apt-get update", "reading package lists"),
    ("I: downloading packages", "downloading packages"),
    ("I: extracting archives", "unpacking the essential packages"),
    ("I: installing essential packages", "setting up the essential packages"),
    ("I: installing remaining packages", "installing the other packages"),
    ("I: running --customize-hook", "adding the user and certificates"),
    ("I: cleaning package lists", "cleaning up"),
];

/// How far a build is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// 1 to [`Progress::STEPS`].
    pub step: u64,
    /// What is being done now, in words.
    pub what: &'static str,
}

impl Progress {
    pub const STEPS: u64 = 10;
}

/// What the base template says of itself, beside what is in it.
#[derive(Debug, Clone)]
pub struct Request {
    /// The version of the guest agent it is made for.
    pub envd_version: String,
    pub resources: Resources,
}

impl Request {
    /// Two processors and 512 MiB, as E2B's base template has.
    #[must_use]
    pub fn new(envd_version: String, disk_mib: u64) -> Self {
        let resources = Resources { vcpus: 2, memory_mib: 512, disk_mib };
        Self { envd_version, resources }
    }
}

/// Makes the template and puts it in the place of the one there is. Sandboxes that run go on
/// with the files they started from.
///
/// Takes 15 to 60 seconds with a good network. Runs as root, with the network access the host
/// has and the host's own package sources and keys. When this returns without a template, every
/// program it has started is gone, and so is every file.
///
/// Cancel safety: yes, but use `cancel`: this returns then as it does on any failure, or with the
/// template when that was about to be there. Dropped, it leaves files to the next [`Store::sweep`].
///
/// # Errors
/// See [`BuildError`]; each says what to do.
pub async fn build(
    store: &Arc<Store>,
    request: Request,
    progress: &(dyn Fn(Progress) + Send + Sync),
    cancel: &CancellationToken,
    budget: Budget,
) -> Result<Arc<Template>, BuildError> {
    progress(Progress { step: 1, what: "checking this host" });
    let tools = Tools::find()?;
    check_room(store.dir())?;
    let release = release::of_host(Path::new("/etc/os-release"))?;
    let host = Host {
        sources: sources::of_host(Path::new("/etc/apt"), &release)?,
        authorities: authorities::of_host(&Path::new("/").join(authorities::DIR))?,
        release,
    };
    Maker { tools, host, request }.make(store, progress, cancel, budget).await
}

/// All that a build is made of.
#[derive(Debug)]
struct Maker {
    tools: Tools,
    host: Host,
    request: Request,
}

impl Maker {
    async fn make(
        self,
        store: &Arc<Store>,
        progress: &(dyn Fn(Progress) + Send + Sync),
        cancel: &CancellationToken,
        budget: Budget,
    ) -> Result<Arc<Template>, BuildError> {
        let draft = store.begin()?;
        let filled = self.fill(&draft, progress, cancel, budget).await;
        progress(Progress { step: Progress::STEPS, what: "checking and saving" });
        let (store, cancel) = (Arc::clone(store), cancel.clone());
        tokio::task::spawn_blocking(move || match filled {
            Ok(()) if cancel.is_cancelled() => Err(discard(draft, BuildError::Cancelled)),
            Ok(()) => finish(&store, draft, self.request, &self.host.authorities),
            Err(error) => Err(discard(draft, error)),
        })
        .await?
    }

    async fn fill(
        &self,
        draft: &Draft,
        progress: &(dyn Fn(Progress) + Send + Sync),
        cancel: &CancellationToken,
        budget: Budget,
    ) -> Result<(), BuildError> {
        let Host { sources, authorities, .. } = &self.host;
        let mirrors = sources.write_to(draft.path()).map_err(BuildError::WriteSources)?;
        authorities.stage(draft.path()).map_err(BuildError::WriteAuthorities)?;
        let install = Command {
            name: "mmdebstrap",
            keeper: &self.tools.keeper,
            program: &self.tools.mmdebstrap,
            args: install_arguments(&self.host, &draft.rootfs(), &mirrors),
            scratch: draft.path(),
        };
        let on_line = |line: &str| {
            tracing::debug!(line, "mmdebstrap");
            let found = (2..).zip(STAGES).find(|(_, (says, _))| line.starts_with(says));
            if let Some((step, (_, what))) = found {
                progress(Progress { step, what });
            }
        };
        let installed = install.run(on_line, cancel, budget).await;
        installed.map_err(|error| error::sort(error, draft.path()))?;
        progress(Progress { step: 9, what: "adding what sandboxes need" });
        let rootfs = draft.rootfs();
        tokio::task::spawn_blocking(move || guest::set_up(&rootfs)).await??;
        Ok(())
    }
}

fn check_room(dir: &Path) -> Result<(), BuildError> {
    let stat = rustix::fs::statvfs(dir)
        .map_err(|e| BuildError::Free { dir: dir.to_path_buf(), source: e.into() })?;
    let free_mib = stat.f_bavail.saturating_mul(stat.f_frsize) / (1024 * 1024);
    if free_mib < ROOM_MIB {
        return Err(BuildError::NoRoom { dir: dir.to_path_buf(), free_mib });
    }
    Ok(())
}

fn finish(
    store: &Store,
    draft: Draft,
    request: Request,
    authorities: &Authorities,
) -> Result<Arc<Template>, BuildError> {
    let verified = guest::verify(&draft.rootfs(), &PACKAGES)
        .and_then(|packages| verify_trust(authorities, &draft.rootfs()).map(|()| packages));
    let packages = match verified {
        Ok(packages) => packages,
        Err(error) => return Err(discard(draft, error)),
    };
    let content = NewTemplate {
        aliases: vec![ALIAS.to_owned()],
        resources: request.resources,
        user: USER.to_owned(),
        workdir: None,
        envd_version: request.envd_version,
        packages,
    };
    store.publish(draft, content).map_err(|(draft, error)| discard(draft, error.into()))
}

fn verify_trust(authorities: &Authorities, rootfs: &Path) -> Result<(), BuildError> {
    match authorities.missing(rootfs) {
        Ok(None) => Ok(()),
        Ok(Some(path)) => Err(BuildError::Wrong(format!(
            "it does not trust the certificate authority {} of this host",
            path.display()
        ))),
        Err(error) => Err(BuildError::Wrong(format!("its trusted certificates: {error}"))),
    }
}

fn discard(draft: Draft, error: BuildError) -> BuildError {
    if let Err(left) = draft.discard() {
        tracing::warn!(error = %left, "unfinished template left; the next start removes it");
    }
    error
}

/// What a template takes over from the host it is made on.
#[derive(Debug)]
struct Host {
    release: String,
    sources: Sources,
    authorities: Authorities,
}

#[derive(Debug)]
struct Tools {
    mmdebstrap: PathBuf,
    keeper: Keeper,
}

impl Tools {
    fn find() -> Result<Self, BuildError> {
        if !rustix::process::geteuid().is_root() {
            return Err(BuildError::NotRoot);
        }
        let find =
            |tool, package| find_program(tool).ok_or(BuildError::MissingTool { tool, package });
        Ok(Self {
            mmdebstrap: find("mmdebstrap", "mmdebstrap")?,
            keeper: Keeper {
                setpriv: find("setpriv", "util-linux")?,
                unshare: find("unshare", "util-linux")?,
            },
        })
    }
}

fn install_arguments(host: &Host, rootfs: &Path, mirrors: &[PathBuf]) -> Vec<OsString> {
    let mut args: Vec<OsString> = Vec::new();
    for option in ["--mode=root", "--format=directory", "--variant=minbase"] {
        args.push(option.into());
    }
    args.push(format!("--include={}", PACKAGES.join(",")).into());
    args.push("--aptopt=APT::Install-Recommends \"false\"".into());
    args.extend(DPKG_OPTIONS.iter().map(|option| format!("--dpkgopt={option}").into()));
    let mut customize = vec![guest::ADD_USER];
    if !host.authorities.is_empty() {
        customize.push(authorities::INSTALL);
    }
    args.push(format!("--customize-hook={}", customize.join(" && ")).into());
    args.push((&host.release).into());
    args.push(rootfs.into());
    args.extend(mirrors.iter().map(Into::into));
    args
}
