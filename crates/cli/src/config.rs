//! The configuration: one struct, read from a file, the environment and flags, and checked whole.

use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use control_plane::UnknownSandboxes;
use observe::LogFormat;

mod key;
mod layers;
mod value;

#[cfg(test)]
mod deploy;
#[cfg(test)]
mod tests;

pub(crate) use key::{KEYS, Key};
pub(crate) use layers::{Inputs, Said, Unknown};
pub(crate) use value::duration;

use layers::Layers;

/// What was said, or the program's own choice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Choice<T> {
    Auto,
    Given(T),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Driver {
    Container,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Runtime {
    Crun,
    Runc,
}

/// What to do when the host cannot enforce a limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Limits {
    Auto,
    Require,
}

/// Whether a signal leaves the sandboxes to the next service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Leave {
    /// When systemd is about to start the service again.
    Auto,
    Always,
    Never,
}

/// How long work may go on by itself when the service is asked to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Patience {
    /// For ever under a service manager; else not at all.
    Auto,
    Forever,
    Limited(Duration),
}

/// One to three name servers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Dns(pub(crate) Vec<Ipv4Addr>);

/// Everything that can be set. Every value is legal.
#[derive(Debug, Clone)]
pub(crate) struct Config {
    pub(crate) data_dir: PathBuf,
    pub(crate) listen: SocketAddr,
    /// `None`: the node's gRPC is not served.
    pub(crate) node_listen: Option<SocketAddr>,
    pub(crate) domain: Choice<String>,
    pub(crate) envd: Choice<PathBuf>,
    pub(crate) driver: Choice<Driver>,
    pub(crate) runtime: Choice<Runtime>,
    pub(crate) limits: Limits,
    pub(crate) log: String,
    pub(crate) log_format: LogFormat,
    pub(crate) max_sandboxes: u32,
    pub(crate) max_starting: u32,
    pub(crate) warm_slots: u16,
    pub(crate) disk_reserve_mib: u64,
    pub(crate) unknown_sandboxes: UnknownSandboxes,
    pub(crate) ended_time: Duration,
    pub(crate) ended_count: usize,
    pub(crate) shutdown_leave: Leave,
    pub(crate) shutdown_drain_timeout: Patience,
    /// From the first signal to when whoever started the service kills it.
    pub(crate) shutdown_kill_deadline: Option<Duration>,
    pub(crate) network_base: Choice<Ipv4Addr>,
    pub(crate) network_dns: Choice<Dns>,
    pub(crate) team_max_sandboxes: u32,
    pub(crate) team_max_lifetime: Duration,
    /// Calls a second; `None`: as many as can be answered.
    pub(crate) team_rate: Option<f64>,
    pub(crate) team_rate_burst: u32,
    pub(crate) timeout_start: Duration,
    pub(crate) timeout_stop: Duration,
    pub(crate) timeout_clients: Duration,
}

/// A configuration that can be used, and how it came about.
#[derive(Debug)]
pub(crate) struct Loaded {
    pub(crate) config: Config,
    /// Every key with its effective value, in the order of [`KEYS`].
    pub(crate) values: Vec<(&'static Key, Said)>,
    pub(crate) unknown: Vec<Unknown>,
}

/// One thing that is wrong.
#[derive(Debug)]
pub(crate) enum Fault {
    File { path: PathBuf, why: String },
    Value { key: &'static Key, said: Said },
    Conflict(String),
}

/// All that is wrong.
#[derive(Debug)]
pub(crate) struct Faults(pub(crate) Vec<Fault>);

impl std::error::Error for Faults {}

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the configuration has faults:")?;
        self.0.iter().try_for_each(|fault| write!(f, "\n  {fault}"))
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File { path, why } => {
                write!(f, "{}: {}", path.display(), why.replace('\n', "\n    "))
            }
            Self::Value { key, said } => write!(
                f,
                "{}: {:?} (from {}) is not allowed; give {}",
                key.name, said.text, said.source, key.allowed
            ),
            Self::Conflict(what) => f.write_str(what),
        }
    }
}

/// A node has as many slots.
const MAX_SANDBOXES: u32 = host::identity::SLOTS as u32;
const USUAL_NETWORK: Ipv4Addr = Ipv4Addr::new(10, 213, 0, 0);

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const YEAR: Duration = Duration::from_secs(8760 * 3600);

/// What a stop may take after its patience has ended, beside [`Config::timeout_stop`] and
/// [`Config::timeout_clients`]: releasing what the node shares, the proof that nothing is left,
/// cutting connections, and closing the records and the node's own listener.
const STOP_RESERVE: Duration = Duration::from_secs(85);

impl Config {
    /// Lays the layers over each other and checks the outcome.
    ///
    /// # Errors
    /// Everything that is wrong, not just the first.
    pub(crate) fn load(inputs: &Inputs) -> Result<Loaded, Faults> {
        let mut read = Reader(Layers::lay(inputs));
        let config = Self::read(&mut read);
        let Layers { said, unknown, mut faults } = read.0;
        if let Some(config) = &config {
            config.check(&mut faults);
        }
        match config {
            Some(config) if faults.is_empty() => {
                let value = |key: &'static Key| Some((key, said.get(key.name)?.clone()));
                Ok(Loaded { config, values: KEYS.iter().filter_map(value).collect(), unknown })
            }
            _ => Err(Faults(faults)),
        }
    }

    fn read(read: &mut Reader) -> Option<Self> {
        // Each is read before any is missed, so that all faults are found.
        let data_dir = read.value("data_dir", value::path);
        let listen = read.value("listen", value::address);
        let node_listen = read.value("node_listen", value::off_or(value::address));
        let domain = read.value("domain", value::auto_or(value::host));
        let envd = read.value("envd", value::auto_or(value::path));
        let driver = read.value("driver", value::auto_or(driver));
        let runtime = read.value("runtime", value::auto_or(runtime));
        let limits = read.value("limits", limits);
        let log = read.value("log", log_filter);
        let log_format = read.value("log_format", log_format);
        let max_sandboxes = read.value("max_sandboxes", value::number(1, MAX_SANDBOXES));
        let max_starting = read.value("max_starting", value::number(1, 1000));
        let warm_slots = read.value("warm_slots", value::number(0, 1000));
        let disk_reserve_mib = read.value("disk_reserve", value::size_mib);
        let unknown_sandboxes = read.value("unknown_sandboxes", unknown_sandboxes);
        let ended_time = read.value("ended_time", value::time(SECOND, YEAR));
        let ended_count = read.value("ended_count", value::number(1, 100_000));
        let shutdown_leave = read.value("shutdown_leave", leave);
        let shutdown_drain_timeout = read.value("shutdown_drain_timeout", value::patience);
        let shutdown_kill_deadline =
            read.value("shutdown_kill_deadline", value::none_or(value::time(SECOND, YEAR)));
        let network_base = read.value("network.base", value::auto_or(value::network));
        let network_dns = read.value("network.dns", value::auto_or(value::dns));
        let team_max_sandboxes = read.value("team.max_sandboxes", value::number(1, MAX_SANDBOXES));
        let team_max_lifetime = read.value("team.max_lifetime", value::time(MINUTE, YEAR));
        let team_rate = read.value("team.rate", value::off_or(value::per_second));
        let team_rate_burst = read.value("team.rate_burst", value::number(1, 1_000_000));
        let timeout_start = read.value("timeouts.start", value::time(SECOND, 10 * MINUTE));
        let timeout_stop = read.value("timeouts.stop", value::time(SECOND, 10 * MINUTE));
        let timeout_clients =
            read.value("timeouts.clients", value::time(Duration::ZERO, 10 * MINUTE));
        Some(Self {
            data_dir: data_dir?,
            listen: listen?,
            node_listen: node_listen?,
            domain: domain?,
            envd: envd?,
            driver: driver?,
            runtime: runtime?,
            limits: limits?,
            log: log?,
            log_format: log_format?,
            max_sandboxes: max_sandboxes?,
            max_starting: max_starting?,
            warm_slots: warm_slots?,
            disk_reserve_mib: disk_reserve_mib?,
            unknown_sandboxes: unknown_sandboxes?,
            ended_time: ended_time?,
            ended_count: ended_count?,
            shutdown_leave: shutdown_leave?,
            shutdown_drain_timeout: shutdown_drain_timeout?,
            shutdown_kill_deadline: shutdown_kill_deadline?,
            network_base: network_base?,
            network_dns: network_dns?,
            team_max_sandboxes: team_max_sandboxes?,
            team_max_lifetime: team_max_lifetime?,
            team_rate: team_rate?,
            team_rate_burst: team_rate_burst?,
            timeout_start: timeout_start?,
            timeout_stop: timeout_stop?,
            timeout_clients: timeout_clients?,
        })
    }

    /// The first address of the /16 that the nodes of this host share.
    pub(crate) fn network(&self) -> Ipv4Addr {
        match self.network_base {
            Choice::Auto => USUAL_NETWORK,
            Choice::Given(base) => base,
        }
    }

    /// The longest a stop takes once nothing is waited for any more.
    pub(crate) fn stop_limit(&self) -> Duration {
        self.timeout_stop + self.timeout_clients + STOP_RESERVE
    }

    /// What no single value shows.
    fn check(&self, faults: &mut Vec<Fault>) {
        if self.max_starting > self.max_sandboxes {
            faults.push(Fault::Conflict(format!(
                "max_starting: {} is more than max_sandboxes ({}); give at most that",
                self.max_starting, self.max_sandboxes
            )));
        }
        if let Some(deadline) = self.shutdown_kill_deadline
            && deadline < self.stop_limit()
        {
            faults.push(Fault::Conflict(format!(
                "shutdown_kill_deadline: a stop may take {} s (timeouts.stop, timeouts.clients and \
                 {} s for the rest); give at least that, here and to whoever stops the service",
                self.stop_limit().as_secs(),
                STOP_RESERVE.as_secs()
            )));
        }
        let slots = self.max_sandboxes + u32::from(self.warm_slots);
        if slots > MAX_SANDBOXES {
            faults.push(Fault::Conflict(format!(
                "max_sandboxes and warm_slots: together they are {slots}; give at most \
                 {MAX_SANDBOXES}"
            )));
        }
    }
}

struct Reader(Layers);

impl Reader {
    fn value<T>(&mut self, name: &str, read: impl Fn(&str) -> Option<T>) -> Option<T> {
        let key = KEYS.iter().find(|key| key.name == name)?;
        let said = self.0.said.get(key.name)?;
        let value = read(&said.text);
        if value.is_none() {
            self.0.faults.push(Fault::Value { key, said: said.clone() });
        }
        value
    }
}

fn driver(text: &str) -> Option<Driver> {
    value::one_of(&[("container", Driver::Container)], text)
}

fn runtime(text: &str) -> Option<Runtime> {
    value::one_of(&[("crun", Runtime::Crun), ("runc", Runtime::Runc)], text)
}

fn limits(text: &str) -> Option<Limits> {
    value::one_of(&[("auto", Limits::Auto), ("require", Limits::Require)], text)
}

fn unknown_sandboxes(text: &str) -> Option<UnknownSandboxes> {
    value::one_of(&[("adopt", UnknownSandboxes::Adopt), ("end", UnknownSandboxes::End)], text)
}

fn leave(text: &str) -> Option<Leave> {
    let words = [("auto", Leave::Auto), ("always", Leave::Always), ("never", Leave::Never)];
    value::one_of(&words, text)
}

fn log_format(text: &str) -> Option<LogFormat> {
    value::one_of(&[("text", LogFormat::Text), ("json", LogFormat::Json)], text)
}

fn log_filter(text: &str) -> Option<String> {
    tracing_subscriber::EnvFilter::try_new(text).is_ok().then(|| text.to_owned())
}
