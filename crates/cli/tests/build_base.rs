//! Making the base template, interrupted from outside.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

const LIMIT: Duration = Duration::from_secs(300);

fn build(data: &Path) -> Child {
    #[expect(clippy::disallowed_methods, reason = "a test runs the binary from outside")]
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_cofferdam"));
    command
        .args(["images", "build-base", "--data-dir"])
        .arg(data)
        .env_clear()
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + LIMIT;
    while !is_so() {
        assert!(Instant::now() < deadline, "not so: {what}");
        std::thread::yield_now();
    }
}

/// Whether the tools have written to the root file system.
fn has_begun(data: &Path) -> bool {
    let drafts = fs::read_dir(data.join("images")).into_iter().flatten().flatten();
    drafts.into_iter().any(|draft| draft.path().join("rootfs/etc/apt").is_dir())
}

/// The processes that have `data` in their command line.
fn at_work_on(data: &Path) -> Vec<String> {
    let own = std::process::id().to_string();
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let command = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let command = String::from_utf8_lossy(&command).replace('\0', " ");
        if command.contains(data.to_str().unwrap()) && entry.file_name() != own.as_str() {
            found.push(command);
        }
    }
    found
}

#[test]
#[expect(clippy::print_stdout, reason = "a skipped test says so")]
fn whoever_ends_it_nothing_goes_on_working() {
    if !rustix::process::geteuid().is_root() || !Path::new("/usr/bin/mmdebstrap").is_file() {
        println!("skipped, because it needs root and mmdebstrap");
        return;
    }
    for signal in [Signal::KILL, Signal::TERM] {
        let data = tempfile::tempdir().unwrap();
        let mut maker = build(data.path());
        wait_until("the tools are at work", || has_begun(data.path()));
        // A child of ours that was not waited for: the number is its own.
        kill_process(Pid::from_child(&maker), signal).unwrap();
        assert!(!maker.wait().unwrap().success());
        if signal == Signal::KILL {
            wait_until("nobody is at work", || at_work_on(data.path()).is_empty());
            // What nobody was there to remove goes when the templates are looked at again.
            drop(images::Store::open(&data.path().join("images")).unwrap());
        }
        assert_eq!(at_work_on(data.path()), Vec::<String>::new());
        assert_eq!(fs::read_dir(data.path().join("images")).unwrap().count(), 0);
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        assert!(!mounts.contains(data.path().to_str().unwrap()), "{mounts}");
    }
}
