//! A `cofferdam up` of its own.

use std::fs;
use std::io::{BufRead, BufReader, Lines};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

#[derive(Debug)]
pub(crate) struct Service {
    child: Child,
    /// Kept: a service that cannot say its last line has a reason to complain.
    _stdout: Lines<BufReader<ChildStdout>>,
    pub address: SocketAddr,
    pub key: String,
    pub admin: String,
}

/// The data directory of benchmarks. Kept between runs for the base template in it.
pub(crate) fn data_dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/bench-data")
}

impl Service {
    /// Starts the service and waits for its ready line.
    pub(crate) fn start() -> anyhow::Result<Self> {
        let dir = data_dir();
        fs::create_dir_all(&dir)?;
        let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/release/cofferdam");
        #[expect(clippy::disallowed_methods, reason = "the one child of a benchmark")]
        let mut child = Command::new(program)
            .args(["up", "--listen", "127.0.0.1:0", "--max-sandboxes", "1000", "--data-dir"])
            .arg(&dir)
            .args(["--log", "warn", "--shutdown-drain-timeout", "0s"])
            .env("COFFERDAM_TEAM_MAX_SANDBOXES", "1000")
            .stdout(Stdio::piped())
            .spawn()
            .context("start cofferdam")?;
        let mut lines = BufReader::new(child.stdout.take().context("no stdout")?).lines();
        let Some(Ok(line)) = lines.next() else { bail!("cofferdam ended before it was ready") };
        let url = line.rsplit_once("http://").context("not a ready line")?.1;
        let address = url.parse().context("not an address")?;
        let credentials = fs::read_to_string(dir.join("credentials.env"))?;
        let value = |name: &str| {
            let line =
                credentials.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
            let line = line.with_context(|| format!("no {name} in credentials.env"))?;
            anyhow::Ok(line.trim_matches(['"', '\'']).to_owned())
        };
        let (key, admin) = (value("E2B_API_KEY")?, value("COFFERDAM_ADMIN_TOKEN")?);
        Ok(Self { child, _stdout: lines, address, key, admin })
    }

    /// Resident memory, MiB.
    pub(crate) fn resident_mib(&self) -> anyhow::Result<f64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kib = line.context("no VmRSS")?.trim().trim_end_matches(" kB").trim();
        Ok(kib.parse::<f64>()? / 1024.0)
    }

    /// Stops it by its signal; its exit code says whether anything is left. How long that took.
    pub(crate) fn stop(mut self) -> anyhow::Result<Duration> {
        let began = Instant::now();
        let pid = i32::try_from(self.child.id())?;
        let pid = rustix::process::Pid::from_raw(pid).context("no pid")?;
        rustix::process::kill_process(pid, rustix::process::Signal::TERM)?;
        let status = self.child.wait()?;
        // 3: it had sandboxes to end, and has ended them.
        if !matches!(status.code(), Some(0 | 3)) {
            bail!("cofferdam ended with {status}: something is left on the host");
        }
        Ok(began.elapsed())
    }
}
