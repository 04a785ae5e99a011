use std::path::Path;
use std::time::Duration;

use lifecycle::Budget;
use tokio_util::sync::CancellationToken;

use super::{Command, CommandError, Keeper, find_program};

/// `None` where programs cannot get namespaces of their own.
#[expect(clippy::print_stdout, reason = "a skipped test says so")]
pub(crate) fn keeper() -> Option<Keeper> {
    if !rustix::process::geteuid().is_root() {
        println!("skipped, because namespaces of its own need root");
        return None;
    }
    let find = |tool| find_program(tool).unwrap();
    Some(Keeper { setpriv: find("setpriv"), unshare: find("unshare") })
}

/// The processes that have `dir` or something below it as their current directory.
pub(crate) fn processes_in(dir: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").unwrap() {
        let process = entry.unwrap().path();
        if std::fs::read_link(process.join("cwd")).is_ok_and(|cwd| cwd.starts_with(dir)) {
            // None when it has ended meanwhile.
            found.extend(std::fs::read_to_string(process.join("status")).ok());
        }
    }
    found
}

fn shell<'a>(keeper: &'a Keeper, script: &str) -> Command<'a> {
    let args = vec!["-c".into(), script.into()];
    Command { name: "sh", keeper, program: Path::new("/bin/sh"), args, scratch: Path::new("/tmp") }
}

async fn run(command: Command<'_>, line: impl FnMut(&str)) -> Result<(), CommandError> {
    command.run(line, &CancellationToken::new(), Budget::within(Duration::from_secs(60))).await
}

#[tokio::test]
async fn a_failure_carries_the_last_lines_and_not_the_first() {
    let Some(keeper) = keeper() else { return };
    let noisy = shell(&keeper, "for i in $(seq 1000); do echo line-$i >&2; done; exit 3");
    let mut seen = 0;
    let error = run(noisy, |_| seen += 1).await.unwrap_err();
    assert_eq!(seen, 1000);
    assert!(error.tail().ends_with("line-1000"), "{error}");
    assert!(!error.tail().contains("line-900\n") && error.to_string().contains("status: 3"));
}

#[tokio::test]
async fn a_line_without_end_does_not_grow() {
    let Some(keeper) = keeper() else { return };
    let endless = shell(&keeper, "head -c 10000000 /dev/zero | tr '\\0' x >&2; exit 1");
    let error = run(endless, |_| ()).await.unwrap_err();
    assert!(error.tail().len() <= super::LINE_BYTES);
}

#[tokio::test]
async fn what_it_forgets_when_it_is_killed_is_where_it_was_told_to_put_it() {
    let Some(keeper) = keeper() else { return };
    let dir = tempfile::tempdir().unwrap();
    let mut forgets = shell(&keeper, "mktemp >&2; exit 3");
    forgets.scratch = dir.path();
    let mut made = String::new();
    run(forgets, |line| line.clone_into(&mut made)).await.unwrap_err();
    assert_eq!(Path::new(&made).parent(), Some(dir.path()), "{made}");
}

/// Two sessions that have left the program's process group, and one that ignores what it can.
const STAYERS: &str = "trap '' TERM INT HUP; setsid sleep 1000 & setsid sh -c 'sleep 1000; :' & \
                       echo ready >&2; sleep 1000; wait";

#[tokio::test]
async fn when_the_time_is_over_all_it_has_started_is_gone() {
    let Some(keeper) = keeper() else { return };
    let dir = tempfile::tempdir().unwrap();
    let script = format!("cd {}; {STAYERS}", dir.path().display());
    // Long enough for it to be ready.
    let budget = Budget::within(Duration::from_secs(5));
    let slow = shell(&keeper, &script);
    let error = slow.run(|_| (), &CancellationToken::new(), budget).await.unwrap_err();
    assert!(matches!(&error, CommandError::TooSlow { tail, .. } if tail == "ready"), "{error:?}");
    assert_eq!(processes_in(dir.path()), Vec::<String>::new());
}

#[tokio::test]
async fn when_it_is_cancelled_all_it_has_started_is_gone() {
    let Some(keeper) = keeper() else { return };
    let dir = tempfile::tempdir().unwrap();
    let script = format!("cd {}; {STAYERS}", dir.path().display());
    let (cancel, budget) = (CancellationToken::new(), Budget::within(Duration::from_secs(60)));
    let error = shell(&keeper, &script).run(|_| cancel.cancel(), &cancel, budget).await;
    assert!(matches!(error, Err(CommandError::Cancelled { .. })), "{error:?}");
    assert_eq!(processes_in(dir.path()), Vec::<String>::new());
    // Asked for before it began, it ends as soon.
    let error = shell(&keeper, &script).run(|_| (), &cancel, budget).await;
    assert!(matches!(error, Err(CommandError::Cancelled { .. })), "{error:?}");
    assert_eq!(processes_in(dir.path()), Vec::<String>::new());
}
