//! What each service is told, out of the one configuration.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;
use control_plane::{Limits as ControlPlaneLimits, Rate};
use e2b_wire::{ApiKey, TokenSeed};
use node::LimitsPolicy;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::config::{Choice, Config, Limits, Runtime};
use crate::credentials::{Addresses, Credentials};

/// Beyond the time a start may take, so that the client learns how it ended.
const REQUEST_MARGIN: Duration = Duration::from_secs(10);

/// The guest agent's binary, which has to be there.
pub(in crate::commands) fn agent(config: &Config) -> anyhow::Result<PathBuf> {
    let path = match &config.envd {
        Choice::Given(path) => path.clone(),
        Choice::Auto => {
            let own = std::env::current_exe().context("find out where this program is")?;
            own.with_file_name("envd")
        }
    };
    anyhow::ensure!(
        path.is_file(),
        "the guest agent {} is not there; build it (`cargo xtask build`) or set `envd`",
        path.display()
    );
    Ok(path)
}

/// Every sandbox and every connection holds descriptors; the soft limit is for programs that
/// cannot count past a thousand.
pub(in crate::commands) fn raise_open_files() {
    let now = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: now.maximum, maximum: now.maximum };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        tracing::warn!(%error, "open-file limit not raised; fewer sandboxes fit");
    }
}

pub(in crate::commands) fn node(config: &Config, agent: PathBuf) -> node::Config {
    let defaults = node::Config::new(config.data_dir.clone(), agent);
    node::Config {
        runtime: match config.runtime {
            Choice::Auto => "auto",
            Choice::Given(Runtime::Crun) => "crun",
            Choice::Given(Runtime::Runc) => "runc",
        }
        .to_owned(),
        limits: match config.limits {
            Limits::Auto => LimitsPolicy::Auto,
            Limits::Require => LimitsPolicy::Require,
        },
        network: config.network(),
        resolvers: match &config.network_dns {
            Choice::Auto => Vec::new(),
            Choice::Given(dns) => dns.0.clone(),
        },
        max_sandboxes: config.max_sandboxes,
        max_starting: config.max_starting,
        warm_slots: config.warm_slots,
        disk_reserve_mib: config.disk_reserve_mib,
        ended_kept: config.ended_count,
        ended_max: config.ended_time,
        ..defaults
    }
}

pub(super) fn edge(config: &Config) -> edge::Config {
    edge::Config { grace: config.timeout_clients, ..edge::Config::default() }
}

pub(super) fn control_plane(
    config: &Config,
    credentials: &Credentials,
    addresses: &Addresses,
) -> anyhow::Result<control_plane::Config> {
    let api_key = ApiKey::parse(credentials.api_key.expose())?;
    let seed = TokenSeed::new(credentials.token_seed.expose().as_bytes());
    let database = config.data_dir.join("control-plane.sqlite");
    let admin = credentials.admin_token.clone();
    let defaults = control_plane::Config::new(database, api_key, admin, seed);
    Ok(control_plane::Config {
        domain: Some(addresses.domain.clone()),
        unknown_sandboxes: config.unknown_sandboxes,
        limits: ControlPlaneLimits {
            team_sandboxes: config.team_max_sandboxes,
            sandbox_length: config.team_max_lifetime,
            create: config.timeout_start,
            request: config.timeout_start + REQUEST_MARGIN,
            ended_kept: config.ended_time,
            ..ControlPlaneLimits::default()
        },
        rate: config.team_rate.map(|per_second| Rate { per_second, burst: config.team_rate_burst }),
        ..defaults
    })
}

/// How clients on this machine reach what listens on `address`.
pub(super) fn addresses(config: &Config, address: SocketAddr) -> Addresses {
    let reachable = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
        ip => ip,
    };
    let reachable = SocketAddr::new(reachable, address.port());
    let domain = match &config.domain {
        Choice::Auto => format!("localhost:{}", address.port()),
        Choice::Given(domain) => domain.clone(),
    };
    Addresses { url: format!("http://{reachable}"), domain }
}
