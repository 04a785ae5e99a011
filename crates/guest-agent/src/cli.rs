//! The command line and the environment, read once and turned into a [`Config`].

use std::ffi::OsString;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::fd::RawFd;
use std::path::PathBuf;

use guest_wire::ENVD_PORT;

/// What `envd` was asked to do.
#[derive(Debug)]
pub enum Command {
    /// Print the bare version.
    Version,
    /// Print which handovers from another agent this one can take over.
    HandoverFormat,
    Serve(Config),
}

/// Everything the agent is given before its first request.
#[derive(Debug)]
pub struct Config {
    pub listen: Listen,
    /// Where small files about the sandbox are put for programs to read.
    pub run_dir: PathBuf,
    pub forward: Forward,
    /// Below this are the control groups of users' processes; `None` makes none.
    pub cgroup_root: Option<PathBuf>,
    pub environment: Environment,
    /// What the agent hands on that was this process before, as an inherited file.
    pub resume: Option<RawFd>,
}

/// Where requests come from.
#[derive(Debug, PartialEq, Eq)]
pub enum Listen {
    Addr(SocketAddr),
    /// An inherited socket that is already bound and listening.
    Inherited(RawFd),
}

/// Whether servers bound to loopback are made reachable from outside.
#[derive(Debug, PartialEq, Eq)]
pub enum Forward {
    /// On the sandbox's own address, if this is the first process of a sandbox.
    Auto,
    /// On this address.
    On(Ipv4Addr),
}

/// The variables of `envd` itself that matter.
#[derive(Debug, Default)]
pub struct Environment {
    /// Handed on to every process.
    pub path: Option<String>,
    pub sandbox_id: Option<String>,
    pub template_id: Option<String>,
}

impl Environment {
    /// Reads the variables of this process.
    #[must_use]
    #[expect(clippy::disallowed_methods, reason = "this is the place that reads the environment")]
    pub fn of_this_process() -> Self {
        let text = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
        Self {
            path: text("PATH"),
            sandbox_id: text("E2B_SANDBOX_ID"),
            template_id: text("E2B_TEMPLATE_ID"),
        }
    }
}

/// An argument that does not make sense.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum UsageError {
    #[error(
        "unknown argument '{0}'; known are --listen ADDR:PORT, --listen-fd N, --run-dir DIR, --forward-to IPV4, --cgroup-root DIR, --no-cgroups, --version"
    )]
    Unknown(String),
    #[error("{flag} needs a value, such as {example}")]
    Missing { flag: &'static str, example: &'static str },
    #[error("{flag} cannot be '{value}'; it must look like {example}")]
    Invalid { flag: &'static str, value: String, example: &'static str },
}

impl Command {
    /// Reads the arguments after the program's name. One dash or two are the same; `-port`,
    /// `-isnotfc`, `-cgroup-root` and `-no-cgroups` are those of E2B's own agent.
    ///
    /// # Errors
    /// On the first argument that is unknown, lacks its value, or has one that cannot be read.
    pub fn parse(
        arguments: impl IntoIterator<Item = OsString>,
        environment: Environment,
    ) -> Result<Self, UsageError> {
        let mut config = Config {
            listen: Listen::Addr(SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), ENVD_PORT)),
            run_dir: PathBuf::from("/run/e2b"),
            forward: Forward::Auto,
            cgroup_root: Some(PathBuf::from("/sys/fs/cgroup")),
            environment,
            resume: None,
        };
        let mut has_cgroups = true;
        let mut arguments = arguments.into_iter().map(|text| text.to_string_lossy().into_owned());
        while let Some(argument) = arguments.next() {
            let name = argument.strip_prefix("--").or_else(|| argument.strip_prefix('-'));
            let (name, inline) = match name.and_then(|name| name.split_once('=')) {
                Some((name, value)) => (Some(name), Some(value.to_owned())),
                None => (name, None),
            };
            let mut value = || inline.clone().or_else(|| arguments.next());
            match name {
                Some("version") => return Ok(Self::Version),
                Some("handover-format") => return Ok(Self::HandoverFormat),
                Some("isnotfc") => {}
                Some("listen") => {
                    config.listen = Listen::Addr(read("--listen", "0.0.0.0:49983", value())?);
                }
                Some("listen-fd") => {
                    config.listen = Listen::Inherited(read("--listen-fd", "3", value())?);
                }
                Some("port") => {
                    let port = read("-port", "49983", value())?;
                    let any = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
                    config.listen = Listen::Addr(SocketAddr::new(any, port));
                }
                Some("resume-handover") => {
                    config.resume = Some(read("--resume-handover", "4", value())?);
                }
                Some("run-dir") => config.run_dir = read("--run-dir", "/run/e2b", value())?,
                Some("forward-to") => {
                    config.forward = Forward::On(read("--forward-to", "10.0.0.2", value())?);
                }
                Some("cgroup-root") => {
                    let root = read("--cgroup-root", "/sys/fs/cgroup", value())?;
                    config.cgroup_root = Some(root);
                }
                Some("no-cgroups") => has_cgroups = false,
                _ => return Err(UsageError::Unknown(argument)),
            }
        }
        config.cgroup_root = config.cgroup_root.filter(|_root| has_cgroups);
        Ok(Self::Serve(config))
    }
}

impl Config {
    /// What another agent is to be told that takes the place of this one, beside its listener.
    pub(crate) fn arguments(&self) -> Vec<OsString> {
        let mut arguments = vec![OsString::from("--run-dir"), self.run_dir.clone().into()];
        match &self.cgroup_root {
            Some(root) => arguments.extend(["--cgroup-root".into(), root.clone().into()]),
            None => arguments.push("--no-cgroups".into()),
        }
        if let Forward::On(address) = self.forward {
            arguments.extend(["--forward-to".to_owned(), address.to_string()].map(OsString::from));
        }
        arguments
    }
}

fn read<T: std::str::FromStr>(
    flag: &'static str,
    example: &'static str,
    value: Option<String>,
) -> Result<T, UsageError> {
    let value = value.ok_or(UsageError::Missing { flag, example })?;
    value.parse().map_err(|_unreadable| UsageError::Invalid { flag, value, example })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(arguments: &[&str]) -> Result<Command, UsageError> {
        Command::parse(arguments.iter().map(OsString::from), Environment::default())
    }

    fn listen(arguments: &[&str]) -> Listen {
        match parse(arguments).unwrap() {
            Command::Serve(config) => config.listen,
            Command::Version | Command::HandoverFormat => panic!("asked for a number"),
        }
    }

    #[test]
    fn without_arguments_it_listens_on_the_port_of_the_protocol() {
        assert_eq!(listen(&[]), Listen::Addr("0.0.0.0:49983".parse().unwrap()));
    }

    #[test]
    fn one_dash_and_two_are_the_same() {
        for version in ["-version", "--version"] {
            assert!(matches!(parse(&[version]), Ok(Command::Version)));
        }
        let expected = Listen::Addr("0.0.0.0:80".parse().unwrap());
        assert_eq!(listen(&["-isnotfc", "-port", "80"]), expected);
        assert_eq!(listen(&["--port=80"]), expected);
    }

    #[test]
    fn an_inherited_socket_is_named_by_its_number() {
        assert_eq!(listen(&["--listen-fd", "3"]), Listen::Inherited(3));
    }

    #[test]
    fn control_groups_have_a_root_unless_none_are_wanted() {
        let root = |arguments: &[&str]| match parse(arguments).unwrap() {
            Command::Serve(config) => config.cgroup_root,
            _ => panic!("asked for something else"),
        };
        assert_eq!(root(&[]), Some(PathBuf::from("/sys/fs/cgroup")));
        for arguments in [["-cgroup-root", "/x"], ["--cgroup-root", "/x"]] {
            assert_eq!(root(&arguments), Some(PathBuf::from("/x")));
        }
        for no in ["-no-cgroups", "--no-cgroups"] {
            assert_eq!(root(&[no, "-cgroup-root=/x"]), None);
            assert_eq!(root(&["-cgroup-root=/x", no]), None);
        }
    }

    #[test]
    fn the_next_agent_is_told_what_this_one_was() {
        for given in [
            &["--run-dir", "/r", "--no-cgroups"][..],
            &["--run-dir", "/r", "--cgroup-root", "/x", "--forward-to", "10.0.0.9"],
        ] {
            let Ok(Command::Serve(config)) = parse(given) else { panic!("refused") };
            assert_eq!(config.arguments(), given);
        }
        let Ok(Command::Serve(config)) = parse(&["--resume-handover", "7"]) else {
            panic!("refused")
        };
        assert_eq!(config.resume, Some(7));
    }

    #[test]
    fn a_bad_argument_says_what_would_be_right() {
        let unknown = parse(&["--verbose-please"]).unwrap_err().to_string();
        assert!(unknown.contains("--verbose-please") && unknown.contains("--listen-fd"));
        let invalid = parse(&["--listen", "here"]).unwrap_err().to_string();
        assert_eq!(invalid, "--listen cannot be 'here'; it must look like 0.0.0.0:49983");
        let missing = parse(&["--listen-fd"]).unwrap_err().to_string();
        assert_eq!(missing, "--listen-fd needs a value, such as 3");
    }
}
