//! What the rules say of one connection.

use std::net::{Ipv4Addr, SocketAddrV4};

use model::{Egress, HostName, Ipv4Range, Scheme};

use crate::Refusal;

/// Where a connection goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Target {
    /// To the address it was for.
    Address(SocketAddrV4),
    /// To whatever has this name.
    Name { name: HostName, port: u16, only_permitted: OnlyPermitted },
}

/// Whether a name leads only to addresses that the rules by address let through: it is not itself
/// what is allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct OnlyPermitted(pub(crate) bool);

/// The rules of one sandbox, and where no sandbox gets.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rules<'a> {
    pub(crate) egress: &'a Egress,
    pub(crate) closed: &'a [Ipv4Range],
}

/// Whether the beginning of a connection is waited for before it is decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Look {
    /// Its address decides.
    No,
    /// Its name may be of use; one that says nothing for a moment goes by its address.
    Shortly,
    /// Only its name can let it through.
    Needed,
}

impl Rules<'_> {
    pub(crate) fn look(self, origin: SocketAddrV4) -> Look {
        let egress = self.egress;
        let goes_by_name = !egress.domains.is_empty() || egress.deny.is_empty();
        if !self.permits(*origin.ip()) {
            // Without names it is refused in any case: a request is told why.
            if egress.domains.is_empty() { Look::Shortly } else { Look::Needed }
        } else if !egress.headers.is_empty() || (egress.proxy.is_some() && goes_by_name) {
            Look::Shortly
        } else {
            Look::No
        }
    }

    /// Whether requests of HTTP must be understood one by one: the first is not the last, and the
    /// next may be for another name.
    pub(crate) fn look_at_each(self, origin: SocketAddrV4) -> bool {
        !self.egress.headers.is_empty() || !self.permits(*origin.ip())
    }

    /// Whether somebody stands between a program and the server `name` it speaks TLS with.
    pub(crate) fn intercepts(self, name: &HostName) -> bool {
        self.egress.headers_for(Scheme::Https, name).is_some()
    }

    /// Decides on a connection to `origin` that asks for `name`.
    pub(crate) fn decide(
        self,
        origin: SocketAddrV4,
        scheme: Scheme,
        name: Option<&HostName>,
    ) -> Result<Target, Refusal> {
        let port = origin.port();
        let to = |name: &HostName, only: bool| Target::Name {
            name: name.clone(),
            port,
            only_permitted: OnlyPermitted(only),
        };
        if let Some(name) = name.filter(|name| self.egress.names(name)) {
            return Ok(to(name, false));
        }
        if self.is_closed(*origin.ip()) {
            return Err(Refusal::Closed(*origin.ip()));
        }
        if !self.egress.permits(*origin.ip()) {
            return Err(match name {
                Some(name) => Refusal::Name(name.clone()),
                None => Refusal::Nameless,
            });
        }
        Ok(match name {
            // What is put into its requests is for the owner of the name, and for nobody else who
            // has an address that a program says is the name's.
            Some(name) if self.egress.headers_for(scheme, name).is_some() => to(name, true),
            // With nothing denied the proxy may as well look the name up where it is.
            Some(name) if self.egress.proxy.is_some() && self.egress.deny.is_empty() => {
                to(name, false)
            }
            _ => Target::Address(origin),
        })
    }

    /// Whether the rules by address let a connection to `address` through.
    pub(crate) fn permits(self, address: Ipv4Addr) -> bool {
        !self.is_closed(address) && self.egress.permits(address)
    }

    pub(crate) fn is_closed(self, address: Ipv4Addr) -> bool {
        self.closed.iter().any(|range| range.contains(Ipv4Range::new(address, 32)))
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddrV4;

    use model::{ALWAYS_DENIED, Egress, HeaderRule, HostName, Ipv4Range, Scheme, SocksProxy};

    use super::{Look, OnlyPermitted, Rules, Target};
    use crate::Refusal;

    fn rules(egress: &Egress) -> Rules<'_> {
        Rules { egress, closed: &ALWAYS_DENIED }
    }

    fn at(address: &str) -> SocketAddrV4 {
        SocketAddrV4::new(address.parse().unwrap(), 443)
    }

    fn name(text: &str) -> HostName {
        text.parse().unwrap()
    }

    fn by_name(text: &str, only: bool) -> Result<Target, Refusal> {
        let only_permitted = OnlyPermitted(only);
        Ok(Target::Name { name: name(text), port: 443, only_permitted })
    }

    fn named_only() -> Egress {
        Egress {
            allow: vec!["203.0.113.9".parse().unwrap()],
            deny: vec![Ipv4Range::ALL],
            domains: vec!["a.com".parse().unwrap(), "*.b.com".parse().unwrap()],
            ..Egress::default()
        }
    }

    #[test]
    fn an_allowed_name_counts_and_the_address_does_not() {
        let egress = named_only();
        let rules = rules(&egress);
        for address in ["203.0.113.1", "10.0.0.1", "127.0.0.1"] {
            assert_eq!(
                rules.decide(at(address), Scheme::Https, Some(&name("a.com"))),
                by_name("a.com", false)
            );
            assert_eq!(rules.look(at(address)), Look::Needed);
        }
        let other = name("evil.com");
        let refused = rules.decide(at("203.0.113.1"), Scheme::Https, Some(&other));
        assert_eq!(refused, Err(Refusal::Name(other.clone())));
        assert_eq!(rules.decide(at("203.0.113.1"), Scheme::Https, None), Err(Refusal::Nameless));
        let address = at("203.0.113.9");
        assert_eq!(
            rules.decide(address, Scheme::Https, Some(&other)),
            Ok(Target::Address(address))
        );
        assert_eq!((rules.look(address), rules.look_at_each(address)), (Look::No, false));
    }

    #[test]
    fn nothing_opens_what_is_closed_to_all() {
        let egress = Egress { allow: vec![Ipv4Range::ALL], ..Egress::default() };
        let refused = rules(&egress).decide(at("169.254.169.254"), Scheme::Https, None);
        assert_eq!(refused, Err(Refusal::Closed("169.254.169.254".parse().unwrap())));
    }

    #[test]
    fn a_proxy_is_told_names_where_they_cannot_be_used_to_get_around_a_rule() {
        let proxy = || Some(SocksProxy::new("p:1", None, None).unwrap());
        let address = at("203.0.113.1");
        let open = Egress { proxy: proxy(), ..Egress::default() };
        assert_eq!(
            rules(&open).decide(address, Scheme::Https, Some(&name("x.com"))),
            by_name("x.com", false)
        );
        assert_eq!(rules(&open).look(address), Look::Shortly);
        let some =
            Egress { deny: vec!["9.9.9.9".parse().unwrap()], proxy: proxy(), ..named_only() };
        let target = rules(&some).decide(address, Scheme::Https, Some(&name("x.com")));
        assert_eq!(target, Ok(Target::Address(address)));
        assert_eq!(
            rules(&some).decide(address, Scheme::Https, Some(&name("c.b.com"))),
            by_name("c.b.com", false)
        );
    }

    #[test]
    fn headers_go_to_whom_they_are_for_and_allow_nothing() {
        let rule = HeaderRule { requests: "c.com".parse().unwrap(), headers: Vec::new() };
        let headers = vec![rule];
        let address = at("203.0.113.1");
        let open = Egress { headers: headers.clone(), ..Egress::default() };
        assert_eq!(
            rules(&open).decide(address, Scheme::Https, Some(&name("c.com"))),
            by_name("c.com", true)
        );
        let target = rules(&open).decide(address, Scheme::Https, Some(&name("d.com")));
        assert_eq!(target, Ok(Target::Address(address)));
        assert!(rules(&open).look_at_each(address));
        assert!(
            rules(&open).intercepts(&name("c.com")) && !rules(&open).intercepts(&name("d.com"))
        );
        let closed = Egress { headers, ..named_only() };
        let refused = rules(&closed).decide(address, Scheme::Https, Some(&name("c.com")));
        assert_eq!(refused, Err(Refusal::Name(name("c.com"))));
    }
}
