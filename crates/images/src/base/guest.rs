//! What a template has beyond its packages: the user, the places E2B programs use, and the
//! files the node fills when a sandbox starts.

use std::fs::Permissions;
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use super::BuildError;
use crate::Package;

/// Whose programs run by default.
pub const USER: &str = "user";
const USER_ID: u32 = 1000;

/// Where the guest agent is: an empty file here, the node binds the real one over it.
pub const AGENT: &str = "usr/bin/envd";

/// Run by mmdebstrap with the root file system as `$1`.
pub(crate) const ADD_USER: &str = "chroot \"$1\" useradd --uid 1000 --user-group --create-home \
                                   --shell /bin/bash --groups sudo user";

/// The name programs in E2B's sandboxes see.
const HOSTNAME: &str = "e2b.local";

const SUDOERS: &str = "etc/sudoers.d/user";

/// A file of the template: path, mode, content.
const FILES: [(&str, u32, &str); 7] = [
    (SUDOERS, 0o440, "user ALL=(ALL:ALL) NOPASSWD: ALL\n"),
    ("etc/hostname", 0o644, "e2b.local\n"),
    (
        "etc/hosts",
        0o644,
        "127.0.0.1 localhost e2b.local\n::1 localhost ip6-localhost ip6-loopback\n",
    ),
    // The node writes or binds the real one when a sandbox starts.
    ("etc/resolv.conf", 0o644, ""),
    ("etc/machine-id", 0o444, ""),
    (AGENT, 0o755, ""),
    // Packages with services must not try to start them: there is no init to do it.
    ("usr/sbin/policy-rc.d", 0o755, "#!/bin/sh\nexit 101\n"),
];

/// A directory of the template: path, mode, owner.
const DIRS: [(&str, u32, u32); 3] =
    [("code", 0o777, 0), ("run/e2b", 0o755, 0), ("home/user", 0o755, USER_ID)];

/// Adds everything but the user, who is added by [`ADD_USER`]. May be repeated.
pub(crate) fn set_up(rootfs: &Path) -> Result<(), BuildError> {
    let failed = |what| move |source| BuildError::SetUp { what, source };
    empty(&rootfs.join("dev")).map_err(failed("/dev"))?;
    for (path, mode, content) in FILES {
        write(&rootfs.join(path), mode, content).map_err(failed(path))?;
    }
    for (path, mode, owner) in DIRS {
        make_dir(&rootfs.join(path), mode, owner).map_err(failed(path))?;
    }
    open_to_all(&rootfs.join("usr/local")).map_err(failed("/usr/local"))?;
    allow_pip(&rootfs.join("usr/lib")).map_err(failed("pip"))?;
    remove_if_there(&rootfs.join("etc/apt/apt.conf.d/99mmdebstrap")).map_err(failed("apt"))?;
    std::fs::set_permissions(rootfs, Permissions::from_mode(0o755)).map_err(failed("/"))
}

/// Device nodes are of no use in a template: a sandbox gets its own `/dev`.
fn empty(dir: &Path) -> io::Result<()> {
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            std::fs::remove_dir_all(entry.path())?;
        } else {
            std::fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

fn write(path: &Path, mode: u32, content: &str) -> io::Result<()> {
    // A link there would lead out of the template.
    remove_if_there(path)?;
    std::fs::write(path, content)?;
    std::fs::set_permissions(path, Permissions::from_mode(mode))
}

fn make_dir(path: &Path, mode: u32, owner: u32) -> io::Result<()> {
    std::fs::create_dir_all(path)?;
    std::os::unix::fs::chown(path, Some(owner), Some(owner))?;
    std::fs::set_permissions(path, Permissions::from_mode(mode))
}

/// Programs of any user may install there, as in E2B's base.
fn open_to_all(dir: &Path) -> io::Result<()> {
    std::fs::set_permissions(dir, Permissions::from_mode(0o777))?;
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            open_to_all(&entry.path())?;
        }
    }
    Ok(())
}

/// A sandbox is thrown away: that `pip install` could upset the distribution's own Python is no
/// reason to refuse it there (PEP 668).
fn allow_pip(lib: &Path) -> io::Result<()> {
    for entry in std::fs::read_dir(lib)? {
        let entry = entry?;
        if entry.file_name().as_encoded_bytes().starts_with(b"python3.") {
            remove_if_there(&entry.path().join("EXTERNALLY-MANAGED"))?;
        }
    }
    Ok(())
}

fn remove_if_there(path: &Path) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// Checks that the template is what it should be, and lists its packages.
pub(crate) fn verify(rootfs: &Path, wanted: &[&str]) -> Result<Vec<Package>, BuildError> {
    let wrong = |what: String| Err(BuildError::Wrong(what));
    for (path, mode, content) in FILES {
        let full = rootfs.join(path);
        let meta = stat(&full)?;
        let size = u64::try_from(content.len()).unwrap_or(u64::MAX);
        if !meta.is_file() || meta.mode() & 0o7777 != mode || meta.uid() != 0 || meta.len() != size
        {
            return wrong(format!("/{path} is not root's file of mode {mode:o}"));
        }
    }
    for (path, mode, owner) in DIRS {
        let meta = stat(&rootfs.join(path))?;
        if !meta.is_dir() || meta.mode() & 0o7777 != mode || meta.uid() != owner {
            return wrong(format!("/{path} is not a directory of mode {mode:o}"));
        }
    }
    let sudo = stat(&rootfs.join("usr/bin/sudo"))?;
    if sudo.mode() & 0o4111 != 0o4111 || sudo.uid() != 0 {
        return wrong("/usr/bin/sudo is not set-user-id root".to_owned());
    }
    for program in ["usr/bin/bash", "usr/bin/python3", "usr/bin/git", "usr/bin/curl"] {
        stat(&rootfs.join(program))?;
    }
    let accounts = read(rootfs.join("etc/passwd"))?;
    let home = format!("{USER}:x:{USER_ID}:{USER_ID}::/home/{USER}:/bin/bash");
    if !accounts.lines().any(|line| line == home) {
        return wrong(format!("/etc/passwd has no account `{home}`"));
    }
    if read(rootfs.join("etc/hostname"))?.trim_end() != HOSTNAME {
        return wrong("/etc/hostname has another name".to_owned());
    }
    let packages = installed(&read(rootfs.join("var/lib/dpkg/status"))?);
    match wanted.iter().find(|want| !packages.iter().any(|package| package.name == **want)) {
        Some(missing) => wrong(format!("package {missing} is not installed")),
        None => Ok(packages),
    }
}

fn stat(path: &Path) -> Result<std::fs::Metadata, BuildError> {
    std::fs::symlink_metadata(path)
        .map_err(|error| BuildError::Wrong(format!("{}: {error}", path.display())))
}

fn read(path: PathBuf) -> Result<String, BuildError> {
    std::fs::read_to_string(&path)
        .map_err(|error| BuildError::Wrong(format!("{}: {error}", path.display())))
}

/// The installed packages in dpkg's status file, sorted by name.
fn installed(status: &str) -> Vec<Package> {
    let field = |paragraph: &str, name: &str| {
        let mut values = paragraph.lines().filter_map(|line| line.strip_prefix(name));
        values.next().map(|value| value.trim().to_owned())
    };
    let mut packages: Vec<Package> = status
        .split("\n\n")
        .filter(|paragraph| {
            field(paragraph, "Status:").is_some_and(|status| status.ends_with(" installed"))
        })
        .filter_map(|paragraph| {
            Some(Package {
                name: field(paragraph, "Package:")?,
                version: field(paragraph, "Version:")?,
            })
        })
        .collect();
    packages.sort_by(|a, b| a.name.cmp(&b.name));
    packages
}

#[cfg(test)]
mod tests {
    use super::installed;

    #[test]
    fn only_packages_that_are_installed_are_listed() {
        let status = "Package: zlib1g\nStatus: install ok installed\nVersion: 1:1.2\n\n\
                      Package: old\nStatus: deinstall ok config-files\nVersion: 1\n\n\
                      Package: bash\nStatus: install ok installed\nVersion: 5.2\n";
        let names: Vec<_> = installed(status).into_iter().map(|p| (p.name, p.version)).collect();
        let expected = [("bash", "5.2"), ("zlib1g", "1:1.2")];
        assert_eq!(names, expected.map(|(n, v)| (n.to_owned(), v.to_owned())));
    }
}
