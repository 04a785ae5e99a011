//! Running other programs: visibly, quietly with a step line, or line by line through a reader.

use std::collections::VecDeque;
use std::ffi::OsStr;
use std::io::{BufRead as _, BufReader, IsTerminal as _, Read, Write as _};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use crate::failure::{Failure, Result};
use crate::processes;

/// How many of a quiet command's last lines are kept, and shown if it fails.
const LINES_KEPT: usize = 60;

/// Steps shorter than this say nothing about their time.
const WORTH_TELLING: Duration = Duration::from_secs(1);

/// How long a child's pipes may be silent, once it has ended, before they are given up.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// A cargo command in the workspace root.
pub(crate) fn cargo(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO"));
    command.args(args).current_dir(crate::paths::root());
    command
}

/// Announces a step, runs it, and says how long it took.
///
/// # Errors
/// Those of `work`.
pub(crate) fn step<T>(what: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
    println!("==> {what}");
    let began = Instant::now();
    let result = work();
    let verdict = if result.is_ok() { "done" } else { "failed" };
    println!("    {verdict} in {}", seconds(began.elapsed()));
    result
}

/// Runs a command that talks to the person itself.
///
/// # Errors
/// It cannot be started, or does not end with success.
pub(crate) fn visible(command: &mut Command) -> Result<()> {
    let status = command.status().map_err(Failure::because(format!("start {}", shown(command))))?;
    succeeded(command, status)
}

/// Runs a command whose output only matters if it fails. A step that takes over a second gets a
/// line with its time, which on a terminal also counts while it runs.
///
/// # Errors
/// It cannot be started, fails (with the end of its output), or takes longer than `limit`.
pub(crate) fn quiet(what: &str, command: &mut Command, limit: Duration) -> Result<()> {
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(Failure::because(format!("start {}", shown(command))))?;
    let began = Instant::now();
    let mut output = VecDeque::new();
    let pipes: [Option<Box<dyn Read + Send>>; 2] = [
        child.stdout.take().map(|pipe| Box::new(pipe) as _),
        child.stderr.take().map(|pipe| Box::new(pipe) as _),
    ];
    let mut last_shown = began;
    let in_time = each_line(&mut child, pipes.into_iter().flatten(), limit, |line| match line {
        Some(line) => {
            if output.len() == LINES_KEPT {
                output.pop_front();
            }
            output.push_back(line);
        }
        None if std::io::stderr().is_terminal() && last_shown.elapsed() >= WORTH_TELLING => {
            last_shown = Instant::now();
            eprint!("\r==> {what}: {}", seconds(began.elapsed()));
        }
        None => {}
    });
    if !in_time {
        end(&mut child);
        return Err(Failure::new(format!("{what}: not done after {}", seconds(limit))));
    }
    let status = child.wait().map_err(Failure::because(format!("wait for {}", shown(command))))?;
    if began.elapsed() >= WORTH_TELLING {
        let start = if std::io::stderr().is_terminal() { "\r" } else { "" };
        eprintln!("{start}==> {what}: {}", seconds(began.elapsed()));
    }
    succeeded(command, status).map_err(|failure| {
        let said = output.make_contiguous().join("\n");
        Failure::new(format!("{what}: {failure}\n{said}"))
    })
}

/// Runs a command and shows every line of its standard output to `read`, which says whether the
/// person at the terminal is to see it too. Standard error goes straight to the terminal. Answers
/// whether it ended with success.
///
/// # Errors
/// It cannot be started or takes longer than `limit`.
pub(crate) fn read_lines(
    command: &mut Command,
    limit: Duration,
    mut read: impl FnMut(&str) -> bool,
) -> Result<bool> {
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(Failure::because(format!("start {}", shown(command))))?;
    let mut screen = std::io::stdout();
    let stdout = child.stdout.take().into_iter();
    let in_time = each_line(&mut child, stdout, limit, |line| {
        let Some(line) = line else { return };
        if read(&line) {
            // A closed terminal must not end the tests: their result is the exit code.
            drop(writeln!(screen, "{line}"));
        }
    });
    if !in_time {
        end(&mut child);
        return Err(Failure::new(format!("{}: not done after {}", shown(command), seconds(limit))));
    }
    let status = child.wait().map_err(Failure::because(format!("wait for {}", shown(command))))?;
    Ok(status.success())
}

/// The standard output of a short command, or nothing if it is missing or fails.
pub(crate) fn answer(command: &mut Command) -> Option<String> {
    let output = command.stdin(Stdio::null()).stderr(Stdio::null()).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Looks at a condition until it holds; answers whether it did within `limit`.
pub(crate) fn wait_until(limit: Duration, mut holds: impl FnMut() -> bool) -> bool {
    let began = Instant::now();
    while !holds() {
        if began.elapsed() > limit {
            return false;
        }
        pause();
    }
    true
}

/// Time for people: tenths of seconds, minutes above a hundred of them.
pub(crate) fn seconds(time: Duration) -> String {
    if time < Duration::from_secs(100) {
        return format!("{:.1} s", time.as_secs_f64());
    }
    format!("{} min {} s", time.as_secs() / 60, time.as_secs() % 60)
}

/// Gives `take` every line of all the child's `pipes`, and `None` ten times a second while nothing
/// comes. Answers false if the child still runs after `limit`.
fn each_line<R: Read + Send + 'static>(
    child: &mut Child,
    pipes: impl Iterator<Item = R>,
    limit: Duration,
    mut take: impl FnMut(Option<String>),
) -> bool {
    // Bounded, so that a program that prints without end waits for the terminal.
    let (sender, lines) = mpsc::sync_channel(256);
    for pipe in pipes {
        let sender = sender.clone();
        std::thread::spawn(move || forward_lines(pipe, &sender));
    }
    drop(sender);
    let began = Instant::now();
    let mut quiet_since = began;
    while began.elapsed() < limit {
        match lines.recv_timeout(Duration::from_millis(100)) {
            Ok(line) => {
                quiet_since = Instant::now();
                take(Some(line));
            }
            // A daemon that an installed package started may hold the pipes for ever.
            Err(mpsc::RecvTimeoutError::Timeout)
                if quiet_since.elapsed() > LAST_WORDS
                    && matches!(child.try_wait(), Ok(Some(_))) =>
            {
                return true;
            }
            Err(mpsc::RecvTimeoutError::Timeout) => take(None),
            Err(mpsc::RecvTimeoutError::Disconnected) => return true,
        }
    }
    false
}

fn forward_lines(pipe: impl Read, sender: &mpsc::SyncSender<String>) {
    let mut reader = BufReader::new(pipe);
    let mut line = Vec::new();
    while reader.read_until(b'\n', &mut line).is_ok_and(|count| count > 0) {
        let text = String::from_utf8_lossy(&line).trim_end_matches(['\r', '\n']).to_owned();
        if sender.send(text).is_err() {
            return;
        }
        line.clear();
    }
}

/// Kills a child that is over its time, with everything it started.
fn end(child: &mut Child) {
    for pid in processes::descendants(child.id()) {
        let mut kill = Command::new("kill");
        drop(kill.args(["-KILL", &pid.to_string()]).stderr(Stdio::null()).status());
    }
    drop(child.kill());
    drop(child.wait());
}

#[expect(clippy::disallowed_methods, reason = "std offers no wait for a state of another process")]
fn pause() {
    std::thread::sleep(Duration::from_millis(20));
}

fn succeeded(command: &Command, status: ExitStatus) -> Result<()> {
    if status.success() {
        return Ok(());
    }
    Err(Failure::new(format!("`{}` ended with {status}", shown(command))))
}

/// The command as one would type it.
fn shown(command: &Command) -> String {
    let program = std::path::Path::new(command.get_program());
    let mut text =
        program.file_name().unwrap_or_else(|| OsStr::new("?")).to_string_lossy().into_owned();
    for arg in command.get_args() {
        text.push(' ');
        text.push_str(&arg.to_string_lossy());
    }
    text
}

#[cfg(test)]
mod tests {
    use super::{Command, Duration, quiet, read_lines};

    const PLENTY: Duration = Duration::from_secs(60);

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn every_line_is_shown_to_the_reader_even_one_without_an_end() {
        let mut seen = Vec::new();
        let ok = read_lines(&mut shell("printf 'one\\ntwo'"), PLENTY, |line| {
            seen.push(line.to_owned());
            false
        });
        assert!(ok.unwrap());
        assert_eq!(seen, ["one", "two"]);
    }

    #[test]
    fn a_command_that_fails_is_not_a_success() {
        assert!(!read_lines(&mut shell("exit 3"), PLENTY, |_| false).unwrap());
    }

    #[test]
    fn a_quiet_command_that_fails_shows_what_it_printed() {
        let failure = quiet("greet", &mut shell("echo hello >&2; exit 3"), PLENTY).unwrap_err();
        assert!(failure.chain().contains("hello"), "{}", failure.chain());
    }

    #[test]
    fn a_command_over_its_limit_is_ended_with_what_it_started() {
        let mut started = None;
        let mut endless = shell("sleep 1000 & echo $!; wait");
        let failure = read_lines(&mut endless, Duration::from_secs(5), |line| {
            started = line.parse::<u32>().ok();
            false
        })
        .unwrap_err();
        assert!(failure.chain().contains("not done after"), "{}", failure.chain());
        // It is gone, or dead and waiting for whoever inherited it; a signal takes its time.
        let stat = format!("/proc/{}/stat", started.unwrap());
        let is_over = || std::fs::read_to_string(&stat).map_or(true, |stat| stat.contains(") Z "));
        assert!(super::wait_until(PLENTY, is_over), "the child's child still runs");
    }

    #[test]
    fn a_daemon_that_holds_the_output_does_not_hold_up_the_command() {
        let mut pid = String::new();
        let mut daemon = shell("sleep 1000 & echo $!");
        let ok = read_lines(&mut daemon, PLENTY, |line| {
            line.clone_into(&mut pid);
            false
        });
        assert!(ok.unwrap());
        assert!(Command::new("kill").arg(pid).status().unwrap().success());
    }
}
