//! `DIR/credentials.env`: the secrets of an installation and the addresses its clients use.
//!
//! The secrets are made once and never replaced: a file that cannot be understood is an error.

use std::fs::{File, OpenOptions, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use model::Secret;
use rand::TryRngCore;

const FILE: &str = "credentials.env";
const UNFINISHED: &str = ".credentials.env.new";
const MAX_BYTES: u64 = 64 * 1024;

pub(crate) const API_KEY: &str = "E2B_API_KEY";
pub(crate) const API_URL: &str = "E2B_API_URL";
const SANDBOX_URL: &str = "E2B_SANDBOX_URL";
const DOMAIN: &str = "E2B_DOMAIN";
pub(crate) const ADMIN_TOKEN: &str = "COFFERDAM_ADMIN_TOKEN";
const TOKEN_SEED: &str = "COFFERDAM_TOKEN_SEED";
const NODE_TOKEN: &str = "COFFERDAM_NODE_TOKEN";

/// The names with our own prefix: they are not settings.
pub(crate) const NAMES: [&str; 3] = [ADMIN_TOKEN, TOKEN_SEED, NODE_TOKEN];

const HEADER: &str = "\
# Made by Cofferdam. Keep it secret: who can read it can run programs in sandboxes.
# Use it in a shell with: set -a; . FILE; set +a
";

/// The secrets of an installation.
#[derive(Debug)]
pub(crate) struct Credentials {
    /// `e2b_` and 40 hexadecimal digits, the form the SDKs accept.
    pub(crate) api_key: Secret,
    pub(crate) admin_token: Secret,
    /// What the tokens of sandboxes are derived from.
    pub(crate) token_seed: Secret,
    /// What the node's own listener asks for; `None` in a file of a version without one, to which
    /// the next start adds it.
    pub(crate) node_token: Option<Secret>,
    /// Where the service was last started; `None` when somebody has taken the line out.
    pub(crate) url: Option<String>,
    pub(crate) path: PathBuf,
}

/// The addresses clients use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Addresses {
    pub(crate) url: String,
    pub(crate) domain: String,
}

/// The credentials cannot be used. None of these replaces a secret.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CredentialsError {
    #[error("read {}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("write {}", path.display())]
    Write { path: PathBuf, source: io::Error },
    #[error("draw random numbers from the system")]
    Random(#[source] rand::rand_core::OsError),
    #[error(
        "{} may be read by others (mode {mode:o}); if nobody did, run: chmod 600 {}",
        path.display(), path.display()
    )]
    Exposed { path: PathBuf, mode: u32 },
    #[error(
        "{} is not as Cofferdam wrote it: {what}; restore it, or move it away to get new \
         secrets (clients then need the new ones)",
        path.display()
    )]
    Malformed { path: PathBuf, what: String },
}

impl Credentials {
    /// Reads what is in `dir`; `None` when there is nothing yet.
    pub(crate) fn read(dir: &Path) -> Result<Option<Self>, CredentialsError> {
        Ok(Text::read(dir)?.map(|(_, credentials)| credentials))
    }

    /// Reads what is in `dir` and writes `addresses` into it if they changed, or makes new
    /// secrets when there is nothing yet. To be called by the owner of `dir` only.
    ///
    /// On a full disk the addresses stay those of an earlier start: clients that know the way are
    /// served.
    pub(crate) fn ensure(dir: &Path, addresses: &Addresses) -> Result<Self, CredentialsError> {
        let Some((text, credentials)) = Text::read(dir)? else {
            let text = Text(HEADER.to_owned())
                .with(API_KEY, &format!("e2b_{}", random_hex::<20>()?))
                .with_addresses(addresses)
                .with(ADMIN_TOKEN, &random_hex::<32>()?)
                .with(TOKEN_SEED, &random_hex::<32>()?)
                .with(NODE_TOKEN, &random_hex::<32>()?);
            text.write(dir, false)?;
            return Self::read_back(dir);
        };
        let mut current = text.clone().with_addresses(addresses);
        if credentials.node_token.is_none() {
            current = current.with(NODE_TOKEN, &random_hex::<32>()?);
        }
        if current != text {
            match current.write(dir, true) {
                Err(CredentialsError::Write { path, source })
                    if credentials.node_token.is_some() && is_full(&source) =>
                {
                    let path = path.display();
                    tracing::error!(%path, %source, "the addresses in it are of an earlier start");
                }
                written => written?,
            }
        }
        Self::read_back(dir)
    }

    /// What is used is what is stored.
    fn read_back(dir: &Path) -> Result<Self, CredentialsError> {
        Self::read(dir)?.ok_or_else(|| CredentialsError::Read {
            path: dir.join(FILE),
            source: io::ErrorKind::NotFound.into(),
        })
    }
}

fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// The file's content. Lines of others (comments, more variables) are kept as they are.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Text(String);

impl Text {
    fn read(dir: &Path) -> Result<Option<(Self, Credentials)>, CredentialsError> {
        let path = dir.join(FILE);
        let failed = |source| CredentialsError::Read { path: path.clone(), source };
        let file = match File::open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            other => other.map_err(failed)?,
        };
        let mode = file.metadata().map_err(failed)?.mode() & 0o7777;
        if mode & 0o077 != 0 {
            return Err(CredentialsError::Exposed { path, mode });
        }
        let mut text = String::new();
        file.take(MAX_BYTES).read_to_string(&mut text).map_err(failed)?;
        let text = Self(text);
        let secret = |name, prefix: &str, digits| match text.secret(name, prefix, digits) {
            Ok(secret) => Ok(secret),
            Err(what) => Err(CredentialsError::Malformed { path: path.clone(), what }),
        };
        let credentials = Credentials {
            api_key: secret(API_KEY, "e2b_", 40)?,
            admin_token: secret(ADMIN_TOKEN, "", 64)?,
            token_seed: secret(TOKEN_SEED, "", 64)?,
            node_token: text.has(NODE_TOKEN).then(|| secret(NODE_TOKEN, "", 64)).transpose()?,
            url: text.values(API_URL).next().map(str::to_owned),
            path: path.clone(),
        };
        Ok(Some((text, credentials)))
    }

    fn values(&self, name: &str) -> impl Iterator<Item = &str> {
        let lines = self.0.lines().map(str::trim_end);
        lines.filter_map(move |line| line.strip_prefix(name)?.strip_prefix('='))
    }

    fn has(&self, name: &str) -> bool {
        self.0.lines().any(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with('=')))
    }

    /// The one value of `name`; what is wrong never shows a value.
    fn secret(&self, name: &str, prefix: &str, digits: usize) -> Result<Secret, String> {
        let mut values = self.values(name);
        let value = values.next().ok_or_else(|| format!("{name} is missing"))?;
        if values.next().is_some() {
            return Err(format!("{name} is there twice"));
        }
        let hex = value.strip_prefix(prefix).unwrap_or_default();
        let legal = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        if hex.len() != digits || !hex.bytes().all(legal) {
            let prefix = if prefix.is_empty() { String::new() } else { format!("`{prefix}` and ") };
            return Err(format!("{name} is not {prefix}{digits} lower-case hexadecimal digits"));
        }
        Ok(Secret::new(value.to_owned()))
    }

    fn with_addresses(self, addresses: &Addresses) -> Self {
        self.with(API_URL, &addresses.url)
            .with(SANDBOX_URL, &addresses.url)
            .with(DOMAIN, &addresses.domain)
    }

    /// Replaces the line of `name`, or adds one.
    fn with(self, name: &str, value: &str) -> Self {
        let new = format!("{name}={value}");
        let is_old = |line: &str| line.strip_prefix(name).is_some_and(|rest| rest.starts_with('='));
        let mut lines: Vec<&str> = self.0.lines().collect();
        match lines.iter_mut().find(|line| is_old(line)) {
            Some(line) => *line = &new,
            None => lines.push(&new),
        }
        Self(lines.join("\n") + "\n")
    }

    /// Whole or not at all. Without `replace`, a file that is there is left alone.
    fn write(&self, dir: &Path, replace: bool) -> Result<(), CredentialsError> {
        let path = dir.join(FILE);
        self.try_write(dir, &path, replace)
            .map_err(|source| CredentialsError::Write { path, source })
    }

    fn try_write(&self, dir: &Path, path: &Path, replace: bool) -> io::Result<()> {
        let unfinished = dir.join(UNFINISHED);
        if let Err(error) = std::fs::remove_file(&unfinished)
            && error.kind() != io::ErrorKind::NotFound
        {
            return Err(error);
        }
        let mut file =
            OpenOptions::new().write(true).create_new(true).mode(0o600).open(&unfinished)?;
        // Whatever the umask made of it.
        file.set_permissions(Permissions::from_mode(0o600))?;
        file.write_all(self.0.as_bytes())?;
        file.sync_all()?;
        if replace {
            std::fs::rename(&unfinished, path)?;
        } else {
            // Unlike a rename, a link never replaces what is there.
            std::fs::hard_link(&unfinished, path)?;
            std::fs::remove_file(&unfinished)?;
        }
        File::open(dir)?.sync_all()
    }
}

fn random_hex<const BYTES: usize>() -> Result<String, CredentialsError> {
    let mut bytes = [0_u8; BYTES];
    rand::rngs::OsRng.try_fill_bytes(&mut bytes).map_err(CredentialsError::Random)?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::fs;
    use std::os::unix::fs::{MetadataExt, PermissionsExt};
    use std::path::Path;

    use super::{Addresses, Credentials, CredentialsError, FILE};

    fn at(port: u16) -> Addresses {
        let url = format!("http://127.0.0.1:{port}");
        Addresses { url, domain: format!("localhost:{port}") }
    }

    fn text(dir: &Path) -> String {
        fs::read_to_string(dir.join(FILE)).unwrap()
    }

    #[test]
    fn the_first_start_makes_secrets_only_the_owner_can_read() {
        let dir = tempfile::tempdir().unwrap();
        assert!(Credentials::read(dir.path()).unwrap().is_none());
        let made = Credentials::ensure(dir.path(), &at(3000)).unwrap();
        assert_eq!(fs::metadata(dir.path().join(FILE)).unwrap().mode() & 0o7777, 0o600);
        assert!(made.api_key.expose().starts_with("e2b_"));
        assert_eq!(made.api_key.expose().len(), 44);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "nothing else is left");
        for line in ["E2B_API_URL=http://127.0.0.1:3000", "E2B_DOMAIN=localhost:3000"] {
            assert!(text(dir.path()).lines().any(|l| l == line), "{line}");
        }
    }

    #[test]
    fn no_two_installations_share_a_secret() {
        let secrets: BTreeSet<String> = (0..4)
            .flat_map(|_| {
                let dir = tempfile::tempdir().unwrap();
                let made = Credentials::ensure(dir.path(), &at(1)).unwrap();
                let node_token = made.node_token.unwrap();
                let secrets = [made.api_key, made.admin_token, made.token_seed, node_token];
                secrets.map(|s| s.expose().to_owned())
            })
            .collect();
        assert_eq!(secrets.len(), 16);
    }

    #[test]
    fn another_address_changes_the_addresses_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let first = Credentials::ensure(dir.path(), &at(3000)).unwrap();
        let mine = format!("{}# mine\nOTHER=1\n", text(dir.path()));
        fs::write(dir.path().join(FILE), &mine).unwrap();
        let second = Credentials::ensure(dir.path(), &at(4000)).unwrap();
        assert_eq!(second.api_key, first.api_key);
        assert_eq!(second.token_seed, first.token_seed);
        assert_eq!(text(dir.path()), mine.replace(":3000", ":4000"));
        assert_eq!(fs::metadata(dir.path().join(FILE)).unwrap().mode() & 0o7777, 0o600);
    }

    #[test]
    fn a_file_of_a_version_without_a_node_token_gets_one_and_keeps_it() {
        let dir = tempfile::tempdir().unwrap();
        let _made = Credentials::ensure(dir.path(), &at(3000)).unwrap();
        let new = text(dir.path());
        let old: String = new.split_inclusive('\n').filter(|l| !l.contains("NODE_TOKEN")).collect();
        assert_ne!(old, new);
        fs::write(dir.path().join(FILE), &old).unwrap();
        assert!(Credentials::read(dir.path()).unwrap().unwrap().node_token.is_none());
        let added = Credentials::ensure(dir.path(), &at(3000)).unwrap().node_token.unwrap();
        assert!(text(dir.path()).starts_with(&old), "the rest stays");
        let again = Credentials::ensure(dir.path(), &at(3000)).unwrap().node_token.unwrap();
        assert_eq!(again, added);
    }

    #[test]
    fn a_file_that_is_not_understood_is_an_error_and_stays() {
        let dir = tempfile::tempdir().unwrap();
        let made = Credentials::ensure(dir.path(), &at(3000)).unwrap();
        let good = text(dir.path());
        let key = made.api_key.expose();
        let rows = [
            (String::new(), "E2B_API_KEY is missing"),
            (good.replace(key, &key.to_uppercase()), "40 lower-case"),
            (good.replace("COFFERDAM_TOKEN_SEED=", "SEED="), "COFFERDAM_TOKEN_SEED is missing"),
            (format!("{good}COFFERDAM_ADMIN_TOKEN=0\n"), "COFFERDAM_ADMIN_TOKEN is there twice"),
            (good.replace("COFFERDAM_NODE_TOKEN=", "COFFERDAM_NODE_TOKEN=x"), "64 lower-case"),
        ];
        for (bad, why) in rows {
            fs::write(dir.path().join(FILE), &bad).unwrap();
            let error = Credentials::ensure(dir.path(), &at(4000)).unwrap_err().to_string();
            assert!(error.contains(why), "{error}");
            assert!(!error.contains(key) && !error.contains(&key.to_uppercase()), "{error}");
            assert_eq!(text(dir.path()), bad, "it stays as it is");
        }
    }

    #[test]
    fn a_file_others_can_read_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let _made = Credentials::ensure(dir.path(), &at(3000)).unwrap();
        fs::set_permissions(dir.path().join(FILE), fs::Permissions::from_mode(0o640)).unwrap();
        let error = Credentials::ensure(dir.path(), &at(3000)).unwrap_err();
        assert!(matches!(error, CredentialsError::Exposed { mode: 0o640, .. }), "{error}");
    }
}
