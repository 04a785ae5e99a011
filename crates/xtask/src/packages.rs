//! What a host must have. The one list of it; `ensure` installs what is missing.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::command;
use crate::failure::{Failure, Result};

/// What a package is needed for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Need {
    /// Compiling the two binaries.
    Build,
    /// Running the service, and making the base template.
    Serve,
    /// Running the host tests.
    HostTest,
    /// Running the SDK tests.
    SdkTest,
    /// Building the fuzz targets: libFuzzer is written in C++.
    Fuzz,
    /// The benchmark of traffic. Kept apart: on some hosts the package starts a server on port 80.
    Traffic,
}

/// How one sees that a package is there, at the price of a few `stat` calls: this runs at every
/// start, on every distribution.
enum Proof {
    /// A program on the path or in one of the system's own folders.
    Program(&'static str),
    /// Any one of these files.
    File(&'static [&'static str]),
    /// A command that ends with success. Costs a process, so only for what tests need.
    Answer(&'static [&'static str]),
}

struct Package {
    need: Need,
    proof: Proof,
    apt: &'static str,
    dnf: Option<&'static str>,
    apk: Option<&'static str>,
    pacman: Option<&'static str>,
}

static PACKAGES: [Package; 19] = [
    Package {
        need: Need::Build,
        proof: Proof::Program("cc"),
        apt: "gcc",
        dnf: Some("gcc"),
        apk: Some("gcc"),
        pacman: Some("gcc"),
    },
    Package {
        need: Need::Build,
        proof: Proof::Program("strip"),
        apt: "binutils",
        dnf: Some("binutils"),
        apk: Some("binutils"),
        pacman: Some("binutils"),
    },
    Package {
        need: Need::Build,
        // The static C library, for `envd`.
        proof: Proof::File(&[
            "/usr/lib/x86_64-linux-gnu/libc.a",
            "/usr/lib/aarch64-linux-gnu/libc.a",
            "/usr/lib64/libc.a",
            "/usr/lib/libc.a",
        ]),
        apt: "libc6-dev",
        dnf: Some("glibc-static"),
        apk: Some("musl-dev"),
        pacman: Some("glibc"),
    },
    Package {
        need: Need::Serve,
        proof: Proof::Program("crun"),
        apt: "crun",
        dnf: Some("crun"),
        apk: Some("crun"),
        pacman: Some("crun"),
    },
    Package {
        need: Need::Serve,
        proof: Proof::Program("nft"),
        apt: "nftables",
        dnf: Some("nftables"),
        apk: Some("nftables"),
        pacman: Some("nftables"),
    },
    Package {
        need: Need::Serve,
        proof: Proof::Program("ip"),
        apt: "iproute2",
        dnf: Some("iproute"),
        apk: Some("iproute2"),
        pacman: Some("iproute2"),
    },
    Package {
        need: Need::Serve,
        proof: Proof::Program("mmdebstrap"),
        apt: "mmdebstrap",
        dnf: Some("mmdebstrap"),
        apk: None,
        pacman: None,
    },
    Package {
        need: Need::Serve,
        proof: Proof::File(&["/usr/share/keyrings/debian-archive-keyring.gpg"]),
        apt: "debian-archive-keyring",
        dnf: Some("debian-keyring"),
        apk: None,
        pacman: Some("debian-archive-keyring"),
    },
    Package {
        need: Need::Serve,
        proof: Proof::File(&[
            "/etc/ssl/certs/ca-certificates.crt",
            "/etc/pki/tls/certs/ca-bundle.crt",
        ]),
        apt: "ca-certificates",
        dnf: Some("ca-certificates"),
        apk: Some("ca-certificates"),
        pacman: Some("ca-certificates"),
    },
    Package {
        need: Need::HostTest,
        // One static program is the whole root file system of most of them.
        proof: Proof::Program("busybox"),
        apt: "busybox-static",
        dnf: Some("busybox"),
        apk: Some("busybox-static"),
        pacman: Some("busybox"),
    },
    Package {
        need: Need::HostTest,
        // The other runtime that a sandbox can be run by.
        proof: Proof::Program("runc"),
        apt: "runc",
        dnf: Some("runc"),
        apk: Some("runc"),
        pacman: Some("runc"),
    },
    Package {
        need: Need::HostTest,
        // Put into sandboxes, to make HTTPS requests there as users' programs do.
        proof: Proof::File(&["/usr/bin/curl"]),
        apt: "curl",
        dnf: Some("curl"),
        apk: Some("curl"),
        pacman: Some("curl"),
    },
    Package {
        need: Need::HostTest,
        // A file system of a test's own, to be filled up.
        proof: Proof::Program("mkfs.ext4"),
        apt: "e2fsprogs",
        dnf: Some("e2fsprogs"),
        apk: Some("e2fsprogs"),
        pacman: Some("e2fsprogs"),
    },
    Package {
        need: Need::HostTest,
        // It has `unshare`, too: that file system, or another, is frozen as the root of a test's own.
        proof: Proof::Program("fsfreeze"),
        apt: "util-linux",
        dnf: Some("util-linux"),
        apk: Some("util-linux-misc"),
        pacman: Some("util-linux"),
    },
    Package {
        need: Need::HostTest,
        // The shipped unit is tested under a real one, which never becomes the host's.
        proof: Proof::File(&["/usr/lib/systemd/systemd", "/lib/systemd/systemd"]),
        apt: "systemd",
        dnf: Some("systemd"),
        apk: None,
        pacman: Some("systemd"),
    },
    Package {
        need: Need::SdkTest,
        // Debian splits the files a virtual environment is made from off its Python.
        proof: Proof::Answer(&["python3", "-c", "import ensurepip, venv"]),
        apt: "python3-venv",
        dnf: Some("python3"),
        apk: Some("python3"),
        pacman: Some("python"),
    },
    Package {
        need: Need::SdkTest,
        // Only npm matters: the Node.js it brings is used if it is new enough for the SDKs.
        proof: Proof::Program("npm"),
        apt: "npm",
        dnf: Some("npm"),
        apk: Some("npm"),
        pacman: Some("npm"),
    },
    Package {
        need: Need::Traffic,
        // What the edge is compared to, with a configuration of the benchmark's own.
        proof: Proof::Program("nginx"),
        apt: "nginx",
        dnf: Some("nginx"),
        apk: Some("nginx"),
        pacman: Some("nginx"),
    },
    Package {
        need: Need::Fuzz,
        proof: Proof::Program("g++"),
        apt: "g++",
        dnf: Some("gcc-c++"),
        apk: Some("g++"),
        pacman: Some("gcc"),
    },
];

/// Package managers we can name, in the order they are looked for.
const MANAGERS: [(&str, &str); 3] = [
    ("dnf", "dnf install --assumeyes"),
    ("apk", "apk add"),
    ("pacman", "pacman -S --needed --noconfirm"),
];

/// Folders that are not always on a user's path.
const SYSTEM_FOLDERS: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Makes sure the host has what `needs` asks for. Silent and quick when it does.
///
/// # Errors
/// Something is missing and cannot be installed from here; the message says what and how.
pub(crate) fn ensure(needs: &[Need]) -> Result<()> {
    let missing: Vec<&Package> = PACKAGES
        .iter()
        .filter(|package| needs.contains(&package.need) && !package.proof.holds())
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    if find("apt-get").is_none() {
        return Err(Failure::new(by_hand(&missing)));
    }
    let names: Vec<&str> = missing.iter().map(|package| package.apt).collect();
    install_with_apt(&names)?;
    match missing.iter().find(|package| !package.proof.holds()) {
        None => Ok(()),
        Some(package) => Err(Failure::new(format!(
            "apt-get installed {} but {} is still not there",
            package.apt,
            package.proof.shown()
        ))),
    }
}

/// Installs Debian packages by name.
///
/// # Errors
/// `apt-get` fails; the usual reason is not being root.
pub(crate) fn install_with_apt(names: &[&str]) -> Result<()> {
    let apt = || {
        let mut command = Command::new("apt-get");
        command.env("DEBIAN_FRONTEND", "noninteractive").arg("--quiet");
        command
    };
    let advice = |failure: Failure| {
        Failure::new(format!(
            "{}\nthe host lacks {}; as root: apt-get install {}",
            failure.chain(),
            names.join(", "),
            names.join(" ")
        ))
    };
    let limit = Duration::from_secs(15 * 60);
    command::quiet("update the list of packages", apt().arg("update"), limit).map_err(advice)?;
    let mut install = apt();
    install.args(["install", "--yes", "--no-install-recommends"]).args(names);
    command::quiet(&format!("install {}", names.join(", ")), &mut install, limit).map_err(advice)
}

/// The program's place, looked for as a shell would and then in the system's own folders.
pub(crate) fn find(program: &str) -> Option<std::path::PathBuf> {
    let own = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&own)
        .chain(std::env::split_paths(SYSTEM_FOLDERS))
        .map(|folder| folder.join(program))
        .find(|candidate| candidate.is_file())
}

impl Proof {
    fn holds(&self) -> bool {
        match self {
            Self::Program(name) => find(name).is_some(),
            Self::File(candidates) => candidates.iter().any(|file| Path::new(file).exists()),
            Self::Answer(words) => words.split_first().is_some_and(|(program, args)| {
                command::answer(Command::new(program).args(args)).is_some()
            }),
        }
    }

    fn shown(&self) -> String {
        match self {
            Self::Program(name) => (*name).to_owned(),
            Self::File(candidates) => candidates.first().copied().unwrap_or_default().to_owned(),
            Self::Answer(words) => words.join(" "),
        }
    }
}

/// What to do on a host without apt.
fn by_hand(missing: &[&Package]) -> String {
    let manager = MANAGERS.into_iter().find(|(name, _)| find(name).is_some());
    instructions(missing, manager)
}

fn instructions(missing: &[&Package], manager: Option<(&str, &str)>) -> String {
    let mut text = String::from("this host has no apt-get, and lacks:");
    let mut known = Vec::new();
    for package in missing {
        let name = match manager {
            Some(("dnf", _)) => package.dnf,
            Some(("apk", _)) => package.apk,
            Some(("pacman", _)) => package.pacman,
            _ => None,
        };
        text.push_str(&format!("\n  {} (Debian package {})", package.proof.shown(), package.apt));
        match name {
            Some(name) => known.push(name),
            None if manager.is_some() => text.push_str(", not packaged here: build it from source"),
            None => {}
        }
    }
    match manager {
        Some((_, install)) if !known.is_empty() => {
            text.push_str(&format!("\ninstall with: {install} {}", known.join(" ")));
        }
        _ => text.push_str("\ninstall them with this host's package manager"),
    }
    text.push_str("\nthen run this command again");
    text
}

#[cfg(test)]
mod tests {
    use super::{MANAGERS, PACKAGES, Package, Proof, instructions};

    fn all() -> Vec<&'static Package> {
        PACKAGES.iter().collect()
    }

    #[test]
    fn a_program_that_is_not_there_is_missing() {
        assert!(Proof::Program("sh").holds());
        assert!(!Proof::Program("no-such-program-anywhere").holds());
        assert!(!Proof::File(&["/no/such/file"]).holds());
    }

    #[test]
    fn a_host_with_another_package_manager_gets_its_names() {
        let text = instructions(&all(), Some(MANAGERS[0]));
        assert!(text.contains("dnf install --assumeyes gcc binutils glibc-static crun"), "{text}");
    }

    #[test]
    fn what_a_distribution_does_not_package_is_named_as_such() {
        let text = instructions(&all(), Some(MANAGERS[1]));
        assert!(text.contains("mmdebstrap (Debian package mmdebstrap), not packaged"), "{text}");
    }

    #[test]
    fn an_unknown_distribution_gets_the_whole_list() {
        let text = instructions(&all(), None);
        for package in all() {
            assert!(text.contains(package.apt), "{} is not in: {text}", package.apt);
        }
    }
}
