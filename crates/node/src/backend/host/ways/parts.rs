//! What of a sandbox's rules its own network carries out, and what the proxy.

use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::Arc;

use egress::Sockets;
use host::net::{Handover, Redirect, Subnet};
use model::{Egress, Ipv4Range};

/// Rules that need the proxy.
#[derive(Debug)]
pub(super) struct Parts {
    /// The proxy's: its name servers are those that are asked through it, for names that are allowed.
    pub(super) rules: Egress,
    /// Those that programs ask themselves, for whatever they want to know.
    resolvers: Vec<Ipv4Addr>,
    asked: Vec<Ipv4Addr>,
    open: Vec<Subnet>,
    closed: Vec<Subnet>,
}

impl Parts {
    /// Those of `rules`, on a node with these name servers.
    ///
    /// Where names are allowed, name servers are asked for those alone: any other name could be a message
    /// to whoever has it. Who allows the address of one of the node's trusts it, and it is asked
    /// directly, as is every server that is allowed by its address and no name server of the rules.
    pub(super) fn of(rules: &Egress, nodes: &[Ipv4Addr]) -> Self {
        let is_permitted = |at: &Ipv4Addr| rules.permits(*at);
        let (resolvers, asked) = match &rules.name_servers {
            _ if rules.domains.is_empty() => {
                (nodes.iter().copied().filter(is_permitted).collect(), Vec::new())
            }
            // They are in `allow`, too: all that they serve but names stays open.
            Some(own) => (Vec::new(), own.clone()),
            None => nodes.iter().copied().partition(is_permitted),
        };
        let (open, closed) = subnets(rules);
        let rules = Egress { name_servers: Some(asked.clone()), ..rules.clone() };
        Self { rules, resolvers, asked, open, closed }
    }

    pub(super) fn handover(&self) -> Handover<'_> {
        let Self { rules, resolvers, asked, open, closed } = self;
        Handover {
            everything: rules.proxy.is_some() || !rules.headers.is_empty(),
            only_tcp: rules.proxy.is_some(),
            resolvers,
            asked,
            open,
            closed,
        }
    }
}

/// What is open by address, and what is not.
pub(super) fn subnets(rules: &Egress) -> (Vec<Subnet>, Vec<Subnet>) {
    let subnet = |range: Ipv4Range| Subnet { first: range.first(), prefix_len: range.prefix_len() };
    (rules.allow.iter().copied().map(subnet).collect(), rules.denied().map(subnet).collect())
}

/// A sandbox's network, as the proxy needs it.
#[derive(Debug)]
pub(super) struct Network(pub(super) Arc<Redirect>);

impl Sockets for Network {
    fn open(&self) -> io::Result<OwnedFd> {
        self.0.open()
    }

    fn open_for_packets(&self) -> io::Result<OwnedFd> {
        self.0.open_for_packets()
    }

    fn origin(&self, accepted: BorrowedFd<'_>) -> io::Result<SocketAddrV4> {
        Redirect::origin(accepted)
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use model::{Egress, Ipv4Range, SocksProxy};

    use super::Parts;

    const NODES: [Ipv4Addr; 2] = [Ipv4Addr::new(1, 1, 1, 1), Ipv4Addr::new(8, 8, 8, 8)];

    /// Who is asked directly and who through the proxy.
    fn servers(rules: &Egress) -> (Vec<Ipv4Addr>, Vec<Ipv4Addr>) {
        let parts = Parts::of(rules, &NODES);
        let handover = parts.handover();
        assert_eq!(parts.rules.name_servers.as_deref(), Some(handover.asked));
        (handover.resolvers.to_vec(), handover.asked.to_vec())
    }

    fn only(address: Ipv4Addr) -> Ipv4Range {
        Ipv4Range::new(address, 32)
    }

    #[test]
    fn where_names_are_allowed_name_servers_are_asked_through_the_proxy() {
        let [one, two] = NODES;
        let named = Egress {
            deny: vec![Ipv4Range::ALL],
            domains: vec!["a.com".parse().unwrap()],
            ..Egress::default()
        };
        assert_eq!(servers(&named), (vec![], NODES.to_vec()));
        let trusted = Egress { allow: vec![only(one)], ..named.clone() };
        assert_eq!(servers(&trusted), (vec![one], vec![two]), "allowed by its address");
        let own = Ipv4Addr::new(9, 9, 9, 9);
        for (allow, servers_of_its_own) in [(vec![only(own)], vec![own]), (vec![], vec![])] {
            let name_servers = Some(servers_of_its_own.clone());
            let rules = Egress { allow, name_servers, ..named.clone() };
            assert_eq!(servers(&rules), (vec![], servers_of_its_own));
        }
        let proxy = SocksProxy::new("p:1", None, None).unwrap();
        let rules = Egress { proxy: Some(proxy), ..named };
        assert_eq!(servers(&rules), (vec![], NODES.to_vec()));
    }

    #[test]
    fn without_names_they_are_addresses_like_others() {
        let [one, two] = NODES;
        let proxy = Some(SocksProxy::new("p:1", None, None).unwrap());
        let through = Egress { proxy, ..Egress::default() };
        assert_eq!(servers(&through), (NODES.to_vec(), vec![]));
        let denied = Egress { deny: vec![only(one)], ..through };
        assert_eq!(servers(&denied), (vec![two], vec![]));
    }
}
