//! The node's one constant nftables table: no sandbox reaches another, the host, a private network
//! or a metadata address; all reach the internet through the host's address.
//!
//! Nothing in it names a single sandbox, so it never changes while sandboxes come and go.

use std::fmt::Write as _;
use std::net::Ipv4Addr;
use std::path::PathBuf;

use lifecycle::{Budget, Release};

use crate::Mark;
use crate::identity::BLOCK_PREFIX;
use crate::process::{RunError, run};

/// Where a sandbox never gets: private, shared, loopback, link-local (metadata), multicast and
/// reserved networks (RFC 1918, 6598, 1122, 3927, 5771, 1112).
const DENIED: [&str; 9] = [
    "0.0.0.0/8",
    "10.0.0.0/8",
    "100.64.0.0/10",
    "127.0.0.0/8",
    "169.254.0.0/16",
    "172.16.0.0/12",
    "192.168.0.0/16",
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
}

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

    /// Makes the table, or replaces it by the same, in one transaction.
    ///
    /// # Errors
    /// When nft cannot be run or refuses.
    pub async fn apply(&self, resolvers: &[Ipv4Addr], budget: Budget) -> Result<(), FirewallError> {
        self.nft(&ruleset(self.mark, resolvers), budget).await
    }

    /// Whether the table exists.
    ///
    /// # Errors
    /// When nft cannot be run.
    pub async fn exists(&self, budget: Budget) -> Result<bool, FirewallError> {
        let listed = run(&self.nft, &["list", "tables", "inet"], None, budget);
        let listed = listed.await.map_err(FirewallError::Run)?;
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

fn ruleset(mark: Mark, resolvers: &[Ipv4Addr]) -> String {
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
    format!(
        "add table inet {table}
delete table inet {table}
table inet {table} {{
  chain input {{
    type filter hook input priority -10; policy accept;
    iifname {links} ct state established,related accept
    iifname {links} jump dns
    iifname {links} drop
  }}
  chain forward {{
    type filter hook forward priority -10; policy accept;
    oifname {links} iifname != {links} ct state established,related accept
    oifname {links} drop
    iifname {links} jump egress
  }}
  chain egress {{
    meta nfproto ipv6 drop
    ip saddr != {network} drop
    jump dns
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
