//! The way out of the view again, for a program that takes the place of this one in its process.
#![expect(unsafe_code, reason = "unshare is unsafe in rustix")]

use std::fs::File;
use std::os::fd::AsFd;
use std::path::PathBuf;

use rustix::process::{chroot, fchdir};
use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space, unshare_unsafe};

use crate::HostError;
use crate::error::Tried;

const OWN: &str = "/proc/thread-self/ns/mnt";

/// What a thread sees that is in no view yet.
#[derive(Debug)]
pub struct Home {
    namespace: File,
    root: File,
    /// By name: an open directory would keep its disk from being unmounted.
    dir: Option<PathBuf>,
}

impl Home {
    /// Where this thread is. To be called before [`super::enter`].
    ///
    /// # Errors
    /// When `/proc` or the root cannot be opened.
    pub fn here() -> Result<Self, HostError> {
        let namespace = File::open(OWN).tried("open", OWN)?;
        let root = File::open("/").tried("open", "/")?;
        Ok(Self { namespace, root, dir: std::env::current_dir().ok() })
    }

    /// Takes this thread back there. A directory that is gone by now is not gone back to.
    ///
    /// # Errors
    /// The step that failed; needs root.
    pub fn go_back(self) -> Result<(), HostError> {
        // SAFETY: only this thread's file system context changes; no descriptor does. Without a
        // context of its own a thread may not change its mount namespace (setns(2)).
        unsafe { unshare_unsafe(UnshareFlags::FS) }.tried("leave", "the view")?;
        let kind = Some(LinkNameSpaceType::Mount);
        move_into_link_name_space(self.namespace.as_fd(), kind).tried("leave", "the view")?;
        // It begins at the root of the namespace, which need not have been this thread's.
        fchdir(&self.root).tried("go back to", "/")?;
        chroot(".").tried("go back to", "/")?;
        let dir = self.dir.as_deref().map(std::env::set_current_dir);
        if let Some(Err(error)) = dir {
            tracing::warn!(%error, "the directory this program was started in is gone");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::super::enter;
    use super::Home;

    /// In a thread of its own: the others of the test's process stay where they are.
    #[test]
    fn who_has_been_in_a_view_sees_again_what_was_there_before() {
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let mounts = || fs::read_to_string("/proc/thread-self/mountinfo").unwrap();
        std::thread::spawn(move || {
            // A directory of this thread's own.
            let dir = tempfile::tempdir().unwrap();
            super::super::make_private().unwrap();
            std::env::set_current_dir(dir.path()).unwrap();
            let before = mounts();
            let home = Home::here().unwrap();
            let _view = enter().unwrap();
            assert_ne!(mounts(), before);
            home.go_back().unwrap();
            assert_eq!(mounts(), before);
            assert_eq!(std::env::current_dir().unwrap(), dir.path());
        })
        .join()
        .unwrap();
    }
}
