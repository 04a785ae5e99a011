use std::process::ExitCode;

use host::census::Item;
use node::LeakReport;

use crate::args::Output;
use crate::config::Config;
use crate::say;

/// The exit code when something is there that nobody owns.
const LEAKED: u8 = 3;

/// Lists what bears the mark of the data directory's node. Fails with 3 when nobody owns a part.
pub(crate) async fn run(config: &Config, output: Output) -> anyhow::Result<ExitCode> {
    let report = node::leaks(&config.data_dir, config.network()).await?;
    let text = if output.json { serde_json::to_string_pretty(&report)? } else { shown(&report) };
    say::answer(&text)?;
    let clean = report.leaked.is_empty();
    Ok(if clean { ExitCode::SUCCESS } else { ExitCode::from(LEAKED) })
}

fn shown(report: &LeakReport) -> String {
    let daemon = if report.daemon_running { "running" } else { "not running" };
    let summary = format!(
        "service {daemon}, {} live sandboxes, {} objects owned, {} leaked",
        report.lifecycles,
        report.owned.len(),
        report.leaked.len()
    );
    if report.leaked.is_empty() {
        return summary;
    }
    let row =
        |item: &Item| [format!("{:?}", item.kind), format!("{:?}", item.owner), item.name.clone()];
    let rows: Vec<[String; 3]> = report.leaked.iter().map(row).collect();
    format!(
        "{summary}\n{}\nThe next `cofferdam up` with this data directory removes them.",
        say::table(&rows)
    )
}
