use std::process::ExitCode;

use host::census::Item;
use node::LeakReport;

use crate::args::Output;
use crate::config::Config;
use crate::say;

/// The exit code when something is there that nobody owns.
const LEAKED: u8 = 3;

/// Lists what bears the mark of the data directory's node. Fails with 3 when nobody owns a part: what
/// waits for the next service, or is left for it to clear up, is no leak.
pub(crate) async fn run(config: &Config, output: Output) -> anyhow::Result<ExitCode> {
    let report = node::leaks(&config.data_dir, config.network()).await?;
    let text = if output.json { serde_json::to_string_pretty(&report)? } else { shown(&report) };
    say::answer(&text)?;
    let clean = report.leaked.is_empty();
    Ok(if clean { ExitCode::SUCCESS } else { ExitCode::from(LEAKED) })
}

fn shown(report: &LeakReport) -> String {
    let LeakReport { lifecycles, owned, waiting, unfinished, leaked, .. } = report;
    if report.daemon_running {
        let summary = format!(
            "service running, {lifecycles} live sandboxes, {} objects owned, {} leaked",
            owned.len(),
            leaked.len()
        );
        return listed(summary, [("leaked", leaked)]);
    }
    let summary = format!(
        "service not running, {lifecycles} live sandboxes wait for the next one with {} objects, \
         {} objects left unfinished, {} leaked",
        waiting.len(),
        unfinished.len(),
        leaked.len()
    );
    listed(summary, [("unfinished", unfinished), ("leaked", leaked)])
}

/// The summary, and each object that has no place in it with the word for that.
fn listed<const N: usize>(summary: String, parts: [(&str, &Vec<Item>); N]) -> String {
    let row = |word: &str, item: &Item| {
        let (kind, owner) = (format!("{:?}", item.kind), format!("{:?}", item.owner));
        [word.to_owned(), kind, owner, item.name.clone()]
    };
    let rows: Vec<[String; 4]> = parts
        .into_iter()
        .flat_map(|(word, items)| items.iter().map(move |item| row(word, item)))
        .collect();
    if rows.is_empty() {
        return summary;
    }
    format!(
        "{summary}\n{}\nThe next `cofferdam up` with this data directory removes them.",
        say::table(&rows)
    )
}
