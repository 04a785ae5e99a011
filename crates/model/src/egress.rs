//! Where a sandbox may open connections to.

use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

pub use domain::{DomainError, DomainPattern, HostName};
pub use headers::{HeaderRule, RequestPattern, Scheme};
pub use proxy::{AUTHORITIES_MAX, Credentials, ProxyError, ProxyTls, SocksProxy};

mod domain;
mod headers;
mod proxy;

/// Text that is no range of addresses.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} must be an IPv4 address, or one with the length of a prefix, such as 8.8.8.0/24")]
pub struct RangeError(String);

/// The IPv4 addresses with one prefix.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Ipv4Range {
    first: Ipv4Addr,
    prefix_len: u8,
}

impl Ipv4Range {
    /// Every address there is.
    pub const ALL: Self = Self { first: Ipv4Addr::UNSPECIFIED, prefix_len: 0 };

    /// The range of `prefix_len` bits that `address` is in. More than 32 bits count as 32.
    #[must_use]
    pub fn new(address: Ipv4Addr, prefix_len: u8) -> Self {
        let prefix_len = prefix_len.min(32);
        let first = Ipv4Addr::from_bits(address.to_bits() & mask(prefix_len));
        Self { first, prefix_len }
    }

    #[must_use]
    pub fn first(self) -> Ipv4Addr {
        self.first
    }

    #[must_use]
    pub fn prefix_len(self) -> u8 {
        self.prefix_len
    }

    /// Whether every address of `other` is in this one, too.
    #[must_use]
    pub fn contains(self, other: Self) -> bool {
        self.prefix_len <= other.prefix_len
            && other.first.to_bits() & mask(self.prefix_len) == self.first.to_bits()
    }
}

fn mask(prefix_len: u8) -> u32 {
    u32::MAX.checked_shl(32 - u32::from(prefix_len)).unwrap_or(0)
}

impl FromStr for Ipv4Range {
    type Err = RangeError;

    fn from_str(text: &str) -> Result<Self, RangeError> {
        let (address, len) = text.split_once('/').unwrap_or((text, "32"));
        let is_number = !len.is_empty() && len.bytes().all(|byte| byte.is_ascii_digit());
        let len = len.parse().ok().filter(|len| is_number && *len <= 32);
        match (address.parse(), len) {
            (Ok(address), Some(len)) => Ok(Self::new(address, len)),
            _ => Err(RangeError(text.to_owned())),
        }
    }
}

impl fmt::Display for Ipv4Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.first, self.prefix_len)
    }
}

/// Where no sandbox gets, whatever its rules: private, shared, loopback, link-local (metadata),
/// protocol assignment, benchmark, multicast and reserved networks, and the address at which Azure's
/// host serves its machines. The node's firewall has the same list, with its sources.
pub const ALWAYS_DENIED: [Ipv4Range; 12] = [
    fixed([0, 0, 0, 0], 8),
    fixed([10, 0, 0, 0], 8),
    fixed([100, 64, 0, 0], 10),
    fixed([127, 0, 0, 0], 8),
    fixed([169, 254, 0, 0], 16),
    fixed([168, 63, 129, 16], 32),
    fixed([172, 16, 0, 0], 12),
    fixed([192, 0, 0, 0], 24),
    fixed([192, 168, 0, 0], 16),
    fixed([198, 18, 0, 0], 15),
    fixed([224, 0, 0, 0], 4),
    fixed([240, 0, 0, 0], 4),
];

const fn fixed([a, b, c, d]: [u8; 4], prefix_len: u8) -> Ipv4Range {
    Ipv4Range { first: Ipv4Addr::new(a, b, c, d), prefix_len }
}

/// Rules for connections to the outside. Allowing beats denying, and what nothing is said of is
/// allowed; where no sandbox gets, no rule leads.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Egress {
    pub allow: Vec<Ipv4Range>,
    pub deny: Vec<Ipv4Range>,
    /// Names that are allowed, whatever their addresses are.
    pub domains: Vec<DomainPattern>,
    /// Those that can be asked where names are allowed, all of their ports; `None` are the node's.
    pub name_servers: Option<Vec<Ipv4Addr>>,
    /// Through which every connection goes.
    pub proxy: Option<SocksProxy>,
    /// They allow nothing by themselves.
    pub headers: Vec<HeaderRule>,
}

impl Egress {
    /// Whether addresses decide everything, so that nobody has to look into a connection.
    #[must_use]
    pub fn is_by_address(&self) -> bool {
        self.domains.is_empty() && self.proxy.is_none() && self.headers.is_empty()
    }

    /// Whether the rules by address let a connection to `address` through.
    #[must_use]
    pub fn permits(&self, address: Ipv4Addr) -> bool {
        let within = |ranges: &[Ipv4Range]| {
            ranges.iter().any(|range| range.contains(Ipv4Range::new(address, 32)))
        };
        within(&self.allow) || !within(&self.deny)
    }

    /// Whether `name` is among the names that are allowed.
    #[must_use]
    pub fn names(&self, name: &HostName) -> bool {
        self.domains.iter().any(|domain| domain.matches(name))
    }

    /// The headers of requests to `name`: those of the name itself, or else of the longest pattern
    /// that it matches. Those of several are not put together.
    #[must_use]
    pub fn headers_for(&self, scheme: Scheme, name: &HostName) -> Option<&HeaderRule> {
        let matching = self.headers.iter().filter(|rule| rule.requests.matches(scheme, name));
        matching.max_by_key(|rule| rule.requests.rank())
    }

    /// Whether there are headers for requests of HTTPS, so that somebody has to change those.
    #[must_use]
    pub fn changes_https(&self) -> bool {
        self.headers.iter().any(|rule| rule.requests.is_for(Scheme::Https))
    }

    /// The ranges that lead nowhere. Those in an allowed one are not among them, so of all ranges
    /// that have an address the longest prefix decides.
    pub fn denied(&self) -> impl Iterator<Item = Ipv4Range> + '_ {
        let is_allowed = |range| self.allow.iter().any(|allowed| allowed.contains(range));
        self.deny.iter().copied().filter(move |range| !is_allowed(*range))
    }
}

#[cfg(test)]
mod tests {
    use super::{ALWAYS_DENIED, Egress, Ipv4Range};

    fn ranges(texts: &[&str]) -> Vec<Ipv4Range> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn a_range_is_an_address_or_a_prefix() {
        for (text, shown) in [
            ("8.8.8.8", "8.8.8.8/32"),
            ("8.8.8.8/24", "8.8.8.0/24"),
            ("0.0.0.0/0", "0.0.0.0/0"),
            ("255.255.255.255/1", "128.0.0.0/1"),
        ] {
            assert_eq!(text.parse::<Ipv4Range>().unwrap().to_string(), shown);
        }
        for text in
            ["", "8.8.8", "8.8.8.8/", "8.8.8.8/33", "8.8.8.8/+8", "a.com", "::1", "1.1.1.1/8/8"]
        {
            let error = text.parse::<Ipv4Range>().unwrap_err();
            assert!(error.to_string().contains("8.8.8.0/24"), "{text}");
        }
    }

    #[test]
    fn a_range_contains_itself_and_what_is_narrower() {
        let [all, wide, narrow, other]: [Ipv4Range; 4] =
            ["0.0.0.0/0", "10.0.0.0/8", "10.1.0.0/16", "11.0.0.0/16"]
                .map(|text| text.parse().unwrap());
        assert_eq!(all, Ipv4Range::ALL);
        for range in [all, wide, narrow, other] {
            assert!(range.contains(range) && all.contains(range));
        }
        assert!(wide.contains(narrow));
        assert!(!narrow.contains(wide) && !wide.contains(other) && !wide.contains(all));
    }

    #[test]
    fn allowing_beats_denying_the_same_and_what_is_in_it() {
        let egress = Egress {
            allow: ranges(&["1.1.1.1", "9.0.0.0/8"]),
            deny: ranges(&["0.0.0.0/0", "1.1.1.1", "9.9.9.9", "1.1.1.0/24"]),
            ..Egress::default()
        };
        for (address, permitted) in [("1.1.1.1", true), ("1.1.1.2", false), ("9.9.9.9", true)] {
            assert_eq!(egress.permits(address.parse().unwrap()), permitted, "{address}");
        }
        let denied: Vec<_> = egress.denied().collect();
        assert_eq!(denied, ranges(&["0.0.0.0/0", "1.1.1.0/24"]));
    }

    #[test]
    fn the_ranges_that_are_always_denied_are_written_as_their_first_address() {
        for range in ALWAYS_DENIED {
            assert_eq!(range, Ipv4Range::new(range.first(), range.prefix_len()));
        }
    }
}
