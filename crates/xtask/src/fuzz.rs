//! The API against whatever its own document allows, and what it does not: Schemathesis reads
//! `/openapi.json` of a real `cofferdam up` and sends requests for two minutes. Every answer must be
//! one the document has, and none may be an error of the service.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use crate::command::{self, step};
use crate::failure::{Failure, Result};
use crate::paths;
use crate::sdk::{self, service::Service};

/// No installation may take longer, nor a run, of which the fuzzer itself ends most.
const LIMIT: Duration = Duration::from_secs(10 * 60);

/// Seconds the fuzzer goes on.
const FUZZED_S: &str = "100";

/// What is looked at in an answer.
const CHECKS: &str = "not_a_server_error,status_code_conformance,content_type_conformance,\
    response_schema_conformance";

/// The team that every installation has.
const TEAM: &str = "c0ffe7da-0000-4000-8000-000000000001";

/// Installs the fuzzer, starts a service, runs the one against the other, and stops it.
///
/// # Errors
/// The fuzzer cannot be installed or has found something, or the service does not start or stop as
/// it should.
pub(crate) fn api(keep: bool) -> Result<()> {
    install()?;
    // Few sandboxes: the limit is one of the answers.
    let few = ["--team-max-sandboxes", "8", "--team-max-lifetime", "1h"];
    let service = step("start a service", || Service::start_with(&sdk::data_folder(), &few))?;
    let found = step("fuzz the API", || run(&service));
    step("stop the service", || service.stop(keep))?;
    found
}

fn folder() -> PathBuf {
    paths::target().join("fuzz")
}

/// How the fuzzer is used here.
fn settings() -> PathBuf {
    paths::root().join("tests/fuzz")
}

fn install() -> Result<()> {
    let wanted = settings().join("requirements.txt");
    let versions = std::fs::read_to_string(&wanted)
        .map_err(Failure::because(format!("read {}", wanted.display())))?;
    let stamp = folder().join("installed");
    if std::fs::read_to_string(&stamp).is_ok_and(|installed| installed == versions) {
        return Ok(());
    }
    let mut venv = Command::new("python3");
    venv.args(["-m", "venv", "--clear"]).arg(folder());
    command::quiet("make a Python environment", &mut venv, LIMIT)?;
    let mut pip = Command::new(folder().join("bin/pip"));
    pip.args(["install", "--quiet", "--disable-pip-version-check", "--requirement"]).arg(wanted);
    command::quiet("install Schemathesis", &mut pip, LIMIT)?;
    std::fs::write(&stamp, versions).map_err(Failure::because(format!("write {}", stamp.display())))
}

fn run(service: &Service) -> Result<()> {
    let credential = |wanted: &str| {
        let found = service.credentials().find(|(name, _)| *name == wanted);
        found.map(|(_, value)| value).unwrap_or_default()
    };
    let settings = settings();
    let mut fuzzer = Command::new(folder().join("bin/schemathesis"));
    fuzzer
        .arg("--config-file")
        .arg(settings.join("schemathesis.toml"))
        .arg("run")
        .arg(format!("{}/openapi.json", credential("E2B_API_URL")))
        .args(["--phases", "coverage,fuzzing", "--checks", CHECKS])
        // One worker: they are threads, and CPython may fail when two of them parse Python, as the
        // generator of the requests does (python/cpython#106905).
        .args(["--max-time", FUZZED_S, "--workers", "1", "--no-color"])
        .args(["--suppress-health-check", "all", "--continue-on-failure", "--warnings", "off"])
        .args(["--header", &format!("X-API-Key: {}", credential("E2B_API_KEY"))])
        .args(["--header", &format!("X-Admin-Token: {}", credential("COFFERDAM_ADMIN_TOKEN"))])
        .args(["--header", &format!("X-Team-ID: {TEAM}")])
        .env("SCHEMATHESIS_HOOKS", "hooks")
        .env("PYTHONPATH", &settings)
        // The settings are among the sources, where nothing is to be written.
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .current_dir(folder());
    for proxy in ["http_proxy", "https_proxy", "all_proxy"] {
        fuzzer.env_remove(proxy).env_remove(proxy.to_uppercase());
    }
    if command::read_lines(&mut fuzzer, LIMIT, |_| true)? {
        return Ok(());
    }
    Err(Failure::new("the fuzzer has found an answer that should not be; it says how to repeat it"))
}
