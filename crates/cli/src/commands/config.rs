use std::process::ExitCode;

use serde::Serialize;

use crate::args;
use crate::config::{Key, Loaded, Said};
use crate::say;

#[derive(Serialize)]
struct Row<'a> {
    key: &'a str,
    value: &'a str,
    source: String,
}

/// Prints every value with its source. With `--check`, unknown keys are a failure.
pub(crate) fn run(loaded: &Loaded, options: args::Config) -> anyhow::Result<ExitCode> {
    let text = if options.output.json { json(&loaded.values)? } else { toml(&loaded.values) };
    say::answer(&text)?;
    if options.check && !loaded.unknown.is_empty() {
        let unknown: Vec<String> = loaded.unknown.iter().map(|u| format!("  {u}")).collect();
        anyhow::bail!("the configuration has keys nobody knows:\n{}", unknown.join("\n"));
    }
    Ok(ExitCode::SUCCESS)
}

fn json(values: &[(&Key, Said)]) -> anyhow::Result<String> {
    let rows: Vec<Row<'_>> = values
        .iter()
        .map(|(key, said)| Row {
            key: key.name,
            value: &said.text,
            source: said.source.to_string(),
        })
        .collect();
    Ok(serde_json::to_string_pretty(&rows)?)
}

/// As a file that could be read again, with the sources as comments.
fn toml(values: &[(&Key, Said)]) -> String {
    let mut lines = Vec::new();
    let mut table = "";
    for (key, said) in values {
        let (in_table, name) = key.name.split_once('.').unwrap_or(("", key.name));
        if in_table != table {
            lines.push(String::new());
            lines.push(format!("[{in_table}]"));
            table = in_table;
        }
        let value = toml::Value::String(said.text.clone());
        lines.push(format!("{:<50} # {}", format!("{name} = {value}"), said.source));
    }
    lines.join("\n")
}
