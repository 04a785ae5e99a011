//! The rules of a sandbox whose connections go through the daemon, as they are kept for the next one.

use std::fs;
use std::io::{self, Write as _};
use std::net::Ipv4Addr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use model::{Egress, HeaderRule, ProxyError, ProxyTls, RequestPattern, Secret, SocksProxy};
use serde::{Deserialize, Serialize};

const FILE: &str = "egress.json";
const NEXT: &str = "egress.json.next";
/// The form below; a daemon reads the forms before its own, too.
const VERSION: u32 = 3;
/// In which a proxy had no TLS, and name servers were the node's. What has neither is still written
/// so: for the release before, which would leave out both and speak to the proxy in the clear.
const IN_THE_CLEAR: u32 = 2;
/// In which headers were for plain HTTP alone, and domains were written without it.
const PLAIN: u32 = 1;

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

/// All that is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct KeptRules {
    pub(super) rules: Egress,
    /// The certificate authority that the sandbox was told to believe.
    pub(super) authority: Option<String>,
}

#[derive(Serialize, Deserialize)]
struct Kept {
    version: u32,
    allow: Vec<String>,
    deny: Vec<String>,
    domains: Vec<String>,
    #[serde(default)]
    name_servers: Option<Vec<Ipv4Addr>>,
    proxy: Option<KeptProxy>,
    headers: Vec<KeptHeaders>,
    #[serde(default)]
    authority: Option<String>,
}

#[derive(Serialize, Deserialize)]
struct KeptProxy {
    address: String,
    username: Option<String>,
    password: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    tls: Option<KeptTls>,
}

#[derive(Serialize, Deserialize)]
struct KeptTls {
    server_name: Option<String>,
    authorities: Option<String>,
}

#[derive(Serialize, Deserialize)]
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
pub(super) fn write(dir: &Path, rules: Option<&KeptRules>) -> Result<(), KeptError> {
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
pub(super) fn read(dir: &Path) -> Result<Option<KeptRules>, KeptError> {
    let path = dir.join(FILE);
    let failed = |source| KeptError { action: "read", path: path.clone(), source };
    let text = match fs::read(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(error)),
    };
    let kept: Kept = serde_json::from_slice(&text).map_err(io::Error::from).map_err(failed)?;
    if ![PLAIN, IN_THE_CLEAR, VERSION].contains(&kept.version) {
        return Err(failed(io::Error::other(format!("its form {} is not known", kept.version))));
    }
    kept.into_rules().map(Some).map_err(failed)
}

impl From<&KeptRules> for Kept {
    fn from(KeptRules { rules, authority }: &KeptRules) -> Self {
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
                tls: proxy.tls().map(|tls| KeptTls {
                    server_name: tls.server_name(),
                    authorities: tls.authorities().map(str::to_owned),
                }),
            }
        });
        let header = |(name, value): &(String, Secret)| (name.clone(), value.expose().to_owned());
        let headers = |rule: &HeaderRule| KeptHeaders {
            domain: rule.requests.to_string(),
            headers: rule.headers.iter().map(header).collect(),
        };
        let is_new = rules.name_servers.is_some() || proxy_tls(rules).is_some();
        Self {
            version: if is_new { VERSION } else { IN_THE_CLEAR },
            allow: texts(&rules.allow),
            deny: texts(&rules.deny),
            domains: texts(&rules.domains),
            name_servers: rules.name_servers.clone(),
            proxy,
            headers: rules.headers.iter().map(headers).collect(),
            authority: authority.clone(),
        }
    }
}

fn proxy_tls(rules: &Egress) -> Option<&ProxyTls> {
    rules.proxy.as_ref().and_then(SocksProxy::tls)
}

impl Kept {
    fn into_rules(self) -> io::Result<KeptRules> {
        fn parsed<T: std::str::FromStr<Err: std::error::Error + Send + Sync + 'static>>(
            texts: &[String],
        ) -> io::Result<Vec<T>> {
            texts.iter().map(|text| text.parse().map_err(io::Error::other)).collect()
        }
        let tls = |tls: KeptTls| ProxyTls::new(tls.server_name.as_deref(), tls.authorities);
        let proxy = self.proxy.map(|proxy| {
            let password = proxy.password.map(Secret::new);
            let known = SocksProxy::new(&proxy.address, proxy.username, password)?;
            Ok(known.in_tls(proxy.tls.map(tls).transpose()?))
        });
        let proxy: Result<_, ProxyError> = proxy.transpose();
        let hidden = |(name, value)| (name, Secret::new(value));
        let headers = self.headers.into_iter().map(|rule| {
            let headers = rule.headers.into_iter().map(hidden).collect();
            let requests = match self.version {
                PLAIN => rule.domain.parse().map(RequestPattern::only_plain),
                _ => rule.domain.parse(),
            };
            Ok(HeaderRule { requests: requests.map_err(io::Error::other)?, headers })
        });
        let rules = Egress {
            allow: parsed(&self.allow)?,
            deny: parsed(&self.deny)?,
            domains: parsed(&self.domains)?,
            name_servers: self.name_servers,
            proxy: proxy.map_err(io::Error::other)?,
            headers: headers.collect::<io::Result<_>>()?,
        };
        Ok(KeptRules { rules, authority: self.authority })
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use model::{Egress, HeaderRule, Ipv4Range, ProxyTls, Secret, SocksProxy};

    use super::{FILE, KeptRules, is_there, read, write};

    fn rules() -> KeptRules {
        let secret = |text: &str| Secret::new(text.into());
        let rules = Egress {
            allow: vec!["1.1.1.1".parse().unwrap()],
            deny: vec![Ipv4Range::ALL],
            domains: vec!["*.a.com".parse().unwrap()],
            name_servers: None,
            proxy: Some(SocksProxy::new("p:1", Some("u".into()), Some(secret("pw"))).unwrap()),
            headers: vec![HeaderRule {
                requests: "b.com".parse().unwrap(),
                headers: vec![("x".into(), secret("y"))],
            }],
        };
        KeptRules { rules, authority: Some("a1".into()) }
    }

    #[test]
    fn what_is_kept_is_read_back_by_nobody_else_and_goes() {
        let dir = tempfile::tempdir().unwrap();
        let at = dir.path();
        assert_eq!(read(at).unwrap(), None);
        let unnamed = SocksProxy::new("1.2.3.4:5", Some("u".into()), None).unwrap();
        let other = Egress { proxy: Some(unnamed), ..Egress::default() };
        let tls = ProxyTls::new(Some("p.example"), Some("-----BEGIN".into())).unwrap();
        let proxy = SocksProxy::new("p:1", None, None).unwrap().in_tls(Some(tls));
        let in_tls = Egress { proxy: Some(proxy), ..Egress::default() };
        let unasked = Egress { name_servers: Some(Vec::new()), ..rules().rules };
        let asked = Egress { name_servers: Some(vec![[9, 9, 9, 9].into()]), ..rules().rules };
        let version = |version: u32| format!("{{\"version\":{version},");
        for (rules, form) in [(rules().rules, 2), (other, 2), (in_tls, 3), (unasked, 3), (asked, 3)]
        {
            let rules = KeptRules { rules, authority: None };
            write(at, Some(&rules)).unwrap();
            assert_eq!(read(at).unwrap(), Some(rules));
            let text = fs::read_to_string(at.join(FILE)).unwrap();
            assert!(text.starts_with(&version(form)), "the release before understands 2");
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
        for text in ["", "{}", &good.replace("\"version\":2", "\"version\":4"), torn] {
            fs::write(dir.path().join(FILE), text).unwrap();
            read(dir.path()).unwrap_err();
        }
    }

    #[test]
    fn what_the_release_before_has_kept_stays_what_it_was() {
        let dir = tempfile::tempdir().unwrap();
        let text = r#"{"version":1,"allow":[],"deny":["0.0.0.0/0"],"domains":["a.com"],"proxy":null,
            "headers":[{"domain":"*.a.com","headers":[["x","y"]]}]}"#;
        fs::write(dir.path().join(FILE), text).unwrap();
        let kept = read(dir.path()).unwrap().unwrap();
        assert_eq!(kept.rules.headers[0].requests.to_string(), "http://*.a.com");
        assert_eq!((kept.rules.changes_https(), kept.authority), (false, None));
    }
}
