//! Another program takes the place of this one in its process (execve(2)): with the listening sockets,
//! the arguments, the environment and the children. Whoever supervises the process sees no end of it.
//!
//! The program is looked at before anything is let go of: one that does not run here, or does not
//! understand the configuration, leaves the service as it was. One that cannot be begun after that
//! leaves the program that runs, which then begins anew.

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::Context;
use host::process::{self, ExitStatus};
use host::view::Home;
use lifecycle::Budget;

use crate::config::{Choice, Config};
use crate::say;
use crate::sockets::handover::Asker;
use crate::sockets::{Sockets, same_process};

/// How long a program may take to say what it makes of the configuration.
const LOOK: Duration = Duration::from_secs(10);
/// Of what it says, so much is told on.
const SAID: usize = 500;
/// This program, whatever its file is called by now, or whether it has one.
const OWN: &str = "/proc/self/exe";
/// In the environment of a program that was asked to stop before it began: in this process.
const STOP: &str = "STOP_PID";

/// What this program was started with.
#[derive(Debug)]
pub(crate) struct Again {
    /// That say the same settings.
    pub(crate) flags: Vec<OsString>,
    pub(crate) env: Vec<(OsString, OsString)>,
}

/// A program that was looked at, and who waits for it.
#[derive(Debug)]
pub(super) struct Candidate {
    program: PathBuf,
    asker: Asker,
}

impl Candidate {
    /// The service goes on as it is.
    pub(super) fn refuse(self, why: &str) {
        self.asker.refuse(why);
    }
}

/// Looks at the program that `asker` wants in the place of this one. `None` when it was refused.
///
/// Cancel safety: yes; who asked is hung up on.
pub(super) async fn look_at(
    config: &Config,
    again: &Again,
    (program, asker): (PathBuf, Asker),
) -> Option<Candidate> {
    match check(config, again, &program).await {
        Ok(version) => {
            tracing::info!(program = %program.display(), version, "another program takes over");
            Some(Candidate { program, asker })
        }
        Err(error) => {
            let why = format!("{error:#}");
            tracing::warn!(program = %program.display(), why, "it is not run in this one's place");
            asker.refuse(&why);
            None
        }
    }
}

/// The version of `program`, if it runs here and could start as this one was.
async fn check(config: &Config, again: &Again, program: &Path) -> anyhow::Result<String> {
    let name = program.display();
    anyhow::ensure!(program.is_absolute() && program.is_file(), "there is no program {name}");
    let version = run(again, program, &["--version".into()]).await?;
    if matches!(config.envd, Choice::Auto) {
        let agent = program.with_file_name("envd");
        let agent_name = agent.display();
        anyhow::ensure!(agent.is_file(), "the guest agent {agent_name} is not there, beside it");
    }
    let settings = ["config".into()].into_iter().chain(again.flags.iter().cloned());
    run(again, program, &Vec::from_iter(settings)).await?;
    Ok(version)
}

async fn run(again: &Again, program: &Path, args: &[OsString]) -> anyhow::Result<String> {
    let name = program.display();
    let ran = process::run_with(&again.env, program, args, Budget::within(LOOK)).await;
    let ran = ran.with_context(|| format!("run {name}"))?;
    let said: String = ran.output.trim().chars().take(SAID).collect();
    if ran.status != ExitStatus::Code(0) {
        let first = args.first().map(|first| first.to_string_lossy()).unwrap_or_default();
        anyhow::bail!("`{name} {first}` failed: {said}");
    }
    Ok(said)
}

/// What follows this program.
#[derive(Debug)]
pub(crate) struct Next {
    candidate: Candidate,
    sockets: Sockets,
    again: Again,
    /// Somebody wanted this one to stop, too late.
    stops: bool,
}

impl Next {
    pub(super) fn new(candidate: Candidate, sockets: Sockets, again: Again, stops: bool) -> Self {
        Self { candidate, sockets, again, stops }
    }

    /// Becomes the program; or this one again, if that does not work. To be called when nothing of
    /// this program is needed any more, in the thread that was `home` first.
    ///
    /// Returns why neither could be done. Then the process ends; what runs runs on.
    pub(crate) fn begin(self, home: Home) -> anyhow::Error {
        if let Err(error) = home.go_back() {
            let error = observe::chain(&error).to_string();
            tracing::warn!(error, "the next program begins in this one's view of the file system");
        }
        let Self { candidate: Candidate { program, asker }, sockets, again, stops } = self;
        let asks = match asker.try_clone() {
            Ok(asks) => asks,
            Err(error) => return anyhow::Error::new(error).context("keep who asked"),
        };
        let mut named = sockets.into_named();
        named.push(asker.into_named());
        let told = match same_process::leave(&named) {
            Ok(told) => told,
            Err(error) => return anyhow::Error::new(error).context("leave the sockets open"),
        };
        let command = |program: &Path| command(program, &again, &told, stops);
        let error = command(&program).exec();
        let why = format!("{} cannot be run: {error}", program.display());
        say::remark(&format!("cofferdam: {why}; going on as before"));
        asks.refuse(&why);
        let error = command(Path::new(OWN)).exec();
        anyhow::Error::new(error).context("begin this program anew")
    }
}

#[expect(clippy::disallowed_methods, reason = "nobody owns it: it is this process")]
fn command(
    program: &Path,
    again: &Again,
    (name, sockets): &(&'static str, String),
    stops: bool,
) -> Command {
    let mut command = Command::new(program);
    command.arg("up").args(&again.flags).env_clear();
    command.envs(again.env.iter().map(|(name, value)| (name, value)));
    command.env_remove(STOP).env(name, sockets);
    if stops {
        command.env(STOP, std::process::id().to_string());
    }
    command
}

/// Whether somebody wanted this process to stop while another program was in it.
pub(super) fn is_to_stop(env: &[(OsString, OsString)]) -> bool {
    let own = std::process::id().to_string();
    env.iter().any(|(name, value)| name == STOP && value.to_str() == Some(&own))
}
