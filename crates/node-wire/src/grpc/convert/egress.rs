//! Rules for connections to the outside, in our own messages and in E2B's.

use std::net::Ipv4Addr;
use std::str::FromStr;

use model::{
    DomainError, DomainPattern, Egress, HeaderRule, Ipv4Range, ProxyError, ProxyTls, Secret,
    SocksProxy,
};

use super::Malformed;
use crate::grpc::proto::cofferdam::node::v1;
use crate::grpc::proto::{
    SandboxNetworkDomainRules, SandboxNetworkEgressConfig, SandboxNetworkNameServers,
    SandboxNetworkRule, SandboxNetworkTransform,
};

/// Puts `egress` into the message of a spec.
pub(super) fn put(egress: &Egress, message: &mut v1::SandboxSpec) {
    message.allow_out = texts(&egress.allow);
    message.deny_out = texts(&egress.deny);
    message.allow_domains = egress.domains.iter().map(ToString::to_string).collect();
    let name_servers = egress.name_servers.as_ref().map(|servers| v1::NameServers {
        addresses: servers.iter().map(ToString::to_string).collect(),
        ..v1::NameServers::default()
    });
    message.name_servers = name_servers.into();
    let proxy = egress.proxy.as_ref().map(|proxy| v1::EgressProxy {
        address: address(proxy),
        username: proxy.credentials().map(|caller| caller.username.clone()),
        password: password(proxy).map(str::to_owned),
        server_name: proxy.tls().and_then(ProxyTls::server_name),
        authorities: authorities(proxy),
        ..v1::EgressProxy::default()
    });
    message.egress_proxy = proxy.into();
    let rule = |rule: &HeaderRule| v1::HeaderRule {
        domain: rule.requests.to_string(),
        headers: exposed(rule),
        ..v1::HeaderRule::default()
    };
    message.header_rules = egress.headers.iter().map(rule).collect();
}

/// The rules in the message of a spec.
pub(super) fn take(message: &v1::SandboxSpec) -> Result<Egress, Malformed> {
    let proxy = message.egress_proxy.as_option().map(|told| {
        let password = told.password.clone().map(Secret::new);
        let known = SocksProxy::new(plain(&told.address), told.username.clone(), password)?;
        in_tls(known, &told.address, told.server_name.as_deref(), told.authorities.clone())
    });
    let proxy: Result<_, ProxyError> = proxy.transpose();
    let servers = message.name_servers.as_option();
    let servers = servers.map(|servers| name_servers("spec.name_servers", &servers.addresses));
    let rule = |rule: &v1::HeaderRule| {
        Ok(HeaderRule {
            requests: parsed("spec.header_rules", &rule.domain)?,
            headers: hidden(&rule.headers),
        })
    };
    Ok(Egress {
        allow: ranges("spec.allow_out", &message.allow_out)?,
        deny: ranges("spec.deny_out", &message.deny_out)?,
        domains: domains("spec.allow_domains", &message.allow_domains)?,
        name_servers: servers.transpose()?,
        proxy: proxy.map_err(|error| Malformed::new("spec.egress_proxy", error.to_string()))?,
        headers: message.header_rules.iter().map(rule).collect::<Result<_, _>>()?,
    })
}

/// `egress` as E2B's control plane tells it.
pub(in crate::grpc) fn to_e2b(egress: &Egress) -> SandboxNetworkEgressConfig {
    let rules = |rule: &HeaderRule| {
        let transform = SandboxNetworkTransform {
            headers: exposed(rule),
            ..SandboxNetworkTransform::default()
        };
        let rule_of = SandboxNetworkRule {
            transform: Some(transform).into(),
            ..SandboxNetworkRule::default()
        };
        let rules = vec![rule_of];
        let rules = SandboxNetworkDomainRules { rules, ..SandboxNetworkDomainRules::default() };
        (rule.requests.to_string(), rules)
    };
    let servers = |servers: &Vec<Ipv4Addr>| SandboxNetworkNameServers {
        addresses: servers.iter().map(ToString::to_string).collect(),
        ..SandboxNetworkNameServers::default()
    };
    let proxy = egress.proxy.as_ref();
    let caller = proxy.and_then(SocksProxy::credentials);
    SandboxNetworkEgressConfig {
        allowed_cidrs: texts(&egress.allow),
        denied_cidrs: texts(&egress.deny),
        allowed_domains: egress.domains.iter().map(ToString::to_string).collect(),
        rules: egress.headers.iter().map(rules).collect(),
        egress_proxy_address: proxy.map(address).unwrap_or_default(),
        egress_proxy_username: caller.map(|caller| caller.username.clone()).unwrap_or_default(),
        egress_proxy_password: proxy.and_then(password).unwrap_or_default().to_owned(),
        egress_proxy_server_name: proxy.and_then(|proxy| proxy.tls()?.server_name()),
        egress_proxy_authorities: proxy.and_then(authorities),
        name_servers: egress.name_servers.as_ref().map(servers).into(),
        ..SandboxNetworkEgressConfig::default()
    }
}

/// What E2B's control plane tells of rules.
pub(in crate::grpc) fn from_e2b(rules: &SandboxNetworkEgressConfig) -> Result<Egress, Malformed> {
    let given = |text: &String| Some(text.clone()).filter(|text| !text.is_empty());
    let proxy = given(&rules.egress_proxy_address).map(|address| {
        let username = given(&rules.egress_proxy_username);
        let password = given(&rules.egress_proxy_password).map(Secret::new);
        let server_name = rules.egress_proxy_server_name.as_deref();
        let known = SocksProxy::new(plain(&address), username, password)?;
        in_tls(known, &address, server_name, rules.egress_proxy_authorities.clone())
    });
    let proxy: Result<_, ProxyError> = proxy.transpose();
    let odd = |error: ProxyError| Malformed::new("network.egress.egress_proxy", error.to_string());
    let servers = rules.name_servers.as_option();
    let servers =
        servers.map(|servers| name_servers("network.egress.name_servers", &servers.addresses));
    let mut headers = Vec::new();
    for (name, of_domain) in &rules.rules {
        let requests = parsed("network.egress.rules", name)?;
        let transforms = of_domain.rules.iter().filter_map(|rule| rule.transform.as_option());
        let of_all = transforms.flat_map(|transform| hidden(&transform.headers)).collect();
        headers.push(HeaderRule { requests, headers: of_all });
    }
    // A map has no order, and what is told twice should be the same.
    headers.sort_by(|one: &HeaderRule, other| one.requests.cmp(&other.requests));
    Ok(Egress {
        allow: ranges("network.egress.allowed_cidrs", &rules.allowed_cidrs)?,
        deny: ranges("network.egress.denied_cidrs", &rules.denied_cidrs)?,
        domains: domains("network.egress.allowed_domains", &rules.allowed_domains)?,
        name_servers: servers.transpose()?,
        proxy: proxy.map_err(odd)?,
        headers,
    })
}

fn texts(ranges: &[Ipv4Range]) -> Vec<String> {
    ranges.iter().map(ToString::to_string).collect()
}

fn ranges(field: &'static str, texts: &[String]) -> Result<Vec<Ipv4Range>, Malformed> {
    let range = |text: &String| {
        text.parse().map_err(|error| Malformed::new(field, format!("is not legal: {error}")))
    };
    texts.iter().map(range).collect()
}

fn name_servers(field: &'static str, texts: &[String]) -> Result<Vec<Ipv4Addr>, Malformed> {
    let odd = |_odd| Malformed::new(field, "is no IPv4 address".to_owned());
    texts.iter().map(|text| text.parse().map_err(odd)).collect()
}

/// Before the address of a proxy that is spoken to in TLS.
const IN_TLS: &str = "tls://";

fn address(proxy: &SocksProxy) -> String {
    let mark = if proxy.tls().is_some() { IN_TLS } else { "" };
    format!("{mark}{proxy}")
}

fn authorities(proxy: &SocksProxy) -> Option<String> {
    proxy.tls()?.authorities().map(str::to_owned)
}

fn plain(address: &str) -> &str {
    address.strip_prefix(IN_TLS).unwrap_or(address)
}

fn in_tls(
    proxy: SocksProxy,
    address: &str,
    server_name: Option<&str>,
    authorities: Option<String>,
) -> Result<SocksProxy, ProxyError> {
    let tls = address.starts_with(IN_TLS).then(|| ProxyTls::new(server_name, authorities));
    Ok(proxy.in_tls(tls.transpose()?))
}

/// An empty one is as good as none, and is not let through by [`SocksProxy::new`].
fn password(proxy: &SocksProxy) -> Option<&str> {
    let caller = proxy.credentials()?;
    Some(caller.password.expose()).filter(|password| !password.is_empty())
}

fn domains(field: &'static str, texts: &[String]) -> Result<Vec<DomainPattern>, Malformed> {
    texts.iter().map(|text| parsed(field, text)).collect()
}

fn parsed<T: FromStr<Err = DomainError>>(field: &'static str, text: &str) -> Result<T, Malformed> {
    text.parse().map_err(|error| Malformed::new(field, format!("is not legal: {error}")))
}

fn exposed<M: FromIterator<(String, String)>>(rule: &HeaderRule) -> M {
    rule.headers.iter().map(|(name, value)| (name.clone(), value.expose().to_owned())).collect()
}

fn hidden<'a, M>(headers: M) -> Vec<(String, Secret)>
where
    M: IntoIterator<Item = (&'a String, &'a String)>,
{
    let header =
        |(name, value): (&String, &String)| (name.to_ascii_lowercase(), Secret::new(value.clone()));
    headers.into_iter().map(header).collect()
}
