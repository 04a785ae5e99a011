//! The certificate authorities the host's operator added: a proxy that ends TLS on the way out
//! of the host does so for sandboxes too, and their programs must trust it as the host's do.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

/// Where an operator puts them, on the host and in the template (see update-ca-certificates(8)).
pub(crate) const DIR: &str = "usr/local/share/ca-certificates";

/// What programs read, made by `update-ca-certificates`.
const BUNDLE: &str = "etc/ssl/certs/ca-certificates.crt";

/// Where they wait for [`INSTALL`], beside the root file system.
const STAGED: &str = "authorities";

/// Run by mmdebstrap with the root file system as `$1`.
pub(crate) const INSTALL: &str = "mkdir -p \"$1/usr/local/share/ca-certificates\" && \
    cp -R \"$1/../authorities/.\" \"$1/usr/local/share/ca-certificates/\" && \
    chmod -R u=rwX,go=rX \"$1/usr/local/share/ca-certificates\" && \
    chroot \"$1\" update-ca-certificates >/dev/null";

const FILES_MAX: usize = 1000;
const FILE_BYTES_MAX: u64 = 1024 * 1024;
/// Of directories in directories. Links are followed, so there may be circles.
const DEPTH_MAX: usize = 8;

const BEGIN: &str = "-----BEGIN CERTIFICATE-----";
const END: &str = "-----END CERTIFICATE-----";

/// The authorities of the host could not be collected.
#[derive(Debug, thiserror::Error)]
pub enum AuthoritiesError {
    #[error("read {}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("{} is larger than {FILE_BYTES_MAX} bytes, so it is no certificate; move it away", path.display())]
    TooLarge { path: PathBuf },
    #[error("{} has more than {FILES_MAX} certificates; remove those nobody needs", dir.display())]
    TooMany { dir: PathBuf },
}

/// One file with at least one certificate.
#[derive(Debug, PartialEq, Eq)]
struct Authority {
    /// Below [`DIR`].
    path: PathBuf,
    /// The certificates of the file, and nothing else that is in it: who keeps a private key
    /// beside its certificate has not given it to every sandbox.
    pem: String,
}

/// All of a host.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Authorities(Vec<Authority>);

/// Collects what `update-ca-certificates` would: every `.crt` at or below `dir`.
pub(crate) fn of_host(dir: &Path) -> Result<Authorities, AuthoritiesError> {
    let mut found = Authorities::default();
    found.add_dir(dir, Path::new(""), DEPTH_MAX)?;
    found.0.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(found)
}

impl Authorities {
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn add_dir(&mut self, dir: &Path, below: &Path, deeper: usize) -> Result<(), AuthoritiesError> {
        let failed = |source| AuthoritiesError::Read { path: dir.join(below), source };
        let entries = match std::fs::read_dir(dir.join(below)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            other => other.map_err(failed)?,
        };
        for entry in entries {
            let below = below.join(entry.map_err(failed)?.file_name());
            let path = dir.join(&below);
            let meta = match std::fs::metadata(&path) {
                // A link to nothing.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                other => {
                    other.map_err(|source| AuthoritiesError::Read { path: path.clone(), source })?
                }
            };
            if meta.is_dir() && deeper > 0 {
                self.add_dir(dir, &below, deeper - 1)?;
            } else if meta.is_file() && below.extension().is_some_and(|ext| ext == "crt") {
                self.add_file(&path, below)?;
            }
        }
        if self.0.len() > FILES_MAX {
            return Err(AuthoritiesError::TooMany { dir: dir.to_path_buf() });
        }
        Ok(())
    }

    fn add_file(&mut self, path: &Path, below: PathBuf) -> Result<(), AuthoritiesError> {
        let failed = |source| AuthoritiesError::Read { path: path.to_path_buf(), source };
        let mut bytes = Vec::new();
        let file = File::open(path).map_err(failed)?;
        file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(failed)?;
        if u64::try_from(bytes.len()).is_ok_and(|length| length > FILE_BYTES_MAX) {
            return Err(AuthoritiesError::TooLarge { path: path.to_path_buf() });
        }
        let pem = certificates(&String::from_utf8_lossy(&bytes));
        if pem.is_empty() {
            tracing::warn!(path = %path.display(), "no PEM certificate in it; left out");
        } else {
            self.0.push(Authority { path: below, pem });
        }
        Ok(())
    }

    /// Puts them where [`INSTALL`] looks; `dir` is what the root file system is in.
    pub(crate) fn stage(&self, dir: &Path) -> io::Result<()> {
        for Authority { path, pem } in &self.0 {
            let to = dir.join(STAGED).join(path);
            if let Some(parent) = to.parent() {
                std::fs::create_dir_all(parent)?;
            }
            std::fs::write(to, pem)?;
        }
        Ok(())
    }

    /// The first one that programs in the template would not trust.
    pub(crate) fn missing(&self, rootfs: &Path) -> io::Result<Option<&Path>> {
        if self.is_empty() {
            return Ok(None);
        }
        let bundle = std::fs::read_to_string(rootfs.join(BUNDLE))?;
        let trusted = |authority: &&Authority| !bundle.contains(authority.pem.trim_end());
        Ok(self.0.iter().find(trusted).map(|authority| authority.path.as_path()))
    }
}

/// The certificates in a text, each from its first to its last line. One that breaks off is none.
fn certificates(text: &str) -> String {
    let mut all = String::new();
    let mut open: Option<String> = None;
    for line in text.lines().map(str::trim_end) {
        if line == BEGIN {
            open = Some(String::new());
        }
        let Some(block) = &mut open else { continue };
        block.push_str(line);
        block.push('\n');
        if line == END {
            all.push_str(block);
            open = None;
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;
    use std::path::Path;

    use super::{AuthoritiesError, DIR, of_host};

    const CERTIFICATE: &str =
        "-----BEGIN CERTIFICATE-----\nMIIB\nAQ==\n-----END CERTIFICATE-----\n";
    const KEY: &str = "-----BEGIN PRIVATE KEY-----\nc2VjcmV0\n-----END PRIVATE KEY-----\n";

    fn staged(dir: &Path, name: &str) -> String {
        fs::read_to_string(dir.join("authorities").join(name)).unwrap()
    }

    #[test]
    fn certificates_are_taken_from_every_depth_and_nothing_else() {
        let host = tempfile::tempdir().unwrap();
        fs::create_dir(host.path().join("corp")).unwrap();
        fs::write(host.path().join("a.crt"), CERTIFICATE.replace('\n', "\r\n")).unwrap();
        let with_key = format!("subject=x\n{KEY}{CERTIFICATE}{CERTIFICATE}{KEY}");
        fs::write(host.path().join("corp/b.crt"), with_key).unwrap();
        let cut = format!("{CERTIFICATE}-----BEGIN CERTIFICATE-----\nMII");
        fs::write(host.path().join("cut.crt"), cut).unwrap();
        for (name, text) in [("key.crt", KEY), ("a.pem", CERTIFICATE), ("der.crt", "0\u{82}")] {
            fs::write(host.path().join(name), text).unwrap();
        }
        symlink("nowhere", host.path().join("dangling.crt")).unwrap();
        let found = of_host(host.path()).unwrap();
        let names: Vec<_> = found.0.iter().map(|a| a.path.to_str().unwrap()).collect();
        assert_eq!(names, ["a.crt", "corp/b.crt", "cut.crt"]);

        let draft = tempfile::tempdir().unwrap();
        found.stage(draft.path()).unwrap();
        assert_eq!(staged(draft.path(), "a.crt"), CERTIFICATE);
        assert_eq!(staged(draft.path(), "corp/b.crt"), CERTIFICATE.repeat(2));
        assert_eq!(staged(draft.path(), "cut.crt"), CERTIFICATE);
    }

    #[test]
    fn a_template_that_does_not_trust_one_is_found_out() {
        let host = tempfile::tempdir().unwrap();
        fs::write(host.path().join("a.crt"), CERTIFICATE).unwrap();
        let found = of_host(host.path()).unwrap();
        let rootfs = tempfile::tempdir().unwrap();
        found.missing(rootfs.path()).unwrap_err();
        let certs = rootfs.path().join("etc/ssl/certs");
        fs::create_dir_all(&certs).unwrap();
        fs::write(certs.join("ca-certificates.crt"), "others\n").unwrap();
        assert_eq!(found.missing(rootfs.path()).unwrap(), Some(Path::new("a.crt")));
        fs::write(certs.join("ca-certificates.crt"), format!("others\n{CERTIFICATE}")).unwrap();
        assert_eq!(found.missing(rootfs.path()).unwrap(), None);
    }

    #[test]
    fn a_host_without_any_or_with_a_circle_of_links_is_fine() {
        let host = tempfile::tempdir().unwrap();
        assert!(of_host(&host.path().join(DIR)).unwrap().is_empty());
        symlink(".", host.path().join("circle")).unwrap();
        assert!(of_host(host.path()).unwrap().is_empty());
    }

    #[test]
    fn what_cannot_be_a_certificate_stops_the_build_with_its_name() {
        let host = tempfile::tempdir().unwrap();
        let file = fs::File::create(host.path().join("huge.crt")).unwrap();
        file.set_len(1 << 40).unwrap();
        let error = of_host(host.path()).unwrap_err();
        assert!(matches!(&error, AuthoritiesError::TooLarge { .. }), "{error}");
        assert!(error.to_string().contains("huge.crt"), "{error}");
    }
}
