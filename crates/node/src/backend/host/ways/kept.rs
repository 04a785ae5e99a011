//! The rules of a sandbox whose connections go through the daemon, as they are kept for the next one.

use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use model::{Egress, HeaderRule, Secret, SocksProxy};
use serde::{Deserialize, Serialize};

const FILE: &str = "egress.json";
const NEXT: &str = "egress.json.next";
/// Of the form below.
const VERSION: u32 = 1;

#[derive(Debug, thiserror::Error)]
#[error("{action} {}", .path.display())]
pub(crate) struct KeptError {
    action: &'static str,
    path: PathBuf,
    #[source]
    source: io::Error,
}

impl KeptError {
    pub(super) fn is_disk_full(&self) -> bool {
        self.source.kind() == io::ErrorKind::StorageFull
    }
}

#[derive(Debug, Serialize, Deserialize)]
struct Kept {
    version: u32,
    allow: Vec<String>,
    deny: Vec<String>,
    domains: Vec<String>,
    proxy: Option<KeptProxy>,
    headers: Vec<KeptHeaders>,
}

#[derive(Debug, Serialize, Deserialize)]
struct KeptProxy {
    address: String,
    username: Option<String>,
    password: Option<String>,
}

#[derive(Debug, Serialize, Deserialize)]
struct KeptHeaders {
    domain: String,
    headers: Vec<(String, String)>,
}

/// Whether something is kept.
pub(super) fn is_there(dir: &Path) -> bool {
    // Where that cannot be said, reading says why.
    dir.join(FILE).try_exists().unwrap_or(true)
}

/// Replaces what is kept in `dir`, or removes it. Its reader finds what was before or this, whole.
pub(super) fn write(dir: &Path, rules: Option<&Egress>) -> Result<(), KeptError> {
    let [path, next] = [FILE, NEXT].map(|name| dir.join(name));
    let Some(rules) = rules else {
        return [next, path].into_iter().try_for_each(|path| match fs::remove_file(&path) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                Err(KeptError { action: "remove", path, source })
            }
            _ => Ok(()),
        });
    };
    let write = || {
        let text = serde_json::to_vec(&Kept::from(rules))?;
        // Passwords and keys are in it.
        let mut options = fs::File::options();
        options.write(true).create(true).truncate(true).mode(0o600);
        options.open(&next)?.write_all(&text)?;
        fs::rename(&next, &path)
    };
    write().map_err(|source| KeptError { action: "write", path: path.clone(), source })
}

/// What is kept in `dir`.
pub(super) fn read(dir: &Path) -> Result<Option<Egress>, KeptError> {
    let path = dir.join(FILE);
    let failed = |source| KeptError { action: "read", path: path.clone(), source };
    let text = match fs::read(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(error)),
    };
    let kept: Kept = serde_json::from_slice(&text).map_err(io::Error::from).map_err(failed)?;
    if kept.version != VERSION {
        return Err(failed(io::Error::other(format!("its form {} is not known", kept.version))));
    }
    kept.into_rules().map(Some).map_err(failed)
}

impl From<&Egress> for Kept {
    fn from(rules: &Egress) -> Self {
        fn texts<T: ToString>(values: &[T]) -> Vec<String> {
            values.iter().map(T::to_string).collect()
        }
        let proxy = rules.proxy.as_ref().map(|proxy| {
            let caller = proxy.credentials();
            let password = caller.map(|caller| caller.password.expose());
            KeptProxy {
                address: proxy.to_string(),
                username: caller.map(|caller| caller.username.clone()),
                password: password.filter(|text| !text.is_empty()).map(str::to_owned),
            }
        });
        let header = |(name, value): &(String, Secret)| (name.clone(), value.expose().to_owned());
        let headers = |rule: &HeaderRule| KeptHeaders {
            domain: rule.domain.to_string(),
            headers: rule.headers.iter().map(header).collect(),
        };
        Self {
            version: VERSION,
            allow: texts(&rules.allow),
            deny: texts(&rules.deny),
            domains: texts(&rules.domains),
            proxy,
            headers: rules.headers.iter().map(headers).collect(),
        }
    }
}

impl Kept {
    fn into_rules(self) -> io::Result<Egress> {
        fn parsed<T: std::str::FromStr<Err: std::error::Error + Send + Sync + 'static>>(
            texts: &[String],
        ) -> io::Result<Vec<T>> {
            texts.iter().map(|text| text.parse().map_err(io::Error::other)).collect()
        }
        let proxy = self.proxy.map(|proxy| {
            let password = proxy.password.map(Secret::new);
            SocksProxy::new(&proxy.address, proxy.username, password).map_err(io::Error::other)
        });
        let hidden = |(name, value)| (name, Secret::new(value));
        let headers = self.headers.into_iter().map(|rule| {
            let headers = rule.headers.into_iter().map(hidden).collect();
            Ok(HeaderRule { domain: rule.domain.parse().map_err(io::Error::other)?, headers })
        });
        Ok(Egress {
            allow: parsed(&self.allow)?,
            deny: parsed(&self.deny)?,
            domains: parsed(&self.domains)?,
            proxy: proxy.transpose()?,
            headers: headers.collect::<io::Result<_>>()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use model::{Egress, HeaderRule, Ipv4Range, Secret, SocksProxy};

    use super::{FILE, is_there, read, write};

    fn rules() -> Egress {
        let secret = |text: &str| Secret::new(text.into());
        Egress {
            allow: vec!["1.1.1.1".parse().unwrap()],
            deny: vec![Ipv4Range::ALL],
            domains: vec!["*.a.com".parse().unwrap()],
            proxy: Some(SocksProxy::new("p:1", Some("u".into()), Some(secret("pw"))).unwrap()),
            headers: vec![HeaderRule {
                domain: "b.com".parse().unwrap(),
                headers: vec![("x".into(), secret("y"))],
            }],
        }
    }

    #[test]
    fn what_is_kept_is_read_back_by_nobody_else_and_goes() {
        let dir = tempfile::tempdir().unwrap();
        let at = dir.path();
        assert_eq!(read(at).unwrap(), None);
        let unnamed = SocksProxy::new("1.2.3.4:5", Some("u".into()), None).unwrap();
        let other = Egress { proxy: Some(unnamed), ..Egress::default() };
        for rules in [rules(), other] {
            write(at, Some(&rules)).unwrap();
            assert_eq!(read(at).unwrap(), Some(rules));
        }
        let mode = fs::metadata(at.join(FILE)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        fs::write(at.join("egress.json.next"), "torn").unwrap();
        for _ in 0..2 {
            write(at, None).unwrap();
            assert!(!is_there(at) && fs::read_dir(at).unwrap().next().is_none());
        }
    }

    #[test]
    fn what_cannot_be_understood_is_not_taken_for_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let good = {
            write(dir.path(), Some(&rules())).unwrap();
            fs::read_to_string(dir.path().join(FILE)).unwrap()
        };
        let torn = good.strip_suffix('}').unwrap();
        for text in ["", "{}", &good.replace("\"version\":1", "\"version\":2"), torn] {
            fs::write(dir.path().join(FILE), text).unwrap();
            read(dir.path()).unwrap_err();
        }
    }
}
