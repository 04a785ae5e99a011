//! The files below `deploy/` give the service the time that its settings say it needs.

use std::time::Duration;

use super::{Config, Inputs, Patience, duration};

const UNIT: &str = include_str!("../../../../deploy/systemd/cofferdam.service");
const JOB: &str = include_str!("../../../../deploy/nomad/cofferdam.nomad.hcl");
const SET: &str = include_str!("../../../../deploy/kubernetes/daemonset.yaml");

/// With `env` alone.
fn config(env: &[(&str, &str)]) -> Config {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("config.toml");
    std::fs::write(&file, "").unwrap();
    let env = env.iter().map(|(name, value)| (name.into(), value.into())).collect();
    Config::load(&Inputs { file: Some(file), env, flags: Vec::new() }).unwrap().config
}

/// What stands between `before` and `after`, wherever it does first.
fn between<'a>(text: &'a str, before: &str, after: &str) -> &'a str {
    let (_, rest) = text.split_once(before).unwrap_or_else(|| panic!("no {before:?}"));
    rest.split_once(after).unwrap().0.trim()
}

fn seconds(text: &str) -> Duration {
    Duration::from_secs(text.parse().unwrap())
}

#[test]
fn systemd_waits_longer_than_a_stop_takes_and_knows_the_exit_codes() {
    let set = |name: &str| between(UNIT, &format!("\n{name}="), "\n");
    let config = config(&[]);
    assert!(seconds(set("TimeoutStopSec")) > config.stop_limit());
    // As often as `Supervisor` says it is alive, and more: a few may be late.
    assert!(seconds(set("WatchdogSec")) >= Duration::from_secs(15));
    assert_eq!(set("Type"), "notify");
    assert_eq!((set("KillMode"), set("KillSignal")), ("mixed", "SIGTERM"));
    assert_eq!((set("SuccessExitStatus"), set("RestartPreventExitStatus")), ("3", "4"));
}

#[test]
fn nomad_kills_after_the_deadline_that_the_service_is_told() {
    let told = between(JOB, "COFFERDAM_SHUTDOWN_KILL_DEADLINE = \"", "\"");
    // Loading it checks that a stop fits into the deadline.
    let config = config(&[("COFFERDAM_SHUTDOWN_KILL_DEADLINE", told)]);
    let deadline = config.shutdown_kill_deadline.unwrap();
    let killed = duration(between(JOB, "\n      kill_timeout = \"", "\"")).unwrap();
    assert!(killed > deadline, "{killed:?}");
    let allowed = duration(between(JOB, "max_kill_timeout = \"", "\"")).unwrap();
    assert!(allowed >= killed, "{allowed:?}");
    assert_eq!(between(JOB, "kill_signal  = \"", "\""), "SIGTERM");
}

#[test]
fn kubernetes_waits_for_the_drain_before_the_stop_and_for_the_stop() {
    let patience = between(SET, "name: COFFERDAM_SHUTDOWN_DRAIN_TIMEOUT, value: \"", "\"");
    let config = config(&[("COFFERDAM_SHUTDOWN_DRAIN_TIMEOUT", patience)]);
    assert_eq!(config.shutdown_drain_timeout, Patience::Limited(Duration::ZERO));
    let drain = between(SET, "\"--force-after\", \"", "\"");
    // One attempt to force, and what the service itself takes to stop.
    let needed = duration(drain).unwrap() + config.timeout_stop + config.stop_limit();
    assert!(seconds(between(SET, "terminationGracePeriodSeconds: ", "\n")) > needed);
}

#[test]
#[expect(clippy::print_stdout, reason = "a skipped test says so")]
fn systemd_understands_the_unit() {
    let Some(analyze) = ["/usr/bin/systemd-analyze", "/bin/systemd-analyze"]
        .into_iter()
        .find(|path| std::path::Path::new(path).is_file())
    else {
        println!("skipped, because systemd-analyze is not here");
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let unit = dir.path().join("cofferdam.service");
    // It looks whether the program is there.
    std::fs::write(&unit, UNIT.replace("/usr/local/bin/cofferdam", "/bin/true")).unwrap();
    #[expect(clippy::disallowed_methods, reason = "a test asks a tool of the host")]
    let told = std::process::Command::new(analyze).arg("verify").arg(&unit).output().unwrap();
    let complaints = String::from_utf8_lossy(&told.stderr).into_owned();
    assert!(told.status.success() && !complaints.contains("cofferdam.service"), "{complaints}");
}
