//! The one place that writes what commands answer.

use std::io::{self, Write};

/// Writes `text` and a line end to standard output, at once.
///
/// # Errors
/// Standard output is closed or full.
pub(crate) fn answer(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{text}")?;
    out.flush()
}

/// Writes a line to standard error; nobody listening is no reason to stop.
pub(crate) fn remark(text: &str) {
    drop(writeln!(io::stderr().lock(), "{text}"));
}

/// Rows with their columns lined up; the last column is not padded.
pub(crate) fn table<const COLUMNS: usize>(rows: &[[String; COLUMNS]]) -> String {
    let mut widths = [0; COLUMNS];
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let line = |row: &[String; COLUMNS]| {
        let cells = row.iter().zip(widths).map(|(cell, width)| format!("{cell:<width$}"));
        Vec::from_iter(cells).join("  ").trim_end().to_owned()
    };
    Vec::from_iter(rows.iter().map(line)).join("\n")
}
