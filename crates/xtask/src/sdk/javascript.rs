//! The JavaScript SDK: one `node_modules` per release, Node's own test runner.

use std::ffi::OsString;
use std::fs;
use std::path::PathBuf;
use std::process::Command;

use super::{RELEASES, Release, SUITE_LIMIT, Service, once, suite_environment};
use crate::command;
use crate::failure::{Failure, Result};
use crate::paths;
use crate::test::Tally;

/// A WebSocket client that can set headers, which the one built into newer Node.js cannot.
const WEBSOCKET: &str = "ws@8.23.0";

/// E2B's command line, and the manifest that pins the SDK it brings along.
const COMMAND_LINE: &str = "@e2b/cli@2.19.0";
const MANIFEST: &str = concat!(
    r#"{"private": true, "type": "module", "overrides": {"@e2b/cli": {"e2b": "2.49.0"}}}"#,
    "\n"
);

/// The file of its tests.
const COMMAND_LINE_TEST: &str = "cli.test.mjs";

/// The oldest Node.js both SDK releases run on, and the one fetched where the host's is older.
const OLDEST_NODE: (u32, u32) = (20, 18);
const FETCHED_NODE: &str = "22.20.0";

/// One test may take this long. Milliseconds.
const TEST_TIMEOUT_MS: &str = "120000";

/// Makes the folder of `release` with its packages, unless it is there.
///
/// # Errors
/// `npm` fails.
pub(super) fn install(release: &Release) -> Result<()> {
    let sdk = format!("e2b@{}", release.version);
    let mut wanted = vec![sdk, WEBSOCKET.to_owned(), COMMAND_LINE.to_owned()];
    if !host_node_is_new_enough() {
        wanted.push(node_package()?);
    }
    let packages = wanted.join(" ");
    once(release, &packages, || {
        let manifest = release.folder().join("package.json");
        fs::write(&manifest, MANIFEST)
            .map_err(Failure::because(format!("write {}", manifest.display())))?;
        let mut npm = Command::new("npm");
        npm.args(["install", "--no-audit", "--no-fund", "--no-save", "--loglevel=error"])
            .args(&wanted)
            .current_dir(release.folder());
        command::quiet(&format!("install {packages}"), &mut npm, SUITE_LIMIT)
    })
}

/// Runs the suite.
///
/// # Errors
/// The runner itself did not work; failed tests are in the tally.
pub(super) fn test(release: &Release, service: &Service, tally: &mut Tally) -> Result<()> {
    // E2B's command line brings an SDK of its own: once is enough.
    let is_last = RELEASES.last() == Some(release);
    let wanted = |name: &str| name.ends_with(".test.mjs") && (is_last || name != COMMAND_LINE_TEST);
    let suite = copy_suite(release, &["js"], wanted)?;
    run(release, service, &suite, tally)
}

/// Runs the one test that ends the node of `service`.
///
/// # Errors
/// As [`test`].
pub(super) fn test_end(
    release: &Release,
    service: &Service,
    end: &str,
    tally: &mut Tally,
) -> Result<()> {
    let wanted = format!("{end}.test.mjs");
    let suite = copy_suite(release, &["js", "drain"], |name| name == wanted)?;
    run(release, service, &suite, tally)
}

fn run(release: &Release, service: &Service, suite: &[PathBuf], tally: &mut Tally) -> Result<()> {
    let results = release.folder().join("results.tap");
    let mut to_file = OsString::from("--test-reporter-destination=");
    to_file.push(&results);
    let mut node = Command::new(node(release));
    node.args(["--test", "--test-timeout", TEST_TIMEOUT_MS])
        .args(["--test-reporter=spec", "--test-reporter-destination=stdout"])
        .arg("--test-reporter=tap")
        .arg(to_file)
        .args(suite)
        .current_dir(release.folder());
    suite_environment(&mut node, service);
    let failed_before = tally.failed();
    let ok = command::read_lines(&mut node, SUITE_LIMIT, |_| true)?;
    let listed = fs::read_to_string(&results)
        .map_err(Failure::because(format!("read {}", results.display())))?;
    for line in listed.lines() {
        tally.tap_line(&release.name(), line);
    }
    if ok || tally.failed() > failed_before {
        return Ok(());
    }
    Err(Failure::new("node ended without success and named no failed test"))
}

/// Copies the modules of `folders` next to the packages they import: a module is looked for
/// upwards from the file that names it, and the source tree holds no packages. Answers the files
/// whose names are `wanted`.
fn copy_suite(
    release: &Release,
    folders: &[&str],
    wanted: impl Fn(&str) -> bool,
) -> Result<Vec<PathBuf>> {
    let to = release.folder().join("suite");
    let copy = || -> std::io::Result<Vec<PathBuf>> {
        if to.exists() {
            fs::remove_dir_all(&to)?;
        }
        fs::create_dir_all(&to)?;
        let mut tests = Vec::new();
        for folder in folders {
            for entry in fs::read_dir(paths::sdk_tests().join(folder))? {
                let entry = entry?;
                let name = entry.file_name().to_string_lossy().into_owned();
                let copied = to.join(&name);
                if name.ends_with(".mjs") {
                    fs::copy(entry.path(), &copied)?;
                }
                if wanted(&name) {
                    tests.push(copied);
                }
            }
        }
        tests.sort();
        Ok(tests)
    };
    copy().map_err(Failure::because(format!("copy the suite to {}", to.display())))
}

/// The host's Node.js, or the fetched one.
fn node(release: &Release) -> PathBuf {
    if host_node_is_new_enough() {
        return PathBuf::from("node");
    }
    let name = node_package().unwrap_or_default();
    let package = name.split('@').next().unwrap_or_default();
    release.folder().join("node_modules").join(package).join("bin/node")
}

fn host_node_is_new_enough() -> bool {
    let answer = command::answer(Command::new("node").arg("--version"));
    answer.and_then(|text| version(&text)).is_some_and(|version| version >= OLDEST_NODE)
}

/// `v20.18.1` as major and minor.
fn version(text: &str) -> Option<(u32, u32)> {
    let mut parts = text.trim().strip_prefix('v')?.split('.');
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

/// The package that holds Node.js itself: Debian 12 has release 18, which the SDKs do not run on.
fn node_package() -> Result<String> {
    let machine = match std::env::consts::ARCH {
        "x86_64" => "x64",
        "aarch64" => "arm64",
        other => {
            return Err(Failure::new(format!(
                "the JavaScript SDK needs Node.js {}.{} or newer, and there is none to fetch for \
                 {other}: install it by hand",
                OLDEST_NODE.0, OLDEST_NODE.1
            )));
        }
    };
    Ok(format!("node-linux-{machine}@{FETCHED_NODE}"))
}

#[cfg(test)]
mod tests {
    use super::{OLDEST_NODE, version};

    #[test]
    fn the_node_of_debian_12_is_too_old() {
        assert!(version("v18.20.4\n").unwrap() < OLDEST_NODE);
        assert!(version("v20.18.1\n").unwrap() >= OLDEST_NODE);
        assert!(version("v22.3.0\n").unwrap() >= OLDEST_NODE);
        assert_eq!(version("node: not found"), None);
    }
}
