use std::io;
use std::path::{Path, PathBuf};

/// Which release to install could not be told.
#[derive(Debug, thiserror::Error)]
pub enum ReleaseError {
    #[error("read {}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error(
        "{} says this is {name}, not Debian or Ubuntu; make the template on a machine that is, \
         and copy its data directory's `images` here",
        path.display()
    )]
    NotDebian { path: PathBuf, name: String },
    #[error("{} names no release (VERSION_CODENAME)", path.display())]
    NoCodename { path: PathBuf },
}

/// The code name of the host's release, such as `bookworm`.
pub(crate) fn of_host(os_release: &Path) -> Result<String, ReleaseError> {
    let path = || os_release.to_path_buf();
    let text = std::fs::read_to_string(os_release)
        .map_err(|source| ReleaseError::Read { path: path(), source })?;
    let id = value(&text, "ID").unwrap_or_default();
    if id != "debian" && id != "ubuntu" {
        let name = value(&text, "PRETTY_NAME").unwrap_or(id);
        return Err(ReleaseError::NotDebian { path: path(), name });
    }
    let codename = value(&text, "VERSION_CODENAME").unwrap_or_default();
    let legal = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    if codename.is_empty() || !codename.bytes().all(legal) {
        return Err(ReleaseError::NoCodename { path: path() });
    }
    Ok(codename)
}

fn value(text: &str, key: &str) -> Option<String> {
    let pairs = text.lines().filter_map(|line| line.split_once('='));
    pairs
        .filter(|(name, _)| *name == key)
        .map(|(_, value)| value.trim().trim_matches(['"', '\'']).to_owned())
        .next_back()
}

#[cfg(test)]
mod tests {
    use super::{ReleaseError, of_host};

    fn with(text: &str) -> Result<String, ReleaseError> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        of_host(file.path())
    }

    #[test]
    fn the_release_is_the_hosts_own() {
        assert_eq!(with("ID=debian\nVERSION_CODENAME=bookworm\n").unwrap(), "bookworm");
        assert_eq!(with("ID=ubuntu\nVERSION_CODENAME=\"noble\"\n").unwrap(), "noble");
    }

    #[test]
    fn another_distribution_is_refused_by_name() {
        let error = with("ID=fedora\nPRETTY_NAME=\"Fedora Linux 42\"\n").unwrap_err();
        assert!(error.to_string().contains("Fedora Linux 42"), "{error}");
    }

    #[test]
    fn a_code_name_that_could_be_an_option_is_refused() {
        with("ID=debian\nVERSION_CODENAME=--help\n").unwrap_err();
        with("ID=debian\n").unwrap_err();
    }
}
