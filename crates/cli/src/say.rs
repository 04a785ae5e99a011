//! The one place that writes what commands answer.

use std::io::{self, Write};
use std::time::Duration;

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

/// The two largest units: `5s`, `1m05s`, `2h03m`, `3d04h`.
pub(crate) fn span(time: Duration) -> String {
    let s = time.as_secs();
    match s {
        0..60 => format!("{s}s"),
        60..3600 => format!("{}m{:02}s", s / 60, s % 60),
        3600..86_400 => format!("{}h{:02}m", s / 3600, s / 60 % 60),
        _ => format!("{}d{:02}h", s / 86_400, s / 3600 % 24),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::span;

    #[test]
    fn a_span_has_its_two_largest_units() {
        let texts = [5, 65, 7_380, 273_600].map(|s| span(Duration::from_secs(s)));
        assert_eq!(texts, ["5s", "1m05s", "2h03m", "3d04h"]);
    }
}
