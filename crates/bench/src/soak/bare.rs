//! What a container takes without a service: what the machine gives at the moment.

use std::io::{BufRead as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use clap::Args;
use images::Store;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

use crate::floor::Floor;

/// Numbers of containers, far from those that the kernel is still taking away.
const SLOTS: u16 = 256;

/// A program of its own: it sees the host in its own way, and inherits the orphans below it.
#[derive(Debug, Args)]
pub(crate) struct Program {
    /// Where the base template is.
    #[arg(long)]
    images: PathBuf,
    /// What runs in the containers.
    #[arg(long)]
    agent: PathBuf,
}

/// Says that it is ready; then it makes and removes a container for every line it reads, and says how
/// many microseconds each took.
pub(crate) fn run(program: &Program) -> anyhow::Result<()> {
    let view = host::view::enter()?;
    let runtime = tokio::runtime::Runtime::new()?;
    let floor = Floor::new(view, &Store::open(&program.images)?, &program.agent)?;
    let mut stdout = std::io::stdout();
    let mut serve = || -> anyhow::Result<()> {
        writeln!(stdout, "ready")?;
        for (number, line) in (0..SLOTS).cycle().zip(std::io::stdin().lock().lines()) {
            line?;
            let Taken { create, kill } = runtime.block_on(take(&floor, number))?;
            writeln!(stdout, "{} {}", create.as_micros(), kill.as_micros())?;
        }
        Ok(())
    };
    let served = serve();
    runtime.block_on(floor.close())?;
    served
}

async fn take(floor: &Floor, number: u16) -> anyhow::Result<Taken> {
    let mut bare = floor.prepare(number).await?;
    let create = floor.create(&mut bare).await?;
    let kill = floor.kill(&mut bare).await?;
    floor.clean_up(bare).await?;
    Ok(Taken { create, kill })
}

/// One container from its start to its first answer, and from its kill until nothing of it is left.
#[derive(Debug, Clone, Copy)]
pub(super) struct Taken {
    pub create: Duration,
    pub kill: Duration,
}

/// The program, as who asks it sees it.
#[derive(Debug)]
pub(super) struct Bare {
    child: Child,
    asks: Option<ChildStdin>,
    answers: Lines<BufReader<ChildStdout>>,
}

impl Bare {
    /// `images` has the base template, `agent` is what runs in the containers.
    ///
    /// # Errors
    /// There is no template, or what the containers need cannot be had.
    pub(super) async fn start(images: &Path, agent: &Path) -> anyhow::Result<Self> {
        #[expect(
            clippy::disallowed_methods,
            reason = "a program of its own, waited for in `close`"
        )]
        let mut child = Command::new(std::env::current_exe()?)
            .arg("bare")
            .args(["--images".as_ref(), images.as_os_str(), "--agent".as_ref(), agent.as_os_str()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let asks = child.stdin.take().context("no way to ask")?;
        let answers = child.stdout.take().context("no way to hear")?;
        let mut bare = Self { child, asks: Some(asks), answers: BufReader::new(answers).lines() };
        let word = bare.answers.next_line().await?;
        ensure!(word.as_deref() == Some("ready"), "bare containers cannot be made");
        Ok(bare)
    }

    /// # Errors
    /// The container cannot be made or removed.
    pub(super) async fn take(&mut self) -> anyhow::Result<Taken> {
        self.asks.as_mut().context("closed")?.write_all(b"\n").await?;
        let answer = self.answers.next_line().await?.context("no more bare containers are made")?;
        let (create, kill) = answer.split_once(' ').context("an answer of two numbers")?;
        let took = |micros: &str| anyhow::Ok(Duration::from_micros(micros.parse()?));
        Ok(Taken { create: took(create)?, kill: took(kill)? })
    }

    /// Waits until what all containers had in common is removed.
    ///
    /// # Errors
    /// Something of it cannot be removed.
    pub(super) async fn close(&mut self) -> anyhow::Result<()> {
        self.asks = None;
        let status = self.child.wait().await?;
        ensure!(status.success(), "bare containers: {status}");
        Ok(())
    }
}
