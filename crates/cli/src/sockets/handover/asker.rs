//! Who wants another program in the place of the service, in its process: asks, and hears what came
//! of it from whichever of the two serves then.

use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use anyhow::Context;

use super::super::ASKER;
use super::{FILE, connect, has_gone, say};

/// Longer than the service takes to leave its sandboxes, and the next program to take them over.
const WAIT: Duration = Duration::from_secs(180);
/// An answer is one short line.
const ROOM: u64 = 4096;

/// What came of it.
#[derive(Debug, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
enum Verdict {
    /// The service goes on as it was.
    Refused(String),
    /// A program of this version serves.
    Serves(String),
}

/// Who waits to hear it.
#[derive(Debug)]
pub(crate) struct Asker(UnixStream);

impl From<UnixStream> for Asker {
    fn from(stream: UnixStream) -> Self {
        Self(stream)
    }
}

impl Asker {
    /// The same once more.
    ///
    /// # Errors
    /// When the descriptor table is full.
    pub(crate) fn try_clone(&self) -> io::Result<Self> {
        self.0.try_clone().map(Self)
    }

    /// Under its name, for the program that takes the place of this one.
    pub(crate) fn into_named(self) -> (&'static str, OwnedFd) {
        (ASKER, self.0.into())
    }

    /// The service goes on as it was.
    pub(crate) fn refuse(&self, why: &str) {
        self.tell(&Verdict::Refused(why.to_owned()));
    }

    /// This program serves.
    pub(crate) fn serves(&self, version: &str) {
        self.tell(&Verdict::Serves(version.to_owned()));
    }

    /// That it does not hear it is no harm.
    fn tell(&self, verdict: &Verdict) {
        let line = serde_json::to_string(verdict).map_err(io::Error::from);
        if let Err(error) = line.and_then(|line| writeln!(&self.0, "{line}")) {
            tracing::debug!(%error, "who asked for another program has gone");
        }
    }
}

/// Has the service of `data_dir` give its place to `program`, in its process. The version of what
/// serves then.
///
/// Blocking, for three minutes at most.
///
/// # Errors
/// There is no service, it refuses, or what took its place does not serve.
pub(crate) fn replace(data_dir: &Path, program: &Path) -> anyhow::Result<String> {
    let nobody = || {
        format!(
            "no service runs in {}, or it is still starting; `cofferdam up` starts one",
            data_dir.display()
        )
    };
    let stream = connect(&data_dir.join(FILE))?.with_context(nobody)?;
    stream.set_read_timeout(Some(WAIT)).context("limit the wait for the service")?;
    let mut text = String::new();
    let heard =
        say(&stream, Some(program)).and_then(|()| (&stream).take(ROOM).read_to_string(&mut text));
    match heard {
        Err(error) if has_gone(&error) && text.is_empty() => anyhow::bail!(nobody()),
        heard => heard.with_context(|| {
            format!("wait until {} serves; see the log of the service", program.display())
        })?,
    };
    // Only the first counts: a service that goes on after a try that failed says that it serves, too.
    let first = text.lines().next().with_context(|| {
        format!(
            "{} ended before it served, or is of a release that does not say so; what runs goes on, \
             and who supervises the service starts it again",
            program.display()
        )
    })?;
    match serde_json::from_str(first).context("understand the service's answer")? {
        Verdict::Serves(version) => Ok(version),
        Verdict::Refused(why) => anyhow::bail!("the service goes on as it was: {why}"),
    }
}

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};

    use super::super::{Asked, Offer};
    use super::{Asker, replace};

    /// What is heard when the service has `answered`.
    async fn told(answered: impl FnOnce(Asker)) -> String {
        let dir = tempfile::tempdir().unwrap();
        let (mut offer, path) = (Offer::open(dir.path()).unwrap(), dir.path().to_path_buf());
        let asking = tokio::task::spawn_blocking(move || replace(&path, Path::new("/next")));
        let Asked::Program(program, asker) = offer.asked().await else { panic!("a program") };
        assert_eq!(program, PathBuf::from("/next"));
        answered(asker);
        asking.await.unwrap().unwrap_or_else(|error| format!("{error:#}"))
    }

    #[tokio::test]
    async fn the_first_answer_counts_and_none_is_the_end_of_the_program() {
        assert_eq!(told(|asker| asker.serves("1.2.3")).await, "1.2.3");
        let refused = told(|asker| asker.refuse("not there")).await;
        assert_eq!(refused, "the service goes on as it was: not there");
        let twice = told(|asker| {
            asker.refuse("cannot be run");
            asker.serves("1.2.3");
        });
        assert!(twice.await.ends_with("cannot be run"));
        let nothing = told(drop).await;
        assert!(nothing.starts_with("/next ended before it served"), "{nothing}");
    }

    #[test]
    fn where_nobody_serves_nothing_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let error = replace(dir.path(), Path::new("/next")).unwrap_err();
        assert!(error.to_string().starts_with("no service runs in"), "{error:#}");
    }
}
