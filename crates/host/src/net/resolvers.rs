use std::fs;
use std::net::{IpAddr, Ipv4Addr};

/// What a host without a usable resolver falls back to: two public ones.
const FALLBACK: [Ipv4Addr; 2] = [Ipv4Addr::new(1, 1, 1, 1), Ipv4Addr::new(8, 8, 8, 8)];

/// At most this many are used: resolv.conf(5) reads no more.
const MAX: usize = 3;

/// The name servers a sandbox can use: the host's own, or those behind its local stub.
///
/// A stub on a loopback address cannot be reached from another network namespace; systemd keeps
/// the list behind its stub in `/run/systemd/resolve/resolv.conf`.
#[must_use]
pub fn resolvers() -> Vec<Ipv4Addr> {
    for file in ["/etc/resolv.conf", "/run/systemd/resolve/resolv.conf"] {
        let found = fs::read_to_string(file).map(|text| parse(&text)).unwrap_or_default();
        if !found.is_empty() {
            return found;
        }
    }
    FALLBACK.to_vec()
}

fn parse(text: &str) -> Vec<Ipv4Addr> {
    text.lines()
        .filter_map(|line| line.trim().strip_prefix("nameserver")?.trim().parse().ok())
        .filter_map(|address: IpAddr| match address {
            IpAddr::V4(v4) if !v4.is_loopback() && !v4.is_unspecified() => Some(v4),
            IpAddr::V4(_) | IpAddr::V6(_) => None,
        })
        .take(MAX)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn loopback_stubs_comments_and_other_lines_are_left_out() {
        let text = "# c\nsearch x\nnameserver 127.0.0.53\nnameserver ::1\n nameserver\t9.9.9.9 \n";
        assert_eq!(parse(text), [std::net::Ipv4Addr::new(9, 9, 9, 9)]);
        assert!(parse("nameserver 0.0.0.0\nnameserver bad\n").is_empty());
    }
}
