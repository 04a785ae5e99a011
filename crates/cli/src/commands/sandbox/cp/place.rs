//! Directories here that a sandbox fills: whatever names come from it, nothing is made or written
//! outside of them.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{CWD, FileType, Mode, OFlags, fstat, mkdirat, openat};
use rustix::io::Errno;

/// A directory, held: what becomes of its name meanwhile does not matter.
#[derive(Debug)]
pub(super) struct Place(OwnedFd);

impl Place {
    /// One that the user has named; links are followed.
    ///
    /// # Errors
    /// There is none.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        Ok(Self(openat(CWD, path, OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?))
    }

    /// The directory of this name, made if it is not there.
    ///
    /// # Errors
    /// The name is none, or what has it is no directory.
    pub(super) fn directory(&self, name: &str, mode: u32) -> io::Result<Self> {
        is_plain(name)?;
        // As long as it is filled, it has to be open to who does.
        match mkdirat(&self.0, name, Mode::from_raw_mode(mode | 0o700)) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => return Err(error.into()),
        }
        let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        Ok(Self(openat(&self.0, name, flags, Mode::empty())?))
    }

    /// The file of this name, empty.
    ///
    /// # Errors
    /// The name is none, or what has it is no file.
    pub(super) fn file(&self, name: &str, mode: u32) -> io::Result<File> {
        is_plain(name)?;
        self.open_file(Path::new(name), mode, OFlags::NOFOLLOW)
    }

    /// The same of a name that the user has given; a link is followed.
    ///
    /// # Errors
    /// What has it is no file.
    pub(super) fn named_file(&self, name: &Path, mode: u32) -> io::Result<File> {
        self.open_file(name, mode, OFlags::empty())
    }

    fn open_file(&self, name: &Path, mode: u32, flags: OFlags) -> io::Result<File> {
        // A pipe would wait for a reader, and what is no file is not emptied before it is known.
        let flags = flags | OFlags::WRONLY | OFlags::CREATE | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let file = match openat(&self.0, name, flags, Mode::from_raw_mode(mode)) {
            // Nobody reads from it.
            Err(Errno::NXIO) => return Err(no_file()),
            opened => File::from(opened?),
        };
        if FileType::from_raw_mode(fstat(&file)?.st_mode) != FileType::RegularFile {
            return Err(no_file());
        }
        file.set_len(0)?;
        Ok(file)
    }
}

fn no_file() -> io::Error {
    io::Error::new(io::ErrorKind::AlreadyExists, "something that is no file has this name here")
}

/// Whether a name from outside is one, and no way to somewhere else.
///
/// # Errors
/// It is not.
pub(super) fn is_plain(name: &str) -> io::Result<()> {
    if matches!(name, "" | "." | "..") || name.contains(['/', '\0']) {
        let what = format!("{:?} is no name of a file", name);
        return Err(io::Error::new(io::ErrorKind::InvalidInput, what));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::Place;

    #[test]
    fn no_name_leads_out() {
        let outer = tempfile::tempdir().unwrap();
        let inner = outer.path().join("inner");
        fs::create_dir(&inner).unwrap();
        fs::write(outer.path().join("victim"), "whole").unwrap();
        fs::create_dir(outer.path().join("other")).unwrap();
        symlink("../victim", inner.join("link")).unwrap();
        symlink("../other", inner.join("dir")).unwrap();
        let place = Place::open(&inner).unwrap();
        for name in ["", ".", "..", "../victim", "/etc/x", "a/b", "a\0b", "link", "dir"] {
            place.file(name, 0o644).unwrap_err();
        }
        for name in ["", ".", "..", "../other", "/etc", "a/b", "link", "dir"] {
            place.directory(name, 0o755).unwrap_err();
        }
        assert_eq!(fs::read_to_string(outer.path().join("victim")).unwrap(), "whole");
        assert_eq!(fs::read_dir(&inner).unwrap().count(), 2, "nothing else was made");
    }

    #[test]
    fn what_is_no_file_is_not_written_to_and_nobody_waits_for_its_reader() {
        let dir = tempfile::tempdir().unwrap();
        let place = Place::open(dir.path()).unwrap();
        let mode = rustix::fs::Mode::from_raw_mode(0o600);
        rustix::fs::mkfifoat(rustix::fs::CWD, dir.path().join("pipe"), mode).unwrap();
        place.file("pipe", 0o644).unwrap_err();
        fs::create_dir(dir.path().join("directory")).unwrap();
        place.file("directory", 0o644).unwrap_err();
    }
}
