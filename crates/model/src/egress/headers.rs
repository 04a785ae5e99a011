//! Which requests are given headers.

use std::fmt;
use std::str::FromStr;

use super::{DomainError, DomainPattern, HostName};
use crate::Secret;

/// How a request is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Scheme {
    Http,
    Https,
}

/// What a pattern begins with that is for plain HTTP alone: nobody then looks into HTTPS.
const PLAIN: &str = "http://";

/// Requests by the domain they are for: `a.com` and `*.a.com`, and `http://a.com` for those of plain
/// HTTP only.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RequestPattern {
    domain: DomainPattern,
    only_plain: bool,
}

impl RequestPattern {
    /// Requests of plain HTTP to `domain`.
    #[must_use]
    pub fn only_plain(domain: DomainPattern) -> Self {
        Self { domain, only_plain: true }
    }

    #[must_use]
    pub fn is_for(&self, scheme: Scheme) -> bool {
        scheme == Scheme::Http || !self.only_plain
    }

    #[must_use]
    pub fn matches(&self, scheme: Scheme, name: &HostName) -> bool {
        self.is_for(scheme) && self.domain.matches(name)
    }

    /// The greater of two patterns that match a request says more of it.
    pub(super) fn rank(&self) -> ((bool, usize), bool) {
        (self.domain.rank(), self.only_plain)
    }
}

impl FromStr for RequestPattern {
    type Err = DomainError;

    fn from_str(text: &str) -> Result<Self, DomainError> {
        let (domain, only_plain) = match text.strip_prefix(PLAIN) {
            Some(domain) => (domain, true),
            None => (text, false),
        };
        Ok(Self { domain: domain.parse()?, only_plain })
    }
}

impl fmt::Display for RequestPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let before = if self.only_plain { PLAIN } else { "" };
        write!(f, "{before}{}", self.domain)
    }
}

/// Headers that requests are given, instead of what they have of the same names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeaderRule {
    pub requests: RequestPattern,
    /// Names in lower case. Values are credentials as often as not.
    pub headers: Vec<(String, Secret)>,
}

#[cfg(test)]
mod tests {
    use super::{HeaderRule, RequestPattern, Scheme};
    use crate::{Egress, HostName, Secret};

    fn rules(requests: &[&str]) -> Egress {
        let rule = |requests: &&str| HeaderRule {
            requests: requests.parse().unwrap(),
            headers: vec![("x".into(), Secret::new((*requests).into()))],
        };
        Egress { headers: requests.iter().map(rule).collect(), ..Egress::default() }
    }

    fn found(egress: &Egress, scheme: Scheme, name: &str) -> Option<String> {
        let name: HostName = name.parse().unwrap();
        egress.headers_for(scheme, &name).map(|rule| rule.requests.to_string())
    }

    #[test]
    fn a_name_beats_patterns_and_a_longer_pattern_beats_a_shorter_one() {
        let egress = rules(&["*.com", "*.b.com", "a.b.com"]);
        assert!(!egress.is_by_address() && Egress::default().is_by_address());
        for (name, rule) in [
            ("a.b.com", Some("a.b.com")),
            ("c.b.com", Some("*.b.com")),
            ("b.com", Some("*.com")),
            ("com", None),
        ] {
            for scheme in [Scheme::Http, Scheme::Https] {
                assert_eq!(found(&egress, scheme, name).as_deref(), rule, "{name}");
            }
        }
    }

    #[test]
    fn what_is_for_plain_requests_says_nothing_of_others() {
        let egress = rules(&["http://*.a.com", "*.com"]);
        let plain = found(&egress, Scheme::Http, "b.a.com");
        assert_eq!(plain.as_deref(), Some("http://*.a.com"));
        assert_eq!(found(&egress, Scheme::Https, "b.a.com").as_deref(), Some("*.com"));
        let both = found(&rules(&["a.com", "http://a.com"]), Scheme::Http, "a.com");
        assert_eq!(both.as_deref(), Some("http://a.com"));
        assert!(egress.changes_https() && !rules(&["http://a.com"]).changes_https());
        assert!(!Egress::default().changes_https());
    }

    #[test]
    fn a_pattern_of_requests_is_written_as_it_is_read() {
        for text in ["a.com", "*.a.com", "http://a.com", "http://*.a.com"] {
            assert_eq!(text.parse::<RequestPattern>().unwrap().to_string(), text);
        }
        for text in ["https://a.com", "http://", "http://http://a.com", "*", "http://1.2.3.4", ""] {
            text.parse::<RequestPattern>().unwrap_err();
        }
    }
}
