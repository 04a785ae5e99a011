//! The sandbox's own address, from the kernel's routing table.

use std::net::Ipv4Addr;

/// The first IPv4 address of this machine that is not loopback.
pub(super) fn own_address() -> Option<Ipv4Addr> {
    parse(&std::fs::read_to_string("/proc/net/fib_trie").ok()?)
}

/// Leaves of the table are an address on one line and what it is on those below; an address of
/// the machine itself is a `host LOCAL`.
fn parse(table: &str) -> Option<Ipv4Addr> {
    let mut address = None;
    for line in table.lines().map(str::trim) {
        if let Some(leaf) = line.strip_prefix("|-- ") {
            address = leaf.parse::<Ipv4Addr>().ok();
        } else if line == "/32 host LOCAL"
            && let Some(own) = address.filter(|own| !own.is_loopback() && !own.is_link_local())
        {
            return Some(own);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str = "\
Main:
  +-- 0.0.0.0/0 3 0 5
     |-- 0.0.0.0
        /0 universe UNICAST
     +-- 10.0.0.0/30 2 0 2
        |-- 10.0.0.0
           /30 link UNICAST
        |-- 10.0.0.2
           /32 host LOCAL
        |-- 10.0.0.3
           /32 link BROADCAST
     +-- 127.0.0.0/8 2 0 2
        |-- 127.0.0.1
           /32 host LOCAL
";

    #[test]
    fn an_address_of_the_machine_itself_is_found() {
        assert_eq!(parse(TABLE), Some(Ipv4Addr::new(10, 0, 0, 2)));
    }

    #[test]
    fn loopback_alone_is_no_address() {
        let (_others, loopback) = TABLE.split_once("/32 link BROADCAST").unwrap();
        assert_eq!(parse(loopback), None);
    }
}
