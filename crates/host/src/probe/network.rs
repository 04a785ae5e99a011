//! The firewall, forwarding, name servers.

use std::fs;
use std::time::Duration;

use lifecycle::Budget;

use super::{ALL, Finding, Level, tools};
use crate::net::resolvers;
use crate::process::run;

const NFT_LIMIT: Duration = Duration::from_secs(10);

/// What the node's own table is made of, in a network namespace that is thrown away with it.
const TABLE: &str = "table inet cofferdam_probe {
  chain forward { type filter hook forward priority -10; policy accept;
    iifname \"probe*\" ct state established,related accept
    ip daddr { 10.0.0.0/8, 169.254.0.0/16 } drop
  }
  chain postrouting { type nat hook postrouting priority srcnat; policy accept;
    ip saddr 10.0.0.0/8 masquerade
  }
}
";

pub(super) async fn probe(budget: Budget) -> Vec<Finding> {
    vec![nftables(budget).await, forward_policy(budget).await, forwarding(), name_servers()]
}

async fn nftables(budget: Budget) -> Finding {
    const NAME: &str = "nftables";
    let version = match tools::version("nft", &["--version"], budget).await {
        Ok(version) => version,
        Err(why) => {
            return Finding::lack(NAME, ALL, Level::Missing, why, "apt-get install nftables");
        }
    };
    let (Some(nft), Some(unshare)) = (tools::find("nft"), tools::find("unshare")) else {
        let detail = format!("{version}; not tried, there is no unshare");
        return Finding::lack(NAME, ALL, Level::Degraded, detail, "apt-get install util-linux");
    };
    let nft = nft.to_string_lossy();
    let args = ["--net", "--", &nft, "-f", "-"];
    match run(&unshare, &args, Some(TABLE.as_bytes()), budget.slice(NFT_LIMIT)).await {
        Ok(done) if done.status.success() => Finding::ok(NAME, ALL, format!("{version}, tried")),
        Ok(done) => {
            let said = done.output.lines().next().unwrap_or_default().trim();
            let detail = format!("{version}; a table was refused: {said}");
            let fix = "boot a kernel with nf_tables, connection tracking and NAT";
            Finding::lack(NAME, ALL, Level::Missing, detail, fix)
        }
        Err(error) => {
            let detail = format!("{version}; cannot be run: {error}");
            Finding::lack(NAME, ALL, Level::Missing, detail, "apt-get install nftables")
        }
    }
}

/// Another table's drop wins over our accept: the packet passes every table's chains.
async fn forward_policy(budget: Budget) -> Finding {
    const NAME: &str = "forward policy";
    let Some(nft) = tools::find("nft") else {
        let fix = "apt-get install nftables";
        return Finding::lack(NAME, ALL, Level::Degraded, "unknown without nft", fix);
    };
    match run(&nft, &["list", "chains"], None, budget.slice(NFT_LIMIT)).await {
        Ok(done) if done.status.success() => match dropping_chain(&done.output) {
            None => Finding::ok(NAME, ALL, "nobody drops forwarded packets".to_owned()),
            Some(chain) => Finding::lack(
                NAME,
                ALL,
                Level::Degraded,
                format!("chain {chain} drops forwarded packets: sandboxes may have no internet"),
                "let that chain accept packets of links named `cd*`, to and from them",
            ),
        },
        Ok(done) => {
            let said = done.output.lines().next().unwrap_or_default().trim().to_owned();
            Finding::lack(NAME, ALL, Level::Degraded, said, "run it as root")
        }
        Err(error) => {
            Finding::lack(NAME, ALL, Level::Degraded, error.to_string(), "run `nft list chains`")
        }
    }
}

/// The first base chain on the forward hook whose policy is to drop, as `family table chain`.
fn dropping_chain(listing: &str) -> Option<String> {
    let mut table = "";
    let mut chain = "";
    for line in listing.lines().map(str::trim) {
        if let Some(rest) = line.strip_prefix("table ") {
            table = rest.trim_end_matches([' ', '{']);
        } else if let Some(rest) = line.strip_prefix("chain ") {
            chain = rest.trim_end_matches([' ', '{']);
        } else if line.contains("hook forward") && line.contains("policy drop") {
            return Some(format!("{table} {chain}"));
        }
    }
    None
}

fn forwarding() -> Finding {
    const NAME: &str = "ip forwarding";
    match fs::read_to_string("/proc/sys/net/ipv4/ip_forward").as_deref().map(str::trim) {
        Ok("1") => Finding::ok(NAME, ALL, "on".to_owned()),
        Ok(_) => Finding::ok(NAME, ALL, "off; the service turns it on when it starts".to_owned()),
        Err(error) => {
            let fix = "boot a kernel with IPv4";
            Finding::lack(NAME, ALL, Level::Missing, format!("unknown: {error}"), fix)
        }
    }
}

fn name_servers() -> Finding {
    let list: Vec<String> = resolvers().iter().map(ToString::to_string).collect();
    Finding::ok("name servers", ALL, list.join(", "))
}

#[cfg(test)]
mod tests {
    use super::dropping_chain;

    #[test]
    fn only_a_forward_hook_that_drops_is_reported() {
        let accepts = "table inet a {\n\tchain f {\n\t\ttype filter hook forward priority filter; \
                       policy accept;\n\t}\n}\n";
        let input = accepts.replace("forward", "input").replace("accept", "drop");
        assert_eq!(dropping_chain(&format!("{accepts}{input}")), None);
        let drops = "table ip filter {\n\tchain INPUT {\n\t}\n\tchain FORWARD {\n\t\ttype filter \
                     hook forward priority filter; policy drop;\n\t}\n}\n";
        let found = dropping_chain(&format!("{accepts}{drops}"));
        assert_eq!(found.as_deref(), Some("ip filter FORWARD"));
    }
}
