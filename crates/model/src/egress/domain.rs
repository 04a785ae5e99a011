//! Names of hosts, and patterns of them.

use std::fmt;
use std::str::FromStr;

/// Text that is no name of a host, or no pattern of names.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} must be a domain name such as example.com, or *.example.com for those below it")]
pub struct DomainError(String);

/// Bytes of a name, and of one of its parts (RFC 1035, 2.3.4).
const NAME_MAX: usize = 253;
const LABEL_MAX: usize = 63;

/// The name of a host: in lower case, without the dot at the end, and no address.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct HostName(String);

impl HostName {
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for HostName {
    type Err = DomainError;

    /// An underscore is no part of a host's name by the book, and of some in the world.
    fn from_str(text: &str) -> Result<Self, DomainError> {
        let name = text.strip_suffix('.').unwrap_or(text);
        let is_part = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
        let is_label = |label: &str| {
            (1..=LABEL_MAX).contains(&label.len())
                && !label.starts_with('-')
                && !label.ends_with('-')
                && label.bytes().all(is_part)
        };
        // Where names end in a number, resolvers read addresses: 1.2.3.4, 0x7f.1, 2130706433.
        let is_number = |label: &str| label.starts_with(|first: char| first.is_ascii_digit());
        let last = name.rsplit('.').next().unwrap_or_default();
        if name.len() <= NAME_MAX && name.split('.').all(is_label) && !is_number(last) {
            Ok(Self(name.to_ascii_lowercase()))
        } else {
            Err(DomainError(text.chars().take(NAME_MAX).collect()))
        }
    }
}

impl fmt::Display for HostName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// One name, or every name below one.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DomainPattern {
    name: HostName,
    below: bool,
}

impl DomainPattern {
    /// `*.example.com` matches names of any depth below `example.com`, and not that itself.
    #[must_use]
    pub fn matches(&self, name: &HostName) -> bool {
        if !self.below {
            return *name == self.name;
        }
        let before = name.0.strip_suffix(&self.name.0).and_then(|rest| rest.strip_suffix('.'));
        before.is_some_and(|before| !before.is_empty())
    }

    /// The greater of two patterns that match a name says more of it.
    pub(super) fn rank(&self) -> (bool, usize) {
        (!self.below, self.name.0.len())
    }
}

impl FromStr for DomainPattern {
    type Err = DomainError;

    fn from_str(text: &str) -> Result<Self, DomainError> {
        let (name, below) = match text.strip_prefix("*.") {
            Some(name) => (name, true),
            None => (text, false),
        };
        let name =
            name.parse().map_err(|_problem| DomainError(text.chars().take(NAME_MAX).collect()))?;
        Ok(Self { name, below })
    }
}

impl fmt::Display for DomainPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let before = if self.below { "*." } else { "" };
        write!(f, "{before}{}", self.name)
    }
}

#[cfg(test)]
mod tests {
    use super::{DomainPattern, HostName};

    #[test]
    fn a_name_is_told_from_an_address_and_from_nonsense() {
        for (text, shown) in [
            ("Example.COM", "example.com"),
            ("a.b-c.example.", "a.b-c.example"),
            ("_dmarc.example", "_dmarc.example"),
            ("localhost", "localhost"),
            ("1.2.3.com", "1.2.3.com"),
        ] {
            assert_eq!(text.parse::<HostName>().unwrap().to_string(), shown);
        }
        let long = format!("{}.com", "a.".repeat(130));
        for text in [
            "",
            ".",
            "a..b",
            "-a.com",
            "a-.com",
            "a b.com",
            "*.a.com",
            "1.2.3.4",
            "0x7f.1",
            "2130706433",
            "[::1]",
            "a.com:80",
            "b\u{fc}cher.de",
            "a/b",
            "a\0.com",
            &long,
        ] {
            text.parse::<HostName>().unwrap_err();
        }
        let label = "a".repeat(63);
        format!("{label}.com").parse::<HostName>().unwrap();
        format!("{label}a.com").parse::<HostName>().unwrap_err();
    }

    #[test]
    fn a_star_stands_for_names_of_any_depth_below() {
        let matches = |pattern: &str, name: &str| {
            let pattern: DomainPattern = pattern.parse().unwrap();
            pattern.matches(&name.parse().unwrap())
        };
        assert!(matches("example.com", "EXAMPLE.com."));
        assert!(!matches("example.com", "a.example.com"));
        for name in ["a.example.com", "a.b.example.com"] {
            assert!(matches("*.Example.com", name), "{name}");
        }
        for name in ["example.com", "badexample.com", "a.example.com.evil.net", "example.com.a"] {
            assert!(!matches("*.example.com", name), "{name}");
        }
        for text in ["*", "*.", "a.*.com", "*a.com", "**.com", "*.*.com", "*.1.2.3.4"] {
            let error = text.parse::<DomainPattern>().unwrap_err();
            assert!(error.to_string().contains("*.example.com"), "{text}");
        }
        assert_eq!("*.Example.com.".parse::<DomainPattern>().unwrap().to_string(), "*.example.com");
    }
}
