//! A `cofferdam up` of its own.

use std::fs;
use std::io::{BufRead, BufReader, Lines};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

/// How a service is started.
#[derive(Debug, Clone)]
pub(crate) struct Launch {
    pub program: PathBuf,
    pub data: PathBuf,
    pub listen: SocketAddr,
    /// The agent, where it is not beside the program.
    pub envd: Option<PathBuf>,
    /// What `COFFERDAM_FAULTS` says; only a build for tests reads it.
    pub faults: Option<String>,
    /// Takes over from the service that runs on the same directory.
    pub handover: bool,
    /// A signal leaves its sandboxes to the next service.
    pub leaves: bool,
    /// Where standard error goes, when not to the terminal.
    pub log: Option<PathBuf>,
}

/// A service that was started and has not said yet that it serves.
#[derive(Debug)]
pub(crate) struct Starting {
    child: Child,
    data: PathBuf,
}

#[derive(Debug)]
pub(crate) struct Service {
    child: Child,
    /// Kept: a service that cannot say its last line has a reason to complain.
    _stdout: Lines<BufReader<ChildStdout>>,
    pub address: SocketAddr,
    pub key: String,
    pub admin: String,
}

/// Below cargo's output directory.
pub(crate) fn target(name: &str) -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.ancestors().nth(2).unwrap_or(here).join("target").join(name)
}

/// The data directory of benchmarks. Kept between runs for the base template in it.
pub(crate) fn data_dir() -> PathBuf {
    target("bench-data")
}

impl Default for Launch {
    fn default() -> Self {
        Self {
            program: target("release/cofferdam"),
            data: data_dir(),
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            envd: None,
            faults: None,
            handover: false,
            leaves: false,
            log: None,
        }
    }
}

impl Launch {
    pub(crate) fn spawn(&self) -> anyhow::Result<Starting> {
        fs::create_dir_all(&self.data)?;
        #[expect(clippy::disallowed_methods, reason = "the one child of a benchmark")]
        let mut command = Command::new(&self.program);
        command
            .args(["up", "--max-sandboxes", "1000", "--listen", &self.listen.to_string()])
            .arg("--data-dir")
            .arg(&self.data)
            .args(["--log", "warn", "--shutdown-drain-timeout", "0s"])
            .env("COFFERDAM_TEAM_MAX_SANDBOXES", "1000")
            .stdout(Stdio::piped());
        if let Some(envd) = &self.envd {
            command.arg("--envd").arg(envd);
        }
        if self.handover {
            command.arg("--handover");
        }
        if self.leaves {
            command.args(["--shutdown-leave", "always"]);
        }
        if let Some(faults) = &self.faults {
            // The traces of panics that were asked for read the whole program's debugging information
            // into memory, which looks like growth.
            command.env("COFFERDAM_FAULTS", faults).env("RUST_BACKTRACE", "0");
        }
        if let Some(log) = &self.log {
            command.stderr(fs::File::options().create(true).append(true).open(log)?);
        }
        let child = command.spawn().with_context(|| format!("start {}", self.program.display()))?;
        Ok(Starting { child, data: self.data.clone() })
    }
}

impl Starting {
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits for the ready line.
    pub(crate) fn ready(mut self) -> anyhow::Result<Service> {
        let mut lines = BufReader::new(self.child.stdout.take().context("no stdout")?).lines();
        let Some(Ok(line)) = lines.next() else {
            let status = self.child.wait()?;
            bail!("cofferdam ended before it was ready: {status}");
        };
        let url = line.rsplit_once("http://").context("not a ready line")?.1;
        let address = url.parse().context("not an address")?;
        let credentials = fs::read_to_string(self.data.join("credentials.env"))?;
        let value = |name: &str| {
            let line =
                credentials.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
            let line = line.with_context(|| format!("no {name} in credentials.env"))?;
            anyhow::Ok(line.trim_matches(['"', '\'']).to_owned())
        };
        let (key, admin) = (value("E2B_API_KEY")?, value("COFFERDAM_ADMIN_TOKEN")?);
        Ok(Service { child: self.child, _stdout: lines, address, key, admin })
    }

    /// `kill -9`, and waits for the end.
    pub(crate) fn kill(mut self) -> anyhow::Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }
}

impl Service {
    /// Starts the service and waits for its ready line.
    pub(crate) fn start() -> anyhow::Result<Self> {
        Launch::default().spawn()?.ready()
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Resident memory, MiB.
    pub(crate) fn resident_mib(&self) -> anyhow::Result<f64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kib = line.context("no VmRSS")?.trim().trim_end_matches(" kB").trim();
        Ok(kib.parse::<f64>()? / 1024.0)
    }

    /// How it ended, if it has.
    pub(crate) fn ended(&mut self) -> anyhow::Result<Option<ExitStatus>> {
        Ok(self.child.try_wait()?)
    }

    /// `kill -9`, and waits for the end.
    pub(crate) fn kill(mut self) -> anyhow::Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// Waits for one that was told to end.
    pub(crate) fn wait(mut self) -> anyhow::Result<ExitStatus> {
        Ok(self.child.wait()?)
    }

    /// Sends it SIGTERM and waits.
    pub(crate) fn terminate(self) -> anyhow::Result<ExitStatus> {
        let pid = i32::try_from(self.child.id())?;
        let pid = rustix::process::Pid::from_raw(pid).context("no pid")?;
        rustix::process::kill_process(pid, rustix::process::Signal::TERM)?;
        self.wait()
    }

    /// Stops it by its signal; its exit code says whether anything is left. How long that took.
    pub(crate) fn stop(self) -> anyhow::Result<Duration> {
        let began = Instant::now();
        let status = self.terminate()?;
        // 3: it had sandboxes to end, and has ended them.
        if !matches!(status.code(), Some(0 | 3)) {
            bail!("cofferdam ended with {status}: something is left on the host");
        }
        Ok(began.elapsed())
    }
}

/// `cofferdam leaks --json` of the same data directory.
pub(crate) fn leaks(launch: &Launch) -> anyhow::Result<serde_json::Value> {
    #[expect(clippy::disallowed_methods, reason = "a short command, waited for here")]
    let output = Command::new(&launch.program)
        .args(["leaks", "--json", "--data-dir"])
        .arg(&launch.data)
        .output()
        .context("start cofferdam leaks")?;
    // 3: something is leaked, and named.
    if !matches!(output.status.code(), Some(0 | 3)) {
        bail!("{}: {}", output.status, String::from_utf8_lossy(&output.stderr));
    }
    Ok(serde_json::from_slice(&output.stdout)?)
}
