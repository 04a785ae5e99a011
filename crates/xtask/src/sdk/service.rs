//! The service under test: a real `cofferdam up` with a data directory and a port of its own.

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use crate::command;
use crate::failure::{Failure, Result};
use crate::{paths, processes};

/// The first start also makes the base template, from packages it has to fetch.
const START_LIMIT: Duration = Duration::from_secs(10 * 60);

/// The service ends all sandboxes before it stops.
const STOP_LIMIT: Duration = Duration::from_secs(60);

/// What a start that was cut off leaves is reaped by the second of two sweeps, 10 s apart.
const REAP_LIMIT: Duration = Duration::from_secs(30);

/// What the service prints, once, when it serves.
const READY: &str = "cofferdam: ready on http://";

/// The part of the data directory that is kept from run to run: making the base template takes
/// half a minute and is not what these tests are about.
const KEPT: &str = "images";

/// Logs of earlier services that are kept: a test that fails is explained by the one it ran against.
const LOGS_KEPT: usize = 16;

/// A running service.
pub(crate) struct Service {
    child: Child,
    data: PathBuf,
    log: PathBuf,
    credentials: Vec<(String, String)>,
}

impl Service {
    /// Starts it on a free port, fresh except for the base template, and waits until it serves.
    ///
    /// # Errors
    /// It ends or stays silent; the message has the end of its log.
    pub(crate) fn start(data: &Path) -> Result<Self> {
        Self::start_with(data, &[])
    }

    /// The same with more arguments.
    ///
    /// # Errors
    /// As [`Service::start`].
    pub(crate) fn start_with(data: &Path, args: &[&str]) -> Result<Self> {
        clear(data)?;
        let log = paths::sdk().join("service.log");
        keep_earlier(&log)?;
        let log_file =
            File::create(&log).map_err(Failure::because(format!("make {}", log.display())))?;
        let mut child = cofferdam()
            .arg("up")
            .arg("--data-dir")
            .arg(data)
            // Any port: the credentials name it.
            .args(["--listen", "127.0.0.1:0"])
            // What a test leaves running is not waited for.
            .args(["--shutdown-drain-timeout", "0s"])
            .args(args)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log_file)
            .spawn()
            .map_err(Failure::because("start cofferdam up"))?;
        let ready = ready_line(&mut child);
        let mut service = Self { child, data: data.to_path_buf(), log, credentials: Vec::new() };
        if let Err(failure) = ready.and_then(|()| service.read_credentials()) {
            let log = service.end_of_log();
            drop(service.child.kill());
            drop(service.child.wait());
            return Err(Failure::new(format!("{}\n{log}", failure.chain())));
        }
        Ok(service)
    }

    /// The variables a client needs.
    pub(crate) fn credentials(&self) -> impl Iterator<Item = (&str, &str)> {
        self.credentials.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// What it says to standard error.
    pub(crate) fn log(&self) -> &Path {
        &self.log
    }

    /// Asks it to stop as a service manager would, and sees that it did, cleanly.
    ///
    /// # Errors
    /// It was already gone, does not stop in time, ends with a failure, or leaves something.
    pub(crate) fn stop(self, keep: bool) -> Result<()> {
        // 3: something was still running, as it is when a test leaves a sandbox behind.
        self.stop_with(&[0, 3], keep)
    }

    /// The same for one on which nothing runs any more.
    ///
    /// # Errors
    /// As [`Service::stop`], and that something did.
    pub(crate) fn stop_drained(self, keep: bool) -> Result<()> {
        self.stop_with(&[0], keep)
    }

    fn stop_with(mut self, codes: &[i32], keep: bool) -> Result<()> {
        let gone = self.child.try_wait().map_err(Failure::because("look for the service"))?;
        if let Some(status) = gone {
            let log = self.end_of_log();
            return Err(Failure::new(format!("the service ended by itself, {status}\n{log}")));
        }
        let id = self.child.id();
        let dead =
            || processes::children(id).into_iter().filter(|(_, state)| *state == 'Z').count();
        let all_reaped = command::wait_until(REAP_LIMIT, || dead() == 0);
        // The child has not been waited for, so this id cannot have become another's.
        let mut kill = Command::new("kill");
        command::visible(kill.args(["-TERM", &id.to_string()]))?;
        let mut status = None;
        command::wait_until(STOP_LIMIT, || {
            status = self.child.try_wait().ok().flatten();
            status.is_some()
        });
        let Some(status) = status else {
            drop(self.child.kill());
            drop(self.child.wait());
            let log = self.end_of_log();
            return Err(Failure::new(format!("the service did not stop when asked\n{log}")));
        };
        if !status.code().is_some_and(|code| codes.contains(&code)) {
            let log = self.end_of_log();
            return Err(Failure::new(format!("the service stopped with {status}\n{log}")));
        }
        command::visible(cofferdam().args(["leaks", "--data-dir"]).arg(&self.data))?;
        if !keep {
            clear(&self.data)?;
        }
        if all_reaped {
            return Ok(());
        }
        Err(Failure::new("the service kept processes of ended sandboxes that it never waited for"))
    }

    fn read_credentials(&mut self) -> Result<()> {
        let file = self.data.join("credentials.env");
        let text = fs::read_to_string(&file)
            .map_err(Failure::because(format!("read {}", file.display())))?;
        self.credentials = assignments(&text);
        for name in
            ["E2B_API_KEY", "E2B_API_URL", "E2B_SANDBOX_URL", "E2B_DOMAIN", "COFFERDAM_ADMIN_TOKEN"]
        {
            if !self.credentials.iter().any(|(known, _)| known == name) {
                return Err(Failure::new(format!("{} has no {name}", file.display())));
            }
        }
        Ok(())
    }

    fn end_of_log(&self) -> String {
        let text = fs::read(&self.log).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<&str> = text.lines().rev().take(20).collect();
        let last: Vec<&str> = lines.into_iter().rev().collect();
        format!("the end of {}:\n{}", self.log.display(), last.join("\n"))
    }
}

fn cofferdam() -> Command {
    Command::new(paths::release().join("cofferdam"))
}

/// Waits for the ready line, and keeps reading after it so that the service never blocks on a
/// full pipe.
fn ready_line(child: &mut Child) -> Result<()> {
    let stdout = child.stdout.take().ok_or_else(|| Failure::new("the service has no output"))?;
    let (sender, ready) = mpsc::sync_channel(1);
    std::thread::spawn(move || {
        for line in BufReader::new(stdout).lines().map_while(std::result::Result::ok) {
            if line.starts_with(READY) {
                // Nobody listens for a second one.
                drop(sender.try_send(line));
            }
        }
    });
    ready.recv_timeout(START_LIMIT).map(drop).map_err(|reason| match reason {
        mpsc::RecvTimeoutError::Timeout => Failure::new("the service did not become ready in time"),
        mpsc::RecvTimeoutError::Disconnected => {
            Failure::new("the service ended before it was ready")
        }
    })
}

/// Removes everything in the data directory but the base template.
fn clear(data: &Path) -> Result<()> {
    let remove = || -> std::io::Result<()> {
        fs::create_dir_all(data)?;
        fs::create_dir_all(paths::sdk())?;
        for entry in fs::read_dir(data)? {
            let entry = entry?;
            if entry.file_name() == KEPT {
                continue;
            }
            if entry.file_type()?.is_dir() {
                fs::remove_dir_all(entry.path())?;
            } else {
                fs::remove_file(entry.path())?;
            }
        }
        Ok(())
    };
    remove().map_err(Failure::because(format!("clear {}", data.display())))
}

/// The variables of a file of `NAME=value` lines, with or without `export` and quotes.
fn assignments(text: &str) -> Vec<(String, String)> {
    text.lines()
        .map(|line| line.trim().trim_start_matches("export ").trim())
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| line.split_once('='))
        .map(|(name, value)| (name.to_owned(), value.trim_matches(['"', '\'']).to_owned()))
        .collect()
}

/// Gives the log of the service before this one a name of its own, in the place of the oldest.
fn keep_earlier(log: &Path) -> Result<()> {
    let name = |age: usize| log.with_extension(format!("{age}.log"));
    for age in (1..LOGS_KEPT).rev() {
        rename(&name(age), &name(age + 1))?;
    }
    rename(log, &name(1))
}

fn rename(from: &Path, to: &Path) -> Result<()> {
    match fs::rename(from, to) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(Failure::because(format!("rename {}", from.display()))(error))
        }
        _done => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::assignments;

    #[test]
    fn credentials_are_read_with_and_without_export_and_quotes() {
        let read = assignments("# ours\nexport A=1\nB=\"two\"\n\nnot a line\nC=a=b\n");
        let pairs: Vec<_> = read.iter().map(|(a, b)| (a.as_str(), b.as_str())).collect();
        assert_eq!(pairs, [("A", "1"), ("B", "two"), ("C", "a=b")]);
    }
}
