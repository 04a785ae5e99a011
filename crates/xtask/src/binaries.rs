//! The two binaries: `cofferdam`, and `envd`, which runs inside every sandbox whatever its root
//! file system is and so may depend on nothing there.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::command::{cargo, visible};
use crate::elf::Elf;
use crate::failure::{Failure, Result};
use crate::paths;

/// The built files.
pub(crate) struct Binaries {
    pub(crate) cofferdam: PathBuf,
}

/// Builds both into `target/release`. With nothing changed this only asks cargo.
///
/// # Errors
/// A build fails, or the agent came out depending on something in the guest.
pub(crate) fn build() -> Result<Binaries> {
    // Their profiles have folders of their own, so neither cargo waits for the other, and the end of
    // either build has work for one processor only.
    let (daemon, agent) = std::thread::scope(|scope| {
        let agent = scope.spawn(agent);
        let daemon = visible(&mut cargo(&["build", "--release", "--locked", "-p", "cli"]));
        (daemon, agent.join())
    });
    daemon?;
    agent.unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
    Ok(Binaries { cofferdam: paths::release().join("cofferdam") })
}

/// Builds the agent alone, as it is shipped: `target/release/envd`.
///
/// # Errors
/// As [`build`].
pub(crate) fn agent() -> Result<PathBuf> {
    // Flags for the last crate only: as RUSTFLAGS, `crt-static` would reach the procedural macros,
    // which cannot be built so, and nothing would be shared with the build above. The symbols are
    // kept because the check below reads them; `install` strips.
    let flags = ["-C", "target-feature=+crt-static", "-C", "strip=none"];
    let agent = ["rustc", "--locked", "-p", "guest-agent", "--bin", "envd"];
    visible(cargo(&agent).args(["--profile", "agent", "--"]).args(flags))?;
    let installed = paths::release().join("envd");
    install(&paths::target().join("agent/envd"), &installed)?;
    Ok(installed)
}

/// Puts the agent beside `cofferdam`, checked and stripped.
fn install(built: &Path, installed: &Path) -> Result<()> {
    if is_current(built, installed) {
        return Ok(());
    }
    check(&Elf::read(built)?)?;
    // A sandbox that is just starting must find the old file or the new one, never half of one.
    let unfinished = installed.with_extension("new");
    visible(Command::new("strip").arg("-o").arg(&unfinished).arg(built))?;
    fs::rename(&unfinished, installed)
        .map_err(Failure::because(format!("put {} in place", installed.display())))
}

/// A plain `cargo build --release` of the whole workspace puts a dynamic `envd` in the same place,
/// so being newer is not enough.
fn is_current(built: &Path, installed: &Path) -> bool {
    let changed = |path: &Path| fs::metadata(path).and_then(|file| file.modified());
    let (Ok(built), Ok(placed)) = (changed(built), changed(installed)) else { return false };
    placed >= built && Elf::read(installed).is_ok_and(|envd| envd.is_static())
}

fn check(envd: &Elf) -> Result<()> {
    if !envd.is_static() {
        return Err(Failure::new(
            "envd needs a dynamic loader: it was not linked statically; the static C library is \
             in libc6-dev (Debian), glibc-static (Fedora) or musl-dev (Alpine)",
        ));
    }
    if !envd.has_symbols() {
        return Err(Failure::new("envd was built without symbols, so it cannot be checked"));
    }
    let found = envd.name_service_symbols();
    if found.is_empty() {
        return Ok(());
    }
    Err(Failure::new(format!(
        "envd contains {}: these load name-service modules of the guest's C library; parse \
         /etc/passwd and bind socket addresses instead of names",
        found.join(", ")
    )))
}
