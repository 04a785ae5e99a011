//! The real binary, as a person or a script meets it.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::{Path, PathBuf};
use std::process::Output;

/// The binary with `args`, and an environment of `env` alone.
fn cofferdam(args: &[&str], env: &[(&str, &str)]) -> Output {
    #[expect(clippy::disallowed_methods, reason = "a test runs the binary from outside")]
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_cofferdam"));
    command.args(args).env_clear().envs(env.iter().copied()).output().unwrap()
}

fn out(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn err(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

fn code(output: &Output) -> i32 {
    output.status.code().unwrap()
}

/// A configuration file in a directory of its own.
fn file(text: &str) -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("config.toml");
    std::fs::write(&path, text).unwrap();
    (dir, path)
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[test]
fn config_shows_every_value_with_its_source() {
    let (_dir, path) = file("max_sandboxes = 40\n[network]\ndns = [\"9.9.9.9\"]\n");
    let shown = cofferdam(
        &["--config", text(&path), "config", "--listen", "127.0.0.1:4000"],
        &[("COFFERDAM_WARM_SLOTS", "0")],
    );
    let golden = include_str!("golden/config.txt").replace("FILE", text(&path));
    assert_eq!((out(&shown), err(&shown), code(&shown)), (golden, String::new(), 0));
}

#[test]
fn what_config_prints_is_a_configuration_file() {
    let (dir, path) = file(&out(&cofferdam(&["config", "--domain", "example.org"], &[])));
    let again = cofferdam(&["config", "--check", "--json", "--config", text(&path)], &[]);
    assert_eq!((err(&again), code(&again)), (String::new(), 0));
    let rows: Vec<serde_json::Value> = serde_json::from_str(&out(&again)).unwrap();
    let domain = rows.iter().find(|row| row["key"] == "domain").unwrap();
    assert_eq!(domain["value"], "example.org");
    assert_eq!(domain["source"], text(&path));
    drop(dir);
}

#[test]
fn every_fault_is_told_and_nothing_is_done() {
    let (dir, path) = file("driver = \"qemu\"\n[team]\nmax_sandboxes = 0\n");
    let data = dir.path().join("data");
    let args = ["--config", text(&path), "--data-dir", text(&data), "--listen", "here", "up"];
    let refused = cofferdam(&args, &[("COFFERDAM_LIMITS", "no")]);
    let golden = include_str!("golden/faults.txt").replace("FILE", text(&path));
    assert_eq!((out(&refused), err(&refused), code(&refused)), (String::new(), golden, 1));
    assert!(!data.exists());
}

#[test]
fn unknown_keys_fail_the_check_and_nothing_else() {
    let (_dir, path) = file("listne = 1\n");
    let env = [("COFFERDAM_LISTNE", "x"), ("COFFERDAM_ADMIN_TOKEN", "hush")];
    let checked = cofferdam(&["config", "--check", "--config", text(&path)], &env);
    assert_eq!(code(&checked), 1);
    let told = err(&checked);
    assert!(
        told.contains("unknown key `listne` in ") && told.contains("COFFERDAM_LISTNE"),
        "{told}"
    );
    assert!(!told.contains("ADMIN_TOKEN") && !told.contains("hush"), "{told}");
    assert_eq!(code(&cofferdam(&["config", "--config", text(&path)], &env)), 0);
}

#[test]
fn doctor_says_whether_containers_can_run_and_its_exit_code_agrees() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let told = cofferdam(&["doctor", "--json", "--data-dir", text(&data)], &[]);
    let report: serde_json::Value = serde_json::from_str(&out(&told)).unwrap();
    assert_eq!(code(&told) == 0, report["container_can_run"].as_bool().unwrap());
    assert!(report["findings"].as_array().unwrap().len() > 15);
    assert_eq!(report["capacity"]["full"][0]["what"], "memory");
    assert!(!data.exists(), "it only looks");

    let told = cofferdam(&["doctor", "--data-dir", text(&data)], &[]);
    for part in ["every driver\n", "container\n", "firecracker\n", "how many sandboxes fit\n"] {
        assert!(out(&told).contains(part), "{part:?} in:\n{}", out(&told));
    }
}

#[test]
fn templates_are_listed_and_one_that_is_not_there_is_not_removed() {
    let dir = tempfile::tempdir().unwrap();
    let data = ["--data-dir", text(dir.path())];
    let listed = cofferdam(&[&["images", "ls"], &data[..]].concat(), &[]);
    assert_eq!(out(&listed), "ALIASES  ID  BUILD  VCPUS  MIB  ENVD\n");
    let listed = cofferdam(&[&["images", "ls", "--json"], &data[..]].concat(), &[]);
    assert_eq!(out(&listed), "[]\n");
    let removed = cofferdam(&[&["images", "rm", "nope"], &data[..]].concat(), &[]);
    assert_eq!(err(&removed), "cofferdam: there is no template `nope`; see `images ls`\n");
    assert_eq!(code(&removed), 1);
}

#[test]
fn the_version_is_the_packages() {
    let told = cofferdam(&["--version"], &[]);
    assert_eq!(out(&told), concat!("cofferdam ", env!("CARGO_PKG_VERSION"), "\n"));
}
