use std::collections::BTreeMap;
use std::sync::LazyLock;

/// The flag of every key: clap wants text that lives as long as the program.
static FLAGS: LazyLock<BTreeMap<&'static str, String>> = LazyLock::new(|| {
    KEYS.iter().map(|key| (key.name, key.name.replace(['.', '_'], "-"))).collect()
});

/// One setting: how it is called, what it may be, what it is when nobody says.
#[derive(Debug)]
pub(crate) struct Key {
    /// As in the file; a dot is a table there.
    pub(crate) name: &'static str,
    pub(crate) default: &'static str,
    /// Completes "... is not allowed; give".
    pub(crate) allowed: &'static str,
    pub(crate) about: &'static str,
}

/// The prefix of every environment variable that is read.
pub(crate) const ENV_PREFIX: &str = "COFFERDAM_";

impl Key {
    pub(crate) fn env(&self) -> String {
        format!("{ENV_PREFIX}{}", self.name.replace('.', "_").to_uppercase())
    }

    /// Without the dashes in front.
    pub(crate) fn flag(&self) -> &'static str {
        FLAGS.get(self.name).map_or(self.name, String::as_str)
    }
}

const fn key(
    name: &'static str,
    default: &'static str,
    allowed: &'static str,
    about: &'static str,
) -> Key {
    Key { name, default, allowed, about }
}

/// Every setting, in the order in which they are shown. Those of one table stand together.
pub(crate) const KEYS: &[Key] = &[
    key(
        "data_dir",
        "/var/lib/cofferdam",
        "an absolute path",
        "Where templates, sandboxes, the database and the credentials are",
    ),
    key(
        "listen",
        "127.0.0.1:3000",
        "an address and a port, such as 127.0.0.1:3000 or [::1]:3000; port 0 picks a free one",
        "Where API and sandbox traffic are served",
    ),
    key(
        "node_listen",
        "off",
        "`off`, or an address and a port, such as 127.0.0.1:5008; port 0 picks a free one",
        "Where the node's gRPC is served, for whoever has its token; not encrypted",
    ),
    key(
        "domain",
        "auto",
        "`auto` (localhost and the port), or a host name with or without a port",
        "Sandboxes are reached as {port}-{sandbox}.{domain}",
    ),
    key(
        "envd",
        "auto",
        "`auto` (beside this program), or an absolute path",
        "The guest agent's binary",
    ),
    key("driver", "auto", "`auto` or `container`", "What sandboxes run in"),
    key("runtime", "auto", "`auto`, `crun` or `runc`", "What runs containers"),
    key(
        "limits",
        "auto",
        "`auto` (enforce what the host can) or `require` (refuse to start if any cannot be)",
        "What to do when this host cannot enforce a limit",
    ),
    key("log", "info", "a filter, such as `info` or `info,node=debug`", "What is logged"),
    key("log_format", "text", "`text` or `json`", "How log lines look"),
    key("max_sandboxes", "1000", "a number from 1 to 2048", "How many sandboxes run at a time"),
    key("max_starting", "32", "a number from 1 to 1000", "How many sandboxes start at a time"),
    key("warm_slots", "16", "a number from 0 to 1000", "How many network slots are made ahead"),
    key(
        "disk_reserve",
        "2GiB",
        "a size, such as 2GiB or 500MiB",
        "Free disk space below which no sandbox starts",
    ),
    key(
        "unknown_sandboxes",
        "adopt",
        "`adopt` (they get a record and run on) or `end`",
        "What becomes of sandboxes that run and are in no record, as after the database was lost",
    ),
    key(
        "ended_time",
        "168h",
        "a time from 1s to 8760h, such as 24h",
        "How long it is kept how and why a sandbox ended",
    ),
    key(
        "ended_count",
        "1000",
        "a number from 1 to 100000",
        "Of how many ended sandboxes the node keeps that, some KiB each",
    ),
    key(
        "shutdown_leave",
        "auto",
        "`auto` (when systemd is about to start the service again), `always` or `never`",
        "Whether a signal leaves the sandboxes running for the next service instead of draining",
    ),
    key(
        "shutdown_drain_timeout",
        "auto",
        "`auto` (for ever under a service manager, else 0s), `forever`, or a time from 0s to 8760h, \
         such as 10m",
        "How long sandboxes may go on by themselves when the service is asked to stop",
    ),
    key(
        "shutdown_kill_deadline",
        "none",
        "`none`, or a time from 1s to 8760h, such as 15m",
        "When, after the first signal, whoever started the service kills it",
    ),
    key(
        "network.base",
        "auto",
        "`auto` (10.213.0.0/16), or a private IPv4 network of that size, such as 10.99.0.0/16",
        "Where sandboxes' addresses are taken from",
    ),
    key(
        "network.dns",
        "auto",
        "`auto` (the host's), or 1 to 3 IPv4 addresses separated by commas",
        "Name servers of sandboxes",
    ),
    key(
        "team.max_sandboxes",
        "1000",
        "a number from 1 to 2048",
        "How many sandboxes one team may run at a time",
    ),
    key(
        "team.max_lifetime",
        "24h",
        "a time from 1m to 8760h, such as 24h",
        "How long a sandbox may live at most",
    ),
    key(
        "team.rate",
        "off",
        "`off`, or how many a second, a minute or an hour, such as 20/s or 600/m",
        "How often one team may call one endpoint of the API",
    ),
    key(
        "team.rate_burst",
        "100",
        "a number from 1 to 1000000",
        "How many of those calls may come at once after a pause",
    ),
    key(
        "timeouts.start",
        "30s",
        "a time from 1s to 10m, such as 30s",
        "How long the start of one sandbox may take",
    ),
    key(
        "timeouts.stop",
        "30s",
        "a time from 1s to 10m, such as 30s",
        "How long ending what still runs may take when the service stops",
    ),
    key(
        "timeouts.clients",
        "5s",
        "a time from 0s to 10m, such as 5s",
        "How long requests under way are waited for when the service stops",
    ),
];

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::KEYS;

    #[test]
    fn the_page_on_configuration_says_of_every_key_what_this_table_says() {
        let page = include_str!("../../../../docs/configuration.md");
        for key in KEYS {
            let row =
                format!("| `{}` | `{}` | {} | {} |", key.name, key.default, key.allowed, key.about);
            assert!(page.lines().any(|line| line == row), "docs/configuration.md lacks:\n{row}");
        }
    }

    #[test]
    fn names_are_unique_in_the_file_in_the_environment_and_as_flags() {
        let names: BTreeSet<_> = KEYS.iter().map(|key| key.name).collect();
        let envs: BTreeSet<_> = KEYS.iter().map(super::Key::env).collect();
        let flags: BTreeSet<_> = KEYS.iter().map(super::Key::flag).collect();
        assert_eq!([names.len(), envs.len(), flags.len()], [KEYS.len(); 3]);
    }
}
