//! The programs that are run, and their versions.

use std::path::{Path, PathBuf};
use std::time::Duration;

use lifecycle::Budget;

use super::{ALL, CONTAINER, Finding, Level};
use crate::process::run;

const VERSION_LIMIT: Duration = Duration::from_secs(5);

pub(super) async fn probe(budget: Budget) -> Vec<Finding> {
    let crun = version("crun", &["--version"], budget).await;
    let runc = version("runc", &["--version"], budget).await;
    let mut findings = vec![runtime(&crun, &runc)];
    for (name, found) in [("crun", crun), ("runc", runc)] {
        if let Ok(version) = found {
            findings.push(Finding::ok(name, CONTAINER, version));
        }
    }
    findings.push(match version("mmdebstrap", &["--version"], budget).await {
        Ok(version) => Finding::ok("mmdebstrap", ALL, version),
        Err(why) => Finding::lack(
            "mmdebstrap",
            ALL,
            Level::Degraded,
            format!("{why}; the base template cannot be made here, one that exists can be used"),
            "apt-get install mmdebstrap",
        ),
    });
    findings
}

fn runtime(crun: &Result<String, String>, runc: &Result<String, String>) -> Finding {
    const NAME: &str = "container runtime";
    match (crun, runc) {
        (Ok(_), _) => Finding::ok(NAME, CONTAINER, "crun".to_owned()),
        (Err(_), Ok(_)) => Finding::lack(
            NAME,
            CONTAINER,
            Level::Degraded,
            "runc, which takes three times as long to start a sandbox",
            "apt-get install crun",
        ),
        (Err(why), Err(_)) => {
            Finding::lack(NAME, CONTAINER, Level::Missing, why, "apt-get install crun")
        }
    }
}

/// Where `program` is, in the places where a host keeps its own programs.
pub(super) fn find(program: &str) -> Option<PathBuf> {
    ["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"]
        .iter()
        .map(|dir| Path::new(dir).join(program))
        .find(|path| path.is_file())
}

/// The first line a program says of itself, or why there is none.
pub(super) async fn version(
    program: &str,
    args: &[&str],
    budget: Budget,
) -> Result<String, String> {
    let path = find(program).ok_or_else(|| format!("{program} is not installed"))?;
    match run(&path, args, None, budget.slice(VERSION_LIMIT)).await {
        Ok(done) if done.status.success() => {
            Ok(done.output.lines().next().unwrap_or_default().trim().to_owned())
        }
        Ok(done) => Err(format!("{} ends with {}", path.display(), done.status)),
        Err(error) => Err(format!("{} cannot be run: {error}", path.display())),
    }
}
