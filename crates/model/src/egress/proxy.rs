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
}

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

/// A SOCKS5 proxy (RFC 1928).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SocksProxy {
    at: At,
    port: u16,
    credentials: Option<Credentials>,
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
        Ok(Self { at, port, credentials })
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
    let at = match host.parse() {
        Ok(address) => At::Address(address),
        Err(_) => At::Name(host.parse().map_err(|_problem| wrong())?),
    };
    Ok((at, port))
}

/// `host:port`, as it was named.
impl fmt::Display for SocksProxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.at {
            At::Name(name) => write!(f, "{name}:{}", self.port),
            At::Address(address) => write!(f, "{address}:{}", self.port),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{ProxyError, SocksProxy};
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
}
