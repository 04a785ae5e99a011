//! The host's package sources, as far as they are of the host's own release. What else a host
//! has (a vendor's tool, another release) has no business in a template.

use std::io;
use std::path::{Path, PathBuf};

/// The host's package sources cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SourcesError {
    #[error("read {}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error(
        "{} names no package source of release {release}; add one (see `man sources.list`)",
        apt.display()
    )]
    None { apt: PathBuf, release: String },
}

/// Entries in apt's two formats, as they are on the host.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Sources {
    /// Lines of the one-line format.
    lines: Vec<String>,
    /// Paragraphs of the deb822 format.
    paragraphs: Vec<String>,
}

/// Collects what apt itself reads in `apt` (`/etc/apt`).
pub(crate) fn of_host(apt: &Path, release: &str) -> Result<Sources, SourcesError> {
    let mut sources = Sources::default();
    for path in files(apt)? {
        let text = std::fs::read_to_string(&path)
            .map_err(|source| SourcesError::Read { path: path.clone(), source })?;
        if path.extension().is_some_and(|extension| extension == "sources") {
            sources.add_paragraphs(&text, release);
        } else {
            sources.add_lines(&text, release);
        }
    }
    if sources == Sources::default() {
        return Err(SourcesError::None { apt: apt.to_path_buf(), release: release.to_owned() });
    }
    Ok(sources)
}

fn files(apt: &Path) -> Result<Vec<PathBuf>, SourcesError> {
    let parts = apt.join("sources.list.d");
    let mut files = Vec::new();
    match std::fs::read_dir(&parts) {
        Ok(entries) => {
            for entry in entries {
                let path = entry
                    .map_err(|source| SourcesError::Read { path: parts.clone(), source })?
                    .path();
                if path.extension().is_some_and(|ext| ext == "list" || ext == "sources") {
                    files.push(path);
                }
            }
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(source) => return Err(SourcesError::Read { path: parts, source }),
    }
    files.sort();
    let main = apt.join("sources.list");
    if main.is_file() {
        files.insert(0, main);
    }
    Ok(files)
}

impl Sources {
    fn add_lines(&mut self, text: &str, release: &str) {
        for line in text.lines().map(str::trim) {
            // `deb [options with spaces] URI suite component...`
            let Some(rest) = line.strip_prefix("deb ").map(str::trim_start) else { continue };
            let rest = match rest.strip_prefix('[') {
                Some(options) => options.split_once(']').map_or("", |(_, rest)| rest),
                None => rest,
            };
            let mut words = rest.split_whitespace();
            let (uri, suite) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
            if !uri.starts_with("cdrom:") && is_of(suite, release) {
                self.lines.push(line.to_owned());
            }
        }
    }

    fn add_paragraphs(&mut self, text: &str, release: &str) {
        let mut paragraph = Vec::new();
        for line in text.lines().map(str::trim_end).chain([""]) {
            if line.starts_with('#') {
                continue;
            }
            if !line.is_empty() {
                paragraph.push(line);
                continue;
            }
            let field = |name: &str| field(&paragraph, name);
            let binary = field("types").is_some_and(|t| t.split_whitespace().any(|t| t == "deb"));
            let enabled = field("enabled").is_none_or(|value| !value.trim().eq("no"));
            let suites = field("suites").unwrap_or_default();
            let mut suites = suites.split_whitespace().peekable();
            let ours = suites.peek().is_some() && suites.all(|suite| is_of(suite, release));
            if binary && enabled && ours {
                self.paragraphs.push(paragraph.join("\n"));
            }
            paragraph.clear();
        }
    }

    /// Writes them where mmdebstrap can read them; it tells the formats apart by content.
    pub(crate) fn write_to(&self, dir: &Path) -> io::Result<Vec<PathBuf>> {
        let mut files = Vec::new();
        for (name, entries, between) in
            [("host.list", &self.lines, "\n"), ("host.sources", &self.paragraphs, "\n\n")]
        {
            if !entries.is_empty() {
                let path = dir.join(name);
                std::fs::write(&path, entries.join(between) + "\n")?;
                files.push(path);
            }
        }
        Ok(files)
    }
}

/// The release itself, its updates and its security fixes; not backports, which are another
/// release's packages.
fn is_of(suite: &str, release: &str) -> bool {
    matches!(
        suite.strip_prefix(release),
        Some("" | "-updates" | "-security" | "/updates" | "-proposed-updates")
    )
}

/// The value of a field, with its continuation lines. Field names have no case.
fn field(paragraph: &[&str], name: &str) -> Option<String> {
    let mut value: Option<String> = None;
    for line in paragraph {
        match &mut value {
            Some(value) if line.starts_with([' ', '\t']) => value.push_str(line),
            Some(_) => break,
            None => {
                if let Some((key, first)) = line.split_once(':')
                    && key.eq_ignore_ascii_case(name)
                {
                    value = Some(first.to_owned());
                }
            }
        }
    }
    value
}

#[cfg(test)]
mod tests {
    use super::{Sources, SourcesError, of_host};

    #[test]
    fn only_the_hosts_own_release_is_taken() {
        let apt = tempfile::tempdir().unwrap();
        let parts = apt.path().join("sources.list.d");
        std::fs::create_dir(&parts).unwrap();
        let debian = "Types: deb\n# a comment\nURIs: http://mirror/debian\n\
                      Suites: bookworm\n bookworm-updates\nComponents: main";
        let backports = "Types: deb\nURIs: http://mirror/debian\nSuites: bookworm-backports";
        let off = "Types: deb\nEnabled: no\nURIs: http://mirror/off\nSuites: bookworm";
        std::fs::write(parts.join("debian.sources"), format!("{debian}\n\n{backports}\n\n{off}\n"))
            .unwrap();
        std::fs::write(
            apt.path().join("sources.list"),
            "deb [arch=amd64 signed-by=/k.gpg] http://mirror/debian bookworm-updates main\n\
             deb-src http://mirror/debian bookworm main\n\
             deb cdrom:[Debian]/ bookworm main\n\
             deb http://vendor/tool nodistro main\n",
        )
        .unwrap();
        let sources = of_host(apt.path(), "bookworm").unwrap();
        let expected = Sources {
            lines: vec![
                "deb [arch=amd64 signed-by=/k.gpg] http://mirror/debian bookworm-updates main"
                    .to_owned(),
            ],
            paragraphs: vec![debian.replace("# a comment\n", "")],
        };
        assert_eq!(sources, expected);
    }

    #[test]
    fn a_host_without_sources_is_told_so() {
        let apt = tempfile::tempdir().unwrap();
        let error = of_host(apt.path(), "bookworm").unwrap_err();
        assert!(matches!(error, SourcesError::None { .. }), "{error}");
    }
}
