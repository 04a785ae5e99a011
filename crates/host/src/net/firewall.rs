//! The node's one constant nftables table: no sandbox reaches another, the host, a private network
//! or a metadata address; all reach the internet through the host's address.
//!
//! Nothing in it names a single sandbox, so it never changes while sandboxes come and go. What is for
//! an address without a link goes nowhere: no stranger's network gets it, and the host does not
//! remember a connection to whoever has the address next.

use std::fmt::Write as _;
use std::net::Ipv4Addr;
use std::path::PathBuf;

use lifecycle::{Budget, Release};

use crate::Mark;
use crate::cgroup::Support;
use crate::identity::BLOCK_PREFIX;
use crate::process::{RunError, run};

/// Where a sandbox never gets: private, shared, loopback, link-local (metadata), protocol assignment
/// (metadata of Oracle's cloud), benchmark, multicast and reserved networks (RFC 1918, 6598, 1122,
/// 3927, 6890, 2544, 5771, 1112), and the one public address at which Azure's host serves its
/// machines (`WireServer`, in Microsoft's "What is IP address 168.63.129.16?").
const DENIED: [&str; 12] = [
    "0.0.0.0/8",
    "10.0.0.0/8",
    "100.64.0.0/10",
    "127.0.0.0/8",
    "169.254.0.0/16",
    "168.63.129.16/32",
    "172.16.0.0/12",
    "192.0.0.0/24",
    "192.168.0.0/16",
    "198.18.0.0/15",
    "224.0.0.0/4",
    "240.0.0.0/4",
];

/// The firewall could not be changed.
#[derive(Debug, thiserror::Error)]
pub enum FirewallError {
    #[error("run nft")]
    Run(#[source] RunError),
    #[error("nft refused the table {table}: {output}")]
    Refused { table: String, output: String },
    #[error("nft cannot list tables: {output}")]
    Unlisted { output: String },
}

/// The most connections one sandbox may have through the host at a time: the host's table of them
/// is one for all.
const MAX_CONNECTIONS: u32 = 4096;

/// The node's table.
#[derive(Debug)]
pub struct Firewall {
    nft: PathBuf,
    mark: Mark,
    table: String,
}

impl Firewall {
    /// The table of `mark`, whether it exists or not. `nft` is the path of the program.
    #[must_use]
    pub fn new(nft: PathBuf, mark: Mark) -> Self {
        Self { nft, mark, table: mark.table() }
    }

    /// Makes the table, or replaces it by the same, in one transaction. Says whether the number of
    /// connections of each sandbox is limited: not every kernel can count them (`nft_connlimit`).
    ///
    /// # Errors
    /// When nft cannot be run or refuses.
    pub async fn apply(
        &self,
        resolvers: &[Ipv4Addr],
        budget: Budget,
    ) -> Result<Support, FirewallError> {
        let what = "connections";
        let limited = ruleset(self.mark, resolvers, Some(MAX_CONNECTIONS));
        match self.nft(&limited, budget).await {
            Ok(()) => {
                let detail = format!("at most {MAX_CONNECTIONS} of a sandbox to the outside");
                Ok(Support { what, enforced: true, detail })
            }
            Err(FirewallError::Refused { output, .. }) => {
                self.nft(&ruleset(self.mark, resolvers, None), budget).await?;
                let why = output.lines().next().unwrap_or_default();
                let detail = format!("the kernel cannot count them by sandbox: {why}");
                Ok(Support { what, enforced: false, detail })
            }
            Err(error) => Err(error),
        }
    }

    /// Whether the table exists.
    ///
    /// # Errors
    /// When nft cannot be run or cannot say.
    pub async fn exists(&self, budget: Budget) -> Result<bool, FirewallError> {
        let listed = run(&self.nft, &["list", "tables", "inet"], None, budget);
        let listed = listed.await.map_err(FirewallError::Run)?;
        if !listed.status.success() {
            return Err(FirewallError::Unlisted { output: listed.output.trim().into() });
        }
        let line = format!("table inet {}", self.table);
        Ok(listed.output.lines().any(|found| found.trim() == line))
    }

    async fn nft(&self, script: &str, budget: Budget) -> Result<(), FirewallError> {
        let done = run(&self.nft, &["-f", "-"], Some(script.as_bytes()), budget);
        let done = done.await.map_err(FirewallError::Run)?;
        if done.status.success() {
            return Ok(());
        }
        Err(FirewallError::Refused { table: self.table.clone(), output: done.output.trim().into() })
    }
}

impl Release for Firewall {
    const KIND: &'static str = "nft table";
    type Error = FirewallError;

    fn name(&self) -> &str {
        &self.table
    }

    async fn release(&self, budget: Budget) -> Result<(), FirewallError> {
        // Adding it first makes deleting a table that is gone no error.
        let table = &self.table;
        self.nft(&format!("add table inet {table}\ndelete table inet {table}\n"), budget).await
    }
}

fn ruleset(mark: Mark, resolvers: &[Ipv4Addr], connections: Option<u32>) -> String {
    let (table, links) = (mark.table(), format!("\"{}*\"", mark.link_prefix()));
    let network = format!("{}/{BLOCK_PREFIX}", mark.network());
    let denied = DENIED.join(", ");
    let mut dns = String::new();
    for resolver in resolvers {
        for protocol in ["udp", "tcp"] {
            // Writing to a String does not fail.
            let _infallible = writeln!(dns, "    ip daddr {resolver} {protocol} dport 53 accept");
        }
    }
    let (mut set, mut limit) = (String::new(), String::new());
    if let Some(most) = connections {
        let addresses = 1_u32 << (32 - BLOCK_PREFIX);
        set = format!("  set flows {{ type ipv4_addr; flags dynamic; size {addresses}; }}\n");
        limit = format!("    ct state new add @flows {{ ip saddr ct count over {most} }} drop\n");
    }
    format!(
        "add table inet {table}
delete table inet {table}
table inet {table} {{
{set}  chain input {{
    type filter hook input priority -10; policy accept;
    iifname {links} ct state established,related accept
    iifname {links} jump dns
    iifname {links} drop
  }}
  chain forward {{
    type filter hook forward priority -10; policy accept;
    oifname {links} iifname != {links} ct state established,related accept
    oifname {links} drop
    ip daddr {network} drop
    iifname {links} jump egress
  }}
  chain output {{
    type filter hook output priority -10; policy accept;
    ip daddr {network} oifname != {links} oifname != \"lo\" drop
  }}
  chain egress {{
    meta nfproto ipv6 drop
    ip saddr != {network} drop
{limit}    jump dns
    ip daddr {{ {denied} }} drop
  }}
  chain dns {{
{dns}  }}
  chain postrouting {{
    type nat hook postrouting priority srcnat; policy accept;
    ip saddr {network} oifname != {links} masquerade
  }}
}}
"
    )
}

#[cfg(test)]
mod tests {
    use std::io::ErrorKind;
    use std::net::{Ipv4Addr, TcpListener, TcpStream, UdpSocket};
    use std::path::{Path, PathBuf};
    use std::time::Duration;

    use lifecycle::{Budget, Release};

    use super::{Firewall, FirewallError};
    use crate::Mark;
    use crate::process::run;
    use crate::thread;

    const NFT: &str = "/usr/sbin/nft";
    const IP: &str = "/usr/sbin/ip";
    const LIMIT: Duration = Duration::from_secs(60);

    fn in_new_network(test: impl AsyncFnOnce(Firewall) + Send) {
        thread::testing::in_new_network(|| {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let mark = Mark::new(14, Ipv4Addr::new(10, 213, 0, 0));
            runtime.unwrap().block_on(test(Firewall::new(PathBuf::from(NFT), mark)));
        });
    }

    async fn listing() -> String {
        run(Path::new(NFT), &["list", "ruleset"], None, Budget::within(LIMIT)).await.unwrap().output
    }

    #[test]
    fn the_table_can_be_made_twice_and_removed_twice() {
        in_new_network(async |firewall| {
            let budget = Budget::within(LIMIT);
            assert!(!firewall.exists(budget).await.unwrap());
            for _ in 0..2 {
                let support = firewall.apply(&[Ipv4Addr::new(192, 0, 2, 1)], budget).await.unwrap();
                let counts = listing().await.contains("ct count over 4096 } drop");
                assert_eq!((support.what, support.enforced), ("connections", counts));
                assert!(firewall.exists(budget).await.unwrap());
            }
            let listing = listing().await;
            for denied in ["169.254.0.0/16", "168.63.129.16,", "192.0.0.0/24", "198.18.0.0/15"] {
                assert!(listing.contains(denied), "{denied} in {listing}");
            }
            for _ in 0..2 {
                firewall.release(budget).await.unwrap();
                assert!(!firewall.exists(budget).await.unwrap());
            }
        });
    }

    #[test]
    fn the_host_sends_to_sandboxes_over_their_links_alone_and_to_its_own_ends_of_them() {
        in_new_network(async |firewall| {
            let budget = Budget::within(LIMIT);
            for line in [
                "link set lo up",
                "address add 10.213.224.0/31 dev lo",
                "link add out type veth peer name away",
                "link set out up",
                "link set away up",
                "route add default dev out",
            ] {
                let words: Vec<&str> = line.split(' ').collect();
                let done = run(Path::new(IP), &words, None, budget).await.unwrap();
                assert!(done.status.success(), "{line}: {}", done.output);
            }
            firewall.apply(&[], budget).await.unwrap();
            let end = TcpListener::bind((Ipv4Addr::new(10, 213, 224, 0), 0)).unwrap();
            TcpStream::connect_timeout(&end.local_addr().unwrap(), LIMIT).unwrap();
            let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
            let sent = |last| socket.send_to(b"x", (Ipv4Addr::new(10, 213, last, 3), 9));
            let denied = sent(224).unwrap_err();
            assert_eq!(denied.kind(), ErrorKind::PermissionDenied, "its link is gone");
            sent(223).unwrap();
        });
    }

    #[tokio::test]
    async fn no_answer_is_not_taken_for_an_absent_table() {
        let mark = Mark::new(14, Ipv4Addr::new(10, 213, 0, 0));
        let broken = Firewall::new(PathBuf::from("/bin/false"), mark);
        let asked = broken.exists(Budget::within(LIMIT)).await;
        assert!(matches!(asked, Err(FirewallError::Unlisted { .. })), "{asked:?}");
    }
}
