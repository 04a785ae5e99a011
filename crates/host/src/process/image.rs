//! Programs in memory.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};
use rustix::io::Errno;

use crate::HostError;
use crate::error::Tried;

/// How a program begins that the machine runs (ELF).
const MAGIC: [u8; 4] = [0x7f, b'E', b'L', b'F'];
/// Exactly those crun looks for (`libcrun/cloned_binary.c`).
const ALL: SealFlags =
    SealFlags::SEAL.union(SealFlags::SHRINK).union(SealFlags::GROW).union(SealFlags::WRITE);
/// More than any runtime has, in bytes.
const MAX: u64 = 64 << 20;

/// A copy of the program at `path`, in memory, that nobody can change any more: not who runs it, and
/// not what it runs (CVE-2019-5736). A runtime that is run from one makes none of its own, which it
/// does with a mount and its removal at each call. What becomes of the file later is nothing to it.
///
/// # Errors
/// It cannot be read, it is no program for the machine but a script, or this host has no such memory.
pub fn sealed_copy(path: &Path) -> Result<OwnedFd, HostError> {
    copy(path).tried("copy", path.display().to_string())
}

fn copy(path: &Path) -> io::Result<OwnedFd> {
    let mut program = Vec::new();
    File::open(path)?.take(MAX + 1).read_to_end(&mut program)?;
    if !program.starts_with(&MAGIC) || program.len() as u64 > MAX {
        return Err(io::Error::other("it is no program for the machine"));
    }
    let name = path.file_name().unwrap_or(path.as_os_str());
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let memory = match memfd_create(name, flags | MemfdFlags::EXEC) {
        // Before Linux 6.3 all of them can be run, and there is no such flag.
        Err(Errno::INVAL) => memfd_create(name, flags)?,
        made => made?,
    };
    let mut memory = File::from(memory);
    memory.write_all(&program)?;
    fcntl_add_seals(&memory, ALL)?;
    Ok(memory.into())
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::fd::AsFd;
    use std::os::unix::fs::FileExt;
    use std::path::Path;

    use rustix::fs::{MemfdFlags, fcntl_get_seals, memfd_create};

    use super::{ALL, sealed_copy};
    use crate::process::{ExitStatus, Spawn};

    #[tokio::test]
    async fn a_copy_is_run_under_the_name_of_the_program_and_cannot_be_changed() {
        let copy = sealed_copy(Path::new("/bin/sh")).unwrap();
        assert_eq!(fcntl_get_seals(&copy).unwrap(), ALL);
        File::from(copy.try_clone().unwrap()).write_at(b"x", 0).unwrap_err();
        let outcome = tempfile::tempfile().unwrap();
        let ask = "echo $0; readlink /proc/$$/exe";
        let spawn = Spawn::new("/nowhere/shell").image(Some(copy.as_fd())).args(["-c", ask]);
        let process = spawn.output(outcome.as_fd()).start().unwrap();
        assert_eq!(process.exited().await.unwrap(), Some(ExitStatus::Code(0)));
        let said = std::io::read_to_string({
            let mut outcome = outcome;
            std::io::Seek::rewind(&mut outcome).unwrap();
            outcome
        });
        assert!(said.as_ref().unwrap().starts_with("/nowhere/shell\n/memfd:"), "{said:?}");
    }

    #[tokio::test]
    #[expect(clippy::print_stdout, reason = "a skipped test says so")]
    async fn where_nothing_is_run_from_memory_the_program_itself_is_run() {
        let Ok(idle) = memfd_create("idle", MemfdFlags::CLOEXEC | MemfdFlags::NOEXEC_SEAL) else {
            println!("skipped, because this kernel (before 6.3) has no memory that is never run");
            return;
        };
        let spawn = Spawn::new("/bin/true").image(Some(idle.as_fd()));
        let process = spawn.start().unwrap();
        assert_eq!(process.exited().await.unwrap(), Some(ExitStatus::Code(0)));
    }

    #[test]
    fn a_script_is_not_copied() {
        let script = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(script.path(), "#!/bin/sh\n").unwrap();
        let error = sealed_copy(script.path()).unwrap_err();
        assert!(error.to_string().contains(&script.path().display().to_string()));
    }
}
