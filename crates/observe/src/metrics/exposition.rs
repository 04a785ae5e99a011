use std::fmt::Display;

/// Text in the exposition format of Prometheus, version 0.0.4.
#[derive(Debug, Default)]
pub struct Exposition(String);

impl Exposition {
    pub const CONTENT_TYPE: &'static str = "text/plain; version=0.0.4; charset=utf-8";

    /// A family of gauges: what is now, by one label.
    pub fn gauges(
        &mut self,
        name: &str,
        help: &str,
        label: &str,
        values: impl IntoIterator<Item = (&'static str, u64)>,
    ) {
        self.family(name, help, "gauge");
        for (value, count) in values {
            self.whole(name, &[(label, value)], count);
        }
    }

    /// A gauge of its own.
    pub fn gauge(&mut self, name: &str, help: &str, value: u64) {
        self.family(name, help, "gauge");
        self.whole(name, &[], value);
    }

    #[must_use]
    pub fn into_text(self) -> String {
        self.0
    }

    /// The head of a family; its samples follow at once.
    pub(super) fn family(&mut self, name: &str, help: &str, kind: &str) {
        self.line(format_args!("# HELP {name} {help}"));
        self.line(format_args!("# TYPE {name} {kind}"));
    }

    pub(super) fn whole(&mut self, name: &str, labels: &[(&str, &str)], value: u64) {
        self.line(format_args!("{name}{} {value}", Labels(labels)));
    }

    pub(super) fn real(&mut self, name: &str, labels: &[(&str, &str)], value: f64) {
        self.line(format_args!("{name}{} {value}", Labels(labels)));
    }

    fn line(&mut self, line: std::fmt::Arguments<'_>) {
        self.0.push_str(&line.to_string());
        self.0.push('\n');
    }
}

struct Labels<'a>(&'a [(&'a str, &'a str)]);

impl Display for Labels<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.0.is_empty() {
            return Ok(());
        }
        let escaped =
            |value: &str| value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
        let pairs = self.0.iter().map(|(name, value)| format!("{name}=\"{}\"", escaped(value)));
        write!(f, "{{{}}}", pairs.collect::<Vec<_>>().join(","))
    }
}

#[cfg(test)]
mod tests {
    use super::Exposition;

    #[test]
    fn values_of_labels_are_escaped() {
        let mut text = Exposition::default();
        text.gauges("g", "Help.", "why", [("a \"b\"\\c\nd", 1)]);
        text.gauge("h", "More.", 2);
        assert_eq!(
            text.into_text(),
            "# HELP g Help.\n# TYPE g gauge\ng{why=\"a \\\"b\\\"\\\\c\\nd\"} 1\n\
             # HELP h More.\n# TYPE h gauge\nh 2\n"
        );
    }
}
