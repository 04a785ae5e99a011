use std::process::ExitCode;
use std::time::Duration;

use host::probe::{self, Capacity, Driver, Finding, Fit, Level, Sizes};
use lifecycle::Budget;
use serde::Serialize;

use crate::args::Output;
use crate::config::Config;
use crate::say;

const LIMIT: Duration = Duration::from_secs(60);

/// The size of a sandbox when nobody says, MiB.
const SANDBOX_MEMORY_MIB: u64 = 512;

#[derive(Serialize)]
struct Report {
    container_can_run: bool,
    findings: Vec<Finding>,
    capacity: Capacity,
}

/// Says what this host offers and lacks. Fails when containers cannot run.
pub(crate) async fn run(config: &Config, output: Output) -> anyhow::Result<ExitCode> {
    let findings = probe::probe(&config.data_dir, Budget::within(LIMIT)).await;
    let sizes = Sizes {
        memory_mib: SANDBOX_MEMORY_MIB,
        disk_mib: 0,
        disk_reserve_mib: config.disk_reserve_mib,
        max_sandboxes: config.max_sandboxes,
    };
    let report = Report {
        container_can_run: Driver::Container.can_run(&findings),
        capacity: probe::capacity(&config.data_dir, &sizes),
        findings,
    };
    let text = if output.json { serde_json::to_string_pretty(&report)? } else { shown(&report) };
    say::answer(&text)?;
    Ok(if report.container_can_run { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn shown(report: &Report) -> String {
    let mut parts = vec![
        group("every driver", &report.findings, |drivers| drivers.len() > 1),
        group("container", &report.findings, |drivers| drivers == [Driver::Container]),
        group("firecracker", &report.findings, |drivers| drivers == [Driver::Firecracker]),
    ];
    parts.push(format!(
        "how many sandboxes fit\n{}\n{}",
        fits("idle", &report.capacity.idle),
        fits(&format!("using all of {SANDBOX_MEMORY_MIB} MiB each"), &report.capacity.full)
    ));
    parts.push(if report.container_can_run {
        "The container driver can run here.".to_owned()
    } else {
        "The container driver cannot run here: see what is missing above.".to_owned()
    });
    parts.join("\n\n")
}

fn group(title: &str, findings: &[Finding], belongs: impl Fn(&[Driver]) -> bool) -> String {
    let mut rows = Vec::new();
    for finding in findings.iter().filter(|finding| belongs(finding.drivers)) {
        let level = match finding.level {
            Level::Ok => "ok",
            Level::Degraded => "degraded",
            Level::Missing => "MISSING",
        };
        rows.push([format!("  {level}"), finding.name.to_owned(), finding.detail.clone()]);
        if let Some(fix) = &finding.fix {
            rows.push([String::new(), String::new(), format!("fix: {fix}")]);
        }
    }
    format!("{title}\n{}", say::table(&rows))
}

fn fits(how: &str, fits: &[Fit]) -> String {
    let least = probe::least(fits);
    let (count, what) = least.map_or((0, "nothing"), |fit| (fit.count, fit.what));
    let others: Vec<String> = fits
        .iter()
        .filter(|fit| fit.what != what && fit.count != u64::MAX)
        .map(|fit| format!("{} {}", fit.what, fit.count))
        .collect();
    format!("  {how}: {count}, limited by {what} (by itself: {})", others.join(", "))
}
