use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use host::HostError;
use host::census::Item;
use host::identity;
use serde::Serialize;

use super::LEFT;
use crate::args::Output;
use crate::say;

/// Where a unit may have been put by hand or by a package.
const UNITS: [&str; 3] = [
    "/etc/systemd/system/cofferdam.service",
    "/run/systemd/system/cofferdam.service",
    "/usr/lib/systemd/system/cofferdam.service",
];
const CONFIG: &str = "/etc/cofferdam";
const CLAIMS: &str = "/run/cofferdam";

/// What became of everything.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    data_dir: PathBuf,
    /// Sandboxes that were there.
    pub(super) ended: usize,
    removed: Vec<PathBuf>,
    /// What is not ours to remove.
    kept: Vec<Kept>,
    /// What is ours and is still there. Empty is the proof.
    pub(super) left: Vec<String>,
    /// What was never ours alone.
    stays: Vec<String>,
}

#[derive(Debug, Serialize)]
struct Kept {
    path: PathBuf,
    why: String,
}

impl Report {
    pub(super) fn new(data_dir: PathBuf) -> Self {
        let (removed, kept, left) = (Vec::new(), Vec::new(), Vec::new());
        Self { data_dir, ended: 0, removed, kept, left, stays: stays() }
    }

    pub(super) fn leave(&mut self, items: &[Item]) {
        self.left.extend(items.iter().map(|item| format!("{:?} {}", item.kind, item.name)));
    }

    /// Something was removed, or was not there, or is left.
    pub(super) fn removal(&mut self, path: &Path, removed: io::Result<()>) {
        match removed {
            Ok(()) => self.removed.push(path.to_path_buf()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => self.left.push(format!("{}: {error}", path.display())),
        }
    }

    pub(super) fn keep(&mut self, path: &Path, why: &str) {
        self.kept.push(Kept { path: path.to_path_buf(), why: why.to_owned() });
    }

    /// Whether it is said why `path`, or something in it, is still there.
    pub(super) fn tells_of(&self, path: &Path) -> bool {
        self.kept.iter().any(|kept| kept.path.starts_with(path))
    }

    /// Removes the directory that all nodes of the host share, unless another has a claim.
    ///
    /// # Errors
    /// It cannot be read or removed.
    pub(super) fn claims(&mut self) -> Result<(), HostError> {
        let claims = Path::new(CLAIMS);
        let was_there = claims.exists();
        let holders = identity::retire()?;
        if !holders.is_empty() {
            self.shared(&holders);
        } else if was_there {
            self.removal(claims, Ok(()));
        }
        Ok(())
    }

    fn shared(&mut self, holders: &[PathBuf]) {
        let named = |holder: &PathBuf| match holder.as_os_str().is_empty() {
            true => "one that is being started".to_owned(),
            false => holder.display().to_string(),
        };
        let holders: Vec<String> = holders.iter().map(named).collect();
        self.keep(Path::new(CLAIMS), &format!("other nodes use it: {}", holders.join(", ")));
    }

    /// Says it all; the exit code says whether anything of ours is left.
    ///
    /// # Errors
    /// Standard output is closed.
    pub(super) fn tell(&self, output: Output) -> anyhow::Result<ExitCode> {
        let text = if output.json { serde_json::to_string_pretty(self)? } else { self.in_words() };
        say::answer(&text)?;
        Ok(if self.left.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(LEFT) })
    }

    fn in_words(&self) -> String {
        let mut lines = Vec::new();
        if self.ended > 0 {
            lines.push(format!("ended {} sandboxes", self.ended));
        }
        lines.extend(self.removed.iter().map(|path| format!("removed {}", path.display())));
        let kept = self.kept.iter();
        lines.extend(kept.map(|kept| format!("kept {}: {}", kept.path.display(), kept.why)));
        if self.left.is_empty() {
            lines.push(format!("nothing is left of {}", self.data_dir.display()));
        } else {
            lines.extend(self.left.iter().map(|what| format!("left: {what}")));
            lines.push("Run it again when the cause is gone; it goes on where it was.".to_owned());
        }
        lines.extend(self.stays.iter().map(|what| format!("not touched: {what}")));
        lines.join("\n")
    }
}

fn stays() -> Vec<String> {
    let mut stays = vec![
        "this program, and packages that were installed for it".to_owned(),
        "net.ipv4.ip_forward".to_owned(),
    ];
    let units = UNITS.into_iter().filter(|unit| Path::new(unit).exists());
    stays.extend(units.map(|unit| format!("{unit}: systemctl disable cofferdam, then remove it")));
    if Path::new(CONFIG).exists() {
        stays.push(CONFIG.to_owned());
    }
    stays
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::path::{Path, PathBuf};

    use super::Report;

    #[test]
    fn what_was_removed_kept_and_left_is_told() {
        let mut report = Report { stays: vec!["packages".into()], ..Report::new("/d".into()) };
        assert_eq!(report.in_words(), "nothing is left of /d\nnot touched: packages");
        report.ended = 2;
        report.removal(Path::new("/d/a"), Ok(()));
        report.removal(Path::new("/d/b"), Err(io::ErrorKind::NotFound.into()));
        report.keep(Path::new("/d/images/x"), "in use");
        report.shared(&[PathBuf::from("/other"), PathBuf::new()]);
        assert!(report.tells_of(Path::new("/d/images")) && !report.tells_of(Path::new("/d/c")));
        report.removal(Path::new("/d/c"), Err(io::Error::other("busy")));
        let expected = "\
ended 2 sandboxes
removed /d/a
kept /d/images/x: in use
kept /run/cofferdam: other nodes use it: /other, one that is being started
left: /d/c: busy
Run it again when the cause is gone; it goes on where it was.
not touched: packages";
        assert_eq!(report.in_words(), expected);
    }
}
