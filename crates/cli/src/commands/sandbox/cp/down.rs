//! Out of a sandbox.

use std::fs::File;
use std::path::{Path, PathBuf};

use guest_wire::proto::filesystem::EntryInfo;
use tokio::io::AsyncWriteExt as _;

use super::files::{Content, Files};
use super::place::{Place, is_plain};
use super::{CopyError, DEPTH_MAX, Kind, LeftOut, below, end_kind, kind};

/// Who may do what with a copy, besides what this process leaves out: nobody becomes somebody else.
const MODE: u32 = 0o777;

/// Copies what is at `from`, inside, to `to`, here.
pub(super) async fn copy(
    files: &mut Files,
    from: &str,
    to: &Path,
    left_out: &mut LeftOut,
) -> Result<(), CopyError> {
    let found = files.stat(from).await.map_err(CopyError::agent(from))?;
    let not = |what| CopyError::Not { path: from.to_owned(), what };
    let found = found.ok_or_else(|| not("there is no such file or directory in the sandbox"))?;
    match end_kind(&found) {
        Kind::File => {
            let content = files.read(&found.path).await.map_err(CopyError::agent(from))?;
            let (path, file) = file_at(to, &found)?;
            fill(file, &path, content, &found.path).await
        }
        Kind::Directory => {
            let place = directory_at(to, &found)?;
            tree(files, place, found.path, left_out).await
        }
        Kind::Link | Kind::Special => Err(not("it is neither a file nor a directory")),
    }
}

/// The last part of a path inside, which the copy has for its name.
fn name_of(found: &EntryInfo) -> Result<&str, CopyError> {
    let name = found.path.trim_end_matches('/').rsplit('/').next().unwrap_or_default();
    match is_plain(name) {
        Ok(()) => Ok(name),
        Err(_no_name) => Err(CopyError::Not {
            path: found.path.clone(),
            what: "it has no name of its own; name the copy",
        }),
    }
}

/// `to`, or a file with the same name as inside where that is a directory.
fn file_at(to: &Path, found: &EntryInfo) -> Result<(PathBuf, File), CopyError> {
    let mode = found.mode & MODE;
    let local = |doing, path: &Path| {
        let path = path.to_owned();
        move |source| CopyError::Local { doing, path, source }
    };
    if to.is_dir() {
        let name = name_of(found)?;
        let path = to.join(name);
        let place = Place::open(to).map_err(local("open", to))?;
        let file = place.file(name, mode).map_err(local("write", &path))?;
        return Ok((path, file));
    }
    let named = to.file_name().filter(|_| !to.as_os_str().as_encoded_bytes().ends_with(b"/"));
    let Some(name) = named else {
        let what = "there is no such directory here";
        return Err(CopyError::Not { path: to.display().to_string(), what });
    };
    let place = parent(to)?;
    let file = place.named_file(Path::new(name), mode).map_err(local("write", to))?;
    Ok((to.to_owned(), file))
}

/// `to`, or a directory with the same name as inside where that is one already.
fn directory_at(to: &Path, found: &EntryInfo) -> Result<Place, CopyError> {
    let mode = found.mode & MODE;
    let local = |source| CopyError::Local { doing: "make", path: to.to_owned(), source };
    if to.is_dir() {
        let name = name_of(found)?;
        return Place::open(to).and_then(|place| place.directory(name, mode)).map_err(local);
    }
    let name = to.file_name().and_then(|name| name.to_str());
    let Some(name) = name else {
        let what = "it cannot be made here";
        return Err(CopyError::Not { path: to.display().to_string(), what });
    };
    parent(to)?.directory(name, mode).map_err(local)
}

fn parent(path: &Path) -> Result<Place, CopyError> {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    let parent = parent.unwrap_or_else(|| Path::new("."));
    Place::open(parent).map_err(|source| CopyError::Local {
        doing: "open",
        path: parent.to_owned(),
        source,
    })
}

/// One directory, and what is still to be copied of it.
struct Level {
    place: Place,
    path: String,
    entries: std::vec::IntoIter<EntryInfo>,
}

impl Level {
    async fn open(files: &mut Files, place: Place, path: String) -> Result<Self, CopyError> {
        let entries = files.list(&path).await.map_err(CopyError::agent(&path))?;
        Ok(Self { place, path, entries: entries.into_iter() })
    }
}

/// Fills `place` with what is below `path`, inside.
async fn tree(
    files: &mut Files,
    place: Place,
    path: String,
    left_out: &mut LeftOut,
) -> Result<(), CopyError> {
    let mut levels = vec![Level::open(files, place, path).await?];
    loop {
        let depth = levels.len();
        let Some(level) = levels.last_mut() else { return Ok(()) };
        let Some(entry) = level.entries.next() else {
            levels.pop();
            continue;
        };
        let path = below(&level.path, &entry.name);
        if let Err(why) = is_plain(&entry.name) {
            left_out.note(&path, &why.to_string());
            continue;
        }
        let mode = entry.mode & MODE;
        let local = |doing| {
            let path = path.clone().into();
            move |source| CopyError::Local { doing, path, source }
        };
        match kind(&entry) {
            Kind::Link => left_out.note(&path, "it is a link"),
            Kind::Special => left_out.note(&path, "it is neither a file nor a directory"),
            Kind::File => match files.read(&path).await {
                Ok(content) => {
                    let doing = "write the copy of";
                    let file = level.place.file(&entry.name, mode).map_err(local(doing))?;
                    fill(file, Path::new(&path), content, &path).await?;
                }
                // Removed meanwhile, or its name is no text and came as another.
                Err(error) if error.is_not_found() => left_out.note(&path, &error.to_string()),
                Err(error) => return Err(CopyError::agent(&path)(error)),
            },
            Kind::Directory => {
                if depth >= DEPTH_MAX {
                    return Err(CopyError::TooDeep { path });
                }
                let doing = "make the copy of";
                let place = level.place.directory(&entry.name, mode).map_err(local(doing))?;
                match Level::open(files, place, path.clone()).await {
                    Ok(level) => levels.push(level),
                    Err(CopyError::Agent { source, .. }) if source.is_not_found() => {
                        left_out.note(&path, &source.to_string());
                    }
                    Err(error) => return Err(error),
                }
            }
        }
    }
}

/// Writes what comes into `file`.
async fn fill(file: File, path: &Path, mut content: Content, from: &str) -> Result<(), CopyError> {
    let failed = |source| CopyError::Local { doing: "write", path: path.to_owned(), source };
    let mut file = tokio::fs::File::from_std(file);
    while let Some(piece) = content.next().await.map_err(CopyError::agent(from))? {
        file.write_all(&piece).await.map_err(failed)?;
    }
    file.flush().await.map_err(failed)
}
