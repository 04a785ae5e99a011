//! `cofferdam sandbox cp`: files and directories into a sandbox, and out of it.
//!
//! Content is streamed. Links are neither followed below what is named nor made: what the agent
//! tells of one is where it ends, not what it says.

mod down;
mod files;
mod place;
mod up;

use std::path::PathBuf;
use std::process::ExitCode;

use guest_wire::proto::filesystem::{EntryInfo, FileType};
use model::SandboxId;

use super::inside::enter;
use super::{LEFT, unknown};
use crate::agent::AgentError;
use crate::args::{Cp, sandbox_id};
use crate::client::Api;
use crate::say;

/// Directories in directories, on either side.
const DEPTH_MAX: usize = 200;

pub(super) async fn run(api: &Api, options: &Cp) -> anyhow::Result<ExitCode> {
    let way = Way::of(&options.from, &options.to)?;
    let (Way::Up { id, .. } | Way::Down { id, .. }) = &way;
    let Some(inside) = enter(api, id, &options.acting).await? else { return Ok(unknown(id)) };
    let mut files = files::Files::new(&inside.agent);
    let mut left_out = LeftOut::default();
    let copied = match &way {
        Way::Up { from, to, .. } => up::copy(&mut files, from, to, &mut left_out).await,
        Way::Down { from, to, .. } => down::copy(&mut files, from, to, &mut left_out).await,
    };
    match copied {
        Ok(()) => {}
        Err(CopyError::Agent { path, source }) => {
            let context = format!("copy {path}");
            return Err(inside.explain(source).await.context(context));
        }
        Err(error) => return Err(error.into()),
    }
    Ok(if left_out.count == 0 { ExitCode::SUCCESS } else { ExitCode::from(LEFT) })
}

/// From where to where.
#[derive(Debug, PartialEq, Eq)]
enum Way {
    Up { from: PathBuf, id: SandboxId, to: String },
    Down { id: SandboxId, from: String, to: PathBuf },
}

impl Way {
    /// # Errors
    /// Neither or both of them are in a sandbox.
    fn of(from: &str, to: &str) -> anyhow::Result<Self> {
        match (in_sandbox(from)?, in_sandbox(to)?) {
            (Some((id, from)), None) => Ok(Self::Down { id, from, to: to.into() }),
            (None, Some((id, to))) => Ok(Self::Up { from: from.into(), id, to }),
            (None, None) => anyhow::bail!(
                "neither {from:?} nor {to:?} is in a sandbox: write one of them as ID:PATH, as in \
                 ID:/home/user"
            ),
            (Some(_), Some(_)) => anyhow::bail!(
                "both are in a sandbox: copy to a directory here, and from there; a file here with \
                 a colon in its name is written with its directory, as in ./{to}"
            ),
        }
    }
}

/// What stands before the first colon is an id, unless it has a slash: then it is a path here.
fn in_sandbox(text: &str) -> anyhow::Result<Option<(SandboxId, String)>> {
    let Some((id, path)) = text.split_once(':').filter(|(id, _)| !id.contains('/')) else {
        return Ok(None);
    };
    let id = sandbox_id(id).map_err(|why| {
        anyhow::anyhow!(
            "{text:?}: {why}; a file here is written with its directory, as in ./{text}"
        )
    })?;
    Ok(Some((id, path.to_owned())))
}

/// Why a copy was not made, or not to its end.
#[derive(Debug, thiserror::Error)]
enum CopyError {
    #[error("copy {path}")]
    Agent { path: String, source: AgentError },
    #[error("{doing} {}", path.display())]
    Local { doing: &'static str, path: PathBuf, source: std::io::Error },
    #[error("{path}: {what}")]
    Not { path: String, what: &'static str },
    #[error("{path}: more than {DEPTH_MAX} directories in each other")]
    TooDeep { path: String },
}

impl CopyError {
    fn agent(path: &str) -> impl FnOnce(AgentError) -> Self {
        let path = path.to_owned();
        move |source| Self::Agent { path, source }
    }
}

/// What a copy of a directory does not have.
#[derive(Debug, Default)]
struct LeftOut {
    count: usize,
}

impl LeftOut {
    /// Says so; the rest is copied.
    fn note(&mut self, path: &str, why: &str) {
        self.count += 1;
        say::remark(&format!("cofferdam: left out: {}: {why}", path.escape_debug()));
    }
}

/// What there is under a name inside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    File,
    Directory,
    /// Wherever it leads.
    Link,
    /// A pipe, a socket or a device.
    Special,
}

fn kind(entry: &EntryInfo) -> Kind {
    if entry.symlink_target.is_some() { Kind::Link } else { end_kind(entry) }
}

/// The same with links followed.
fn end_kind(entry: &EntryInfo) -> Kind {
    match entry.r#type.as_known() {
        Some(FileType::FILE_TYPE_FILE) => Kind::File,
        Some(FileType::FILE_TYPE_DIRECTORY) => Kind::Directory,
        _ => Kind::Special,
    }
}

/// `name` below `directory`, both inside.
fn below(directory: &str, name: &str) -> String {
    format!("{}/{name}", directory.trim_end_matches('/'))
}

#[cfg(test)]
mod tests {
    use super::{Way, below};

    #[test]
    fn one_side_is_in_a_sandbox() {
        let id = "ione".parse().unwrap();
        let down = Way::Down { id, from: "a:b".to_owned(), to: ".".into() };
        assert_eq!(Way::of("ione:a:b", ".").unwrap(), down);
        let id = "ione".parse().unwrap();
        let up = Way::Up { from: "./x:y".into(), id, to: String::new() };
        assert_eq!(Way::of("./x:y", "ione:").unwrap(), up);
        for (from, to, why) in [
            ("a", "b", "neither"),
            ("ione:a", "itwo:b", "both"),
            ("X!:a", "b", "./X!:a"),
            (":a", "b", "./:a"),
        ] {
            let error = Way::of(from, to).unwrap_err().to_string();
            assert!(error.contains(why), "{error}");
        }
    }

    #[test]
    fn a_name_is_below_its_directory() {
        assert_eq!([below("/", "a"), below("/a/", "b"), below("/a", "b")], ["/a", "/a/b", "/a/b"]);
    }
}
