//! The rules of a sandbox for connections to the outside.

use std::net::Ipv4Addr;

use e2b_wire::{EgressProxyConfig, EgressProxyTls, NetworkConfig, NetworkRule, NetworkRules};
use http::{HeaderName, HeaderValue};
use model::{
    ALWAYS_DENIED, DomainPattern, Egress, HeaderRule, Ipv4Range, ProxyError, ProxyTls,
    RequestPattern, Secret, SocksProxy,
};
use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

use crate::http::ApiError;

/// Entries of one list.
const ENTRIES_MAX: usize = 256;
/// E2B's limit of name servers.
const DNS_SERVERS_MAX: usize = 10;
/// E2B's limits of rules for requests: domains, bytes of one, headers, bytes of a name and a value.
const DOMAINS_MAX: usize = 10;
const DOMAIN_MAX: usize = 128;
const HEADERS_MAX: usize = 20;
const NAME_MAX: usize = 64;
const VALUE_MAX: usize = 2048;
/// How a value begins that E2B's proxy puts a secret or a token in the place of.
const PLACEHOLDER: &str = "${e2b.";
/// What is the connection's, and not the request's.
const FRAMING: [&str; 9] = [
    "connection",
    "content-length",
    "host",
    "keep-alive",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// Reads them.
///
/// # Errors
/// 400 when one makes no sense or cannot be kept.
pub(crate) fn egress(network: &NetworkConfig) -> Result<Egress, ApiError> {
    let allow = network.allow_out.as_deref().unwrap_or_default();
    let deny = network.deny_out.as_deref().unwrap_or_default();
    if allow.len() > ENTRIES_MAX || deny.len() > ENTRIES_MAX {
        let message =
            format!("network: allowOut and denyOut have at most {ENTRIES_MAX} entries each");
        return Err(ApiError::bad_request(message));
    }
    let deny: Vec<Ipv4Range> = deny.iter().map(|entry| denied(entry)).collect::<Result<_, _>>()?;
    let mut egress = Egress { deny, ..Egress::default() };
    for entry in allow {
        match allowed(entry)? {
            Allowed::Range(range) => egress.allow.push(range),
            Allowed::Domain(domain) => egress.domains.push(domain),
        }
    }
    // Without it a name would allow what is allowed already: somebody has forgotten it.
    if !egress.domains.is_empty() && !egress.deny.contains(&Ipv4Range::ALL) {
        let message = "network.allowOut: a domain name needs denyOut with 0.0.0.0/0, which denies \
                       what is not allowed";
        return Err(ApiError::bad_request(message));
    }
    if !egress.domains.is_empty() {
        egress.name_servers = dns_servers(network)?;
        let servers = egress.name_servers.iter().flatten();
        egress.allow.extend(servers.map(|server| Ipv4Range::new(*server, 32)));
    }
    egress.proxy = network.egress_proxy.as_ref().map(proxy).transpose()?.flatten();
    egress.headers = network.rules.as_ref().map(headers).transpose()?.unwrap_or_default();
    Ok(egress)
}

enum Allowed {
    Range(Ipv4Range),
    Domain(DomainPattern),
}

fn allowed(entry: &str) -> Result<Allowed, ApiError> {
    if let Ok(range) = entry.parse() {
        return Ok(Allowed::Range(range));
    }
    // Whoever means an address is told of addresses: one of the other kind has colons.
    let is_address = entry.contains([':', '/']) || entry.starts_with(|c: char| c.is_ascii_digit());
    let problem = match (entry.parse(), entry.parse::<Ipv4Range>()) {
        (Ok(domain), _) => return Ok(Allowed::Domain(domain)),
        (Err(_), Err(problem)) if is_address => problem.to_string(),
        (Err(problem), _) => problem.to_string(),
    };
    Err(ApiError::bad_request(format!("network.allowOut: {problem}")))
}

fn denied(entry: &str) -> Result<Ipv4Range, ApiError> {
    let problem = |problem| ApiError::bad_request(format!("network.denyOut: {problem}"));
    entry.parse().map_err(problem)
}

/// The name servers that can be asked instead of the node's.
fn dns_servers(network: &NetworkConfig) -> Result<Option<Vec<Ipv4Addr>>, ApiError> {
    let Some(servers) = &network.dns_servers else { return Ok(None) };
    if servers.len() > DNS_SERVERS_MAX {
        let message = format!("network.dnsServers has at most {DNS_SERVERS_MAX} entries");
        return Err(ApiError::bad_request(message));
    }
    let read = |text: &String| {
        text.parse().map_err(|_no_address| {
            let message = format!("network.dnsServers: {text:?} must be an IPv4 address");
            ApiError::bad_request(message)
        })
    };
    servers.iter().map(read).collect::<Result<_, _>>().map(Some)
}

/// `None` of one that asks for nothing.
fn proxy(config: &EgressProxyConfig) -> Result<Option<SocksProxy>, ApiError> {
    if *config == EgressProxyConfig::default() {
        return Ok(None);
    }
    let wrong = |problem| ApiError::bad_request(format!("network.egressProxy: {problem}"));
    let password = config.password.clone().map(Secret::new);
    let proxy =
        SocksProxy::new(&config.address, config.username.clone(), password).map_err(wrong)?;
    let proxy = proxy.in_tls(config.tls.as_ref().map(proxy_tls).transpose()?.flatten());
    let address = proxy.address().map(|address| Ipv4Range::new(address, 32));
    if address.is_some_and(|address| ALWAYS_DENIED.iter().any(|range| range.contains(address))) {
        let message = format!("network.egressProxy: no sandbox reaches {proxy}");
        return Err(ApiError::bad_request(message));
    }
    Ok(Some(proxy))
}

/// Checks what a new request asks for. Of one that was taken before these were checks, a sandbox goes on
/// as it was.
///
/// # Errors
/// 400 when TLS with the proxy is described and not switched on: whoever names a certificate does not mean
/// to send the password in the clear. 400 for name servers that are none, even where none are asked.
pub(crate) fn check_egress(network: &NetworkConfig) -> Result<(), ApiError> {
    let tls = network.egress_proxy.as_ref().and_then(|proxy| proxy.tls.as_ref());
    let is_off = |tls: &EgressProxyTls| !tls.enabled && *tls != EgressProxyTls::default();
    if tls.is_some_and(is_off) {
        let message = "network.egressProxy.tls: serverName and caCert need enabled: true";
        return Err(ApiError::bad_request(message));
    }
    dns_servers(network).map(drop)
}

/// `None` of what is switched off.
fn proxy_tls(config: &EgressProxyTls) -> Result<Option<ProxyTls>, ApiError> {
    let wrong = |what: String| ApiError::bad_request(format!("network.egressProxy.tls: {what}"));
    if !config.enabled {
        return Ok(None);
    }
    let checked = |problem: ProxyError| wrong(problem.to_string());
    let tls = ProxyTls::new(config.server_name.as_deref(), config.ca_cert.clone());
    let tls = tls.map_err(checked)?;
    if let Some(text) = tls.authorities() {
        let mut authorities = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(text.as_bytes()) {
            let certificate = certificate.map_err(|odd| wrong(format!("caCert: {odd}")))?;
            authorities.add(certificate).map_err(|odd| wrong(format!("caCert: {odd}")))?;
        }
        if authorities.is_empty() {
            return Err(wrong("caCert: there is no certificate in it; it must be PEM".into()));
        }
    }
    Ok(Some(tls))
}

fn headers(rules: &NetworkRules) -> Result<Vec<HeaderRule>, ApiError> {
    let wrong = |what: String| ApiError::bad_request(format!("network.rules: {what}"));
    if rules.len() > DOMAINS_MAX {
        return Err(wrong(format!("there are at most {DOMAINS_MAX} domains")));
    }
    let mut read = Vec::new();
    for (key, rules) in rules {
        if key.len() > DOMAIN_MAX || rules.len() > 1 {
            let message = format!("{key:?} has at most {DOMAIN_MAX} bytes and one rule");
            return Err(wrong(message));
        }
        let requests: RequestPattern =
            key.parse().map_err(|problem| wrong(format!("{problem}")))?;
        if read.iter().any(|known: &HeaderRule| known.requests == requests) {
            return Err(wrong(format!(
                "{requests} is there twice: upper and lower case are the same"
            )));
        }
        let headers = rules.iter().map(|rule| transform(key, rule).map_err(wrong));
        let headers: Vec<_> = headers.collect::<Result<_, _>>()?;
        read.push(HeaderRule { requests, headers: headers.concat() });
    }
    Ok(read)
}

fn transform(key: &str, rule: &NetworkRule) -> Result<Vec<(String, Secret)>, String> {
    let headers = rule.transform.as_ref().and_then(|transform| transform.headers.as_ref());
    let headers = headers.map(|headers| headers.iter().collect::<Vec<_>>()).unwrap_or_default();
    if headers.len() > HEADERS_MAX {
        return Err(format!("{key:?} has at most {HEADERS_MAX} headers"));
    }
    let mut read: Vec<(String, Secret)> = Vec::new();
    for (name, value) in headers {
        let lower = name.to_ascii_lowercase();
        if value.contains(PLACEHOLDER) {
            return Err(format!(
                "{key:?}: the header {name:?} has a placeholder, and there are no secrets here to \
                 put in its place; give the value itself"
            ));
        }
        if name.len() > NAME_MAX || HeaderName::from_bytes(lower.as_bytes()).is_err() {
            return Err(format!("{key:?}: {name:?} is no name of a header of {NAME_MAX} bytes"));
        }
        if FRAMING.contains(&lower.as_str()) {
            return Err(format!("{key:?}: the header {name:?} belongs to the connection"));
        }
        if value.len() > VALUE_MAX || HeaderValue::from_str(value).is_err() {
            let message = format!("{key:?}: the header {name:?} has no value of {VALUE_MAX} bytes");
            return Err(message);
        }
        if read.iter().any(|(known, _)| *known == lower) {
            return Err(format!("{key:?} has the header {name:?} twice"));
        }
        read.push((lower, Secret::new(value.clone())));
    }
    Ok(read)
}
