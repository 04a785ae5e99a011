//! Into a sandbox.

use std::ffi::OsString;
use std::fs::{File, FileType, Metadata, OpenOptions};
use std::io;
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;

use super::files::Files;
use super::{CopyError, DEPTH_MAX, Kind, LeftOut, below, end_kind};

/// Files that one program inside is given.
const EXECUTABLES: usize = 100;

/// Copies what is at `from`, here, to `to`, inside.
pub(super) async fn copy(
    files: &mut Files,
    from: &Path,
    to: &str,
    left_out: &mut LeftOut,
) -> Result<(), CopyError> {
    let shown = from.display().to_string();
    let not = |what| CopyError::Not { path: shown.clone(), what };
    let found = std::fs::metadata(from).map_err(local("look at", from))?;
    let target = target(files, from, to).await?;
    let mut copying = Copying { files, executables: Vec::new() };
    if found.is_file() {
        if target.is == Some(Kind::Directory) {
            let what = "it is a file, and a directory has its name in the sandbox";
            return Err(not(what));
        }
        // A pipe or a device in its place would be waited for.
        let file = open(from, OFlags::empty()).map_err(local("read", from))?;
        copying.file(file, from, &target.path).await?;
    } else if found.is_dir() {
        if target.is.is_some_and(|kind| kind != Kind::Directory) {
            let what = "it is a directory, and something else has its name in the sandbox";
            return Err(not(what));
        }
        copying.tree(from, target.path, left_out).await?;
    } else {
        return Err(not("it is neither a file nor a directory"));
    }
    copying.finish(left_out).await
}

/// Where the copy goes.
struct Target {
    path: String,
    /// What is there.
    is: Option<Kind>,
}

/// `to`, or the same name in it where that is a directory.
async fn target(files: &mut Files, from: &Path, to: &str) -> Result<Target, CopyError> {
    let found = files.stat(to).await.map_err(CopyError::agent(to))?;
    let Some(found) = found else {
        if to.ends_with('/') {
            let what = "there is no such directory in the sandbox";
            return Err(CopyError::Not { path: to.to_owned(), what });
        }
        return Ok(Target { path: to.to_owned(), is: None });
    };
    if end_kind(&found) != Kind::Directory {
        return Ok(Target { path: found.path.clone(), is: Some(end_kind(&found)) });
    }
    // `.` and `..` have a name, too.
    let named = std::fs::canonicalize(from).map_err(local("look at", from))?;
    let named = if from.file_name().is_some() { from } else { &named };
    let name = named.file_name().and_then(|name| name.to_str()).ok_or_else(|| {
        let what = "its name is no text; name the copy";
        CopyError::Not { path: from.display().to_string(), what }
    })?;
    let path = below(&found.path, name);
    let there = files.stat(&path).await.map_err(CopyError::agent(&path))?;
    Ok(Target { path, is: there.as_ref().map(end_kind) })
}

/// One directory, and what is still to be copied of it.
struct Level {
    from: PathBuf,
    to: String,
    names: Vec<OsString>,
}

impl Level {
    fn open(from: PathBuf, to: String) -> Result<Self, CopyError> {
        let names = names(&from).map_err(local("list", &from))?;
        Ok(Self { from, to, names })
    }
}

struct Copying<'a> {
    files: &'a mut Files,
    /// The agent makes files that nobody may run; these are to be.
    executables: Vec<String>,
}

impl Copying<'_> {
    async fn tree(
        &mut self,
        from: &Path,
        to: String,
        left_out: &mut LeftOut,
    ) -> Result<(), CopyError> {
        self.files.make_directory(&to).await.map_err(CopyError::agent(&to))?;
        let mut levels = vec![Level::open(from.to_owned(), to)?];
        loop {
            let depth = levels.len();
            let Some(level) = levels.last_mut() else { return Ok(()) };
            let Some(name) = level.names.pop() else {
                levels.pop();
                continue;
            };
            let path = level.from.join(&name);
            let shown = path.display().to_string();
            let Some(name) = name.to_str() else {
                left_out.note(&shown, "its name is no text");
                continue;
            };
            let to = below(&level.to, name);
            let found = std::fs::symlink_metadata(&path).map_err(local("look at", &path))?;
            match found.file_type() {
                kind if kind.is_dir() => {
                    if depth >= DEPTH_MAX {
                        return Err(CopyError::TooDeep { path: shown });
                    }
                    self.files.make_directory(&to).await.map_err(CopyError::agent(&to))?;
                    levels.push(Level::open(path, to)?);
                }
                kind if kind.is_file() => {
                    let file = open(&path, OFlags::NOFOLLOW).map_err(local("read", &path))?;
                    self.file(file, &path, &to).await?;
                }
                kind => left_out.note(&shown, why_not(kind)),
            }
        }
    }

    async fn file(&mut self, file: File, from: &Path, to: &str) -> Result<(), CopyError> {
        let found = file.metadata().map_err(local("look at", from))?;
        let file = tokio::fs::File::from_std(file);
        self.files.write(to, file).await.map_err(CopyError::agent(to))?;
        if may_run(&found) {
            self.executables.push(to.to_owned());
        }
        Ok(())
    }

    async fn finish(self, left_out: &mut LeftOut) -> Result<(), CopyError> {
        for paths in self.executables.chunks(EXECUTABLES) {
            let first = paths.first().map_or("", String::as_str);
            if !self.files.make_executable(paths).await.map_err(CopyError::agent(first))? {
                left_out.note(first, "it, or one after it, was not made executable");
            }
        }
        Ok(())
    }
}

fn local(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> CopyError + use<> {
    let path = path.to_owned();
    move |source| CopyError::Local { doing, path, source }
}

fn open(path: &Path, flags: OFlags) -> io::Result<File> {
    let flags = (flags | OFlags::NONBLOCK).bits().cast_signed();
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path)?;
    if file.metadata()?.is_file() { Ok(file) } else { Err(io::ErrorKind::InvalidInput.into()) }
}

/// The last one first.
fn names(directory: &Path) -> io::Result<Vec<OsString>> {
    let names = std::fs::read_dir(directory)?.map(|entry| entry.map(|entry| entry.file_name()));
    let mut names = names.collect::<io::Result<Vec<_>>>()?;
    names.sort_unstable_by(|one, other| other.cmp(one));
    Ok(names)
}

fn why_not(kind: FileType) -> &'static str {
    if kind.is_symlink() { "it is a link" } else { "it is neither a file nor a directory" }
}

fn may_run(found: &Metadata) -> bool {
    found.permissions().mode() & 0o111 != 0
}
