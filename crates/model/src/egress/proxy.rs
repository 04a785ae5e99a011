//! A user's own way to the outside.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};

use super::HostName;
use crate::Secret;

/// A proxy that cannot be used as it was named.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProxyError {
    #[error(
        "{0:?} must be the address of a SOCKS5 proxy as host:port, such as proxy.example.com:1080"
    )]
    Address(String),
    #[error("{0} is an IPv6 address; sandboxes have IPv4 only")]
    Version6(Ipv6Addr),
    #[error("{0} has to be 1 to 255 bytes long (RFC 1929)")]
    Length(&'static str),
    #[error("a password needs a username")]
    NoUser,
    #[error("{0:?} is no name of a server: it must be that of a host, or an IPv4 address")]
    ServerName(String),
    #[error("the certificates have to be 1 to {AUTHORITIES_MAX} bytes long")]
    Authorities,
}

/// Bytes of the certificates by which a proxy is believed; E2B's limit.
pub const AUTHORITIES_MAX: usize = 8192;

/// Who is calling, as SOCKS5 asks it (RFC 1929).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Credentials {
    pub username: String,
    pub password: Secret,
}

/// Where a proxy is.
#[derive(Debug, Clone, PartialEq, Eq)]
enum At {
    Name(HostName),
    Address(Ipv4Addr),
}

/// How a proxy is spoken to that speaks TLS: everything it is told, and all that it carries, is
/// inside.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ProxyTls {
    server_name: Option<At>,
    authorities: Option<String>,
}

impl ProxyTls {
    /// A proxy whose certificate is for `server_name`, without one for the host in its address, and
    /// which is believed by `authorities`, certificates in PEM, without them by what the node
    /// believes. Whether certificates are ones is for the reader to say.
    ///
    /// # Errors
    /// What is wrong with which of the two.
    pub fn new(server_name: Option<&str>, authorities: Option<String>) -> Result<Self, ProxyError> {
        let wrong = |name: &str| ProxyError::ServerName(name.chars().take(255).collect());
        let server_name =
            server_name.map(|name| host(name).ok_or_else(|| wrong(name))).transpose()?;
        let fits = |text: &String| (1..=AUTHORITIES_MAX).contains(&text.len());
        if authorities.as_ref().is_some_and(|text| !fits(text)) {
            return Err(ProxyError::Authorities);
        }
        Ok(Self { server_name, authorities })
    }

    /// The name that was given.
    #[must_use]
    pub fn server_name(&self) -> Option<String> {
        self.server_name.as_ref().map(At::to_string)
    }

    /// In PEM.
    #[must_use]
    pub fn authorities(&self) -> Option<&str> {
        self.authorities.as_deref()
    }
}

/// A SOCKS5 proxy (RFC 1928).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SocksProxy {
    at: At,
    port: u16,
    credentials: Option<Credentials>,
    tls: Option<ProxyTls>,
}

impl SocksProxy {
    /// The proxy at `address`, which is `host:port`. A user without a password has an empty one.
    ///
    /// # Errors
    /// What is wrong with which of the three.
    pub fn new(
        address: &str,
        username: Option<String>,
        password: Option<Secret>,
    ) -> Result<Self, ProxyError> {
        let (at, port) = parse(address)?;
        let fits = |text: &str| (1..=255).contains(&text.len());
        if username.as_deref().is_some_and(|name| !fits(name)) {
            return Err(ProxyError::Length("username"));
        }
        if password.as_ref().is_some_and(|password| !fits(password.expose())) {
            return Err(ProxyError::Length("password"));
        }
        let credentials = match (username, password) {
            (None, None) => None,
            (None, Some(_)) => return Err(ProxyError::NoUser),
            (Some(username), password) => {
                let password = password.unwrap_or_else(|| Secret::new(String::new()));
                Some(Credentials { username, password })
            }
        };
        Ok(Self { at, port, credentials, tls: None })
    }

    /// The same, spoken to so; without `tls` in the clear.
    #[must_use]
    pub fn in_tls(self, tls: Option<ProxyTls>) -> Self {
        Self { tls, ..self }
    }

    #[must_use]
    pub fn tls(&self) -> Option<&ProxyTls> {
        self.tls.as_ref()
    }

    /// Whom its certificate must be for.
    #[must_use]
    pub fn server_name(&self) -> String {
        let given = self.tls.as_ref().and_then(ProxyTls::server_name);
        given.unwrap_or_else(|| self.at.to_string())
    }

    /// Its address, if it was named by that.
    #[must_use]
    pub fn address(&self) -> Option<Ipv4Addr> {
        match self.at {
            At::Address(address) => Some(address),
            At::Name(_) => None,
        }
    }

    /// Its name, if it was named by that.
    #[must_use]
    pub fn name(&self) -> Option<&HostName> {
        match &self.at {
            At::Name(name) => Some(name),
            At::Address(_) => None,
        }
    }

    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    #[must_use]
    pub fn credentials(&self) -> Option<&Credentials> {
        self.credentials.as_ref()
    }
}

fn parse(address: &str) -> Result<(At, u16), ProxyError> {
    let wrong = || ProxyError::Address(address.chars().take(255).collect());
    let (host, port) = address.rsplit_once(':').ok_or_else(wrong)?;
    let is_number = port.bytes().all(|byte| byte.is_ascii_digit());
    let port = port.parse().ok().filter(|port| is_number && *port != 0).ok_or_else(wrong)?;
    if let Ok(address) = host.trim_matches(['[', ']']).parse() {
        return Err(ProxyError::Version6(address));
    }
    Ok((self::host(host).ok_or_else(wrong)?, port))
}

fn host(text: &str) -> Option<At> {
    text.parse().map(At::Address).or_else(|_no_address| text.parse().map(At::Name)).ok()
}

impl fmt::Display for At {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => name.fmt(f),
            Self::Address(address) => address.fmt(f),
        }
    }
}

/// `host:port`, as it was named.
impl fmt::Display for SocksProxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.at, self.port)
    }
}

#[cfg(test)]
mod tests {
    use super::{AUTHORITIES_MAX, ProxyError, ProxyTls, SocksProxy};
    use crate::Secret;

    #[test]
    fn a_proxy_is_a_host_with_a_port() {
        for (text, shown) in [
            ("Proxy.example.com:1080", "proxy.example.com:1080"),
            ("203.0.113.7:1", "203.0.113.7:1"),
        ] {
            let proxy = SocksProxy::new(text, None, None).unwrap();
            assert_eq!(proxy.to_string(), shown);
            assert_eq!(proxy.address().is_some(), proxy.name().is_none());
        }
        for text in
            ["", "a", "a:", ":1", "a:0", "a:+1", "a:65536", "a b:1", "socks5://a:1", "1.2.3:4"]
        {
            let error = SocksProxy::new(text, None, None).unwrap_err();
            assert_eq!(error, ProxyError::Address(text.into()));
        }
        let error = SocksProxy::new("[2001:db8::1]:1080", None, None).unwrap_err();
        assert!(matches!(error, ProxyError::Version6(_)));
    }

    #[test]
    fn a_caller_has_a_name_and_what_fits_the_protocol() {
        let new = |user: Option<&str>, password: Option<&str>| {
            let password = password.map(|text| Secret::new(text.into()));
            SocksProxy::new("p:1", user.map(Into::into), password)
        };
        let long = "x".repeat(256);
        assert_eq!(new(None, Some("p")).unwrap_err(), ProxyError::NoUser);
        assert_eq!(new(Some(""), None).unwrap_err(), ProxyError::Length("username"));
        assert_eq!(new(Some("u"), Some(&long)).unwrap_err(), ProxyError::Length("password"));
        let proxy = new(Some("u"), Some("hunter2")).unwrap();
        assert_eq!(proxy.credentials().unwrap().password.expose(), "hunter2");
        assert!(!format!("{proxy:?}").contains("hunter"));
    }
    #[test]
    fn a_certificate_is_for_the_host_in_the_address_unless_another_is_named() {
        let proxy = |at: &str| SocksProxy::new(at, None, None).unwrap();
        assert_eq!(proxy("p.example:1").server_name(), "p.example");
        let tls = |name| ProxyTls::new(name, None).unwrap();
        assert_eq!(proxy("1.2.3.4:1").in_tls(Some(tls(None))).server_name(), "1.2.3.4");
        let named = proxy("1.2.3.4:1").in_tls(Some(tls(Some("P.example"))));
        assert_eq!(named.server_name(), "p.example");
        assert_eq!(named.in_tls(None).tls(), None);
        for name in ["", "a b", "p.example:1", &"x".repeat(64)] {
            let error = ProxyTls::new(Some(name), None).unwrap_err();
            assert_eq!(error, ProxyError::ServerName(name.into()));
        }
        for text in [String::new(), "x".repeat(AUTHORITIES_MAX + 1)] {
            assert_eq!(ProxyTls::new(None, Some(text)).unwrap_err(), ProxyError::Authorities);
        }
    }
}
