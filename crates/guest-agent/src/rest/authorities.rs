//! The certificate authorities programs in the sandbox trust, with one of the node's added.

use std::io;
use std::path::PathBuf;

use parking_lot::Mutex;

/// Where the machine keeps its trusted certificates, and what was added to them.
pub(crate) struct Authorities {
    /// The bundle TLS libraries read.
    bundle: PathBuf,
    /// A copy that survives when the bundle is made anew from its parts.
    copy: PathBuf,
    added: Mutex<Option<String>>,
}

/// Why a certificate could not be added.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AuthoritiesError {
    #[error("caBundle must be PEM text with at least one 'BEGIN CERTIFICATE' block")]
    NotPem,
    #[error("cannot read {}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("cannot write {}", path.display())]
    Write { path: PathBuf, source: io::Error },
}

impl Authorities {
    pub(crate) fn of_this_machine() -> Self {
        Self {
            bundle: "/etc/ssl/certs/ca-certificates.crt".into(),
            copy: "/usr/local/share/ca-certificates/e2b-ca.crt".into(),
            added: Mutex::new(None),
        }
    }

    /// Adds `pem`, and takes out the one added before, also by an agent of an earlier run: files
    /// outlive it. The same one again changes nothing.
    ///
    /// # Errors
    /// When `pem` is no certificate, or a file cannot be read or written.
    pub(crate) fn add(&self, pem: &str) -> Result<(), AuthoritiesError> {
        if !pem.contains("-----BEGIN CERTIFICATE-----") {
            return Err(AuthoritiesError::NotPem);
        }
        let mut added = self.added.lock();
        if added.as_deref() == Some(pem) {
            return Ok(());
        }
        let mut text = match std::fs::read_to_string(&self.bundle) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
            Err(source) => {
                return Err(AuthoritiesError::Read { path: self.bundle.clone(), source });
            }
        };
        // Where there is no copy, nothing was added.
        let before = added.clone().or_else(|| std::fs::read_to_string(&self.copy).ok());
        if let Some(old) = before.filter(|old| !old.trim().is_empty() && old.trim() != pem.trim()) {
            text = text.replace(&block(&old), "");
        }
        if !text.contains(pem.trim()) {
            if !text.is_empty() && !text.ends_with('\n') {
                text.push('\n');
            }
            text.push_str(&block(pem));
        }
        for (path, content) in [(&self.bundle, text.as_str()), (&self.copy, &block(pem))] {
            replace(path, content)
                .map_err(|source| AuthoritiesError::Write { path: path.clone(), source })?;
        }
        *added = Some(pem.to_owned());
        Ok(())
    }
}

fn block(pem: &str) -> String {
    format!("{}\n", pem.trim())
}

/// Writes in place: the bundle may be a mount of its own, over which nothing can be renamed.
fn replace(path: &PathBuf, content: &str) -> io::Result<()> {
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent)?;
    }
    std::fs::write(path, content)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pem(body: &str) -> String {
        format!("-----BEGIN CERTIFICATE-----\n{body}\n-----END CERTIFICATE-----\n")
    }

    fn authorities(dir: &tempfile::TempDir) -> Authorities {
        Authorities {
            bundle: dir.path().join("certs/bundle.crt"),
            copy: dir.path().join("local/e2b-ca.crt"),
            added: Mutex::new(None),
        }
    }

    #[test]
    fn a_new_certificate_takes_the_place_of_the_one_added_before() {
        let dir = tempfile::tempdir().unwrap();
        let authorities = authorities(&dir);
        std::fs::create_dir_all(dir.path().join("certs")).unwrap();
        std::fs::write(&authorities.bundle, pem("system")).unwrap();
        for _ in 0..2 {
            authorities.add(&pem("one")).unwrap();
        }
        let text = std::fs::read_to_string(&authorities.bundle).unwrap();
        assert_eq!(text, format!("{}{}", pem("system"), pem("one")));
        authorities.add(&pem("two")).unwrap();
        let text = std::fs::read_to_string(&authorities.bundle).unwrap();
        assert_eq!(text, format!("{}{}", pem("system"), pem("two")));
        assert_eq!(std::fs::read_to_string(&authorities.copy).unwrap(), pem("two"));
    }

    #[test]
    fn what_an_agent_of_an_earlier_run_has_added_goes_with_the_next() {
        let dir = tempfile::tempdir().unwrap();
        authorities(&dir).add(&pem("one")).unwrap();
        let authorities = authorities(&dir);
        authorities.add(&pem("two")).unwrap();
        assert_eq!(std::fs::read_to_string(&authorities.bundle).unwrap(), pem("two"));
    }

    #[test]
    fn text_that_is_no_certificate_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let authorities = authorities(&dir);
        assert!(matches!(authorities.add("hello"), Err(AuthoritiesError::NotPem)));
        assert!(!authorities.bundle.exists());
    }
}
