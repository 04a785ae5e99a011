//! Executes another program in place of this one.

use std::ffi::{CStr, CString, OsString};
use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStringExt as _;
use std::ptr;

use rustix::process::Signal;

use super::descriptors::Kept;

/// Signals that tell this program something. One that comes while neither the old nor the new one
/// listens must wait: by default it would be ignored, or end everything.
const TOLD: [Signal; 3] = [Signal::TERM, Signal::INT, Signal::CHILD];

/// Executes `binary` with `kept` open. All other threads are gone then; this process, its number
/// and its children stay. Comes back only if that failed, with everything as it was.
pub(super) fn exec(binary: &OwnedFd, arguments: Vec<OsString>, kept: &Kept) -> io::Error {
    try_exec(binary, arguments, kept).err().unwrap_or_else(|| io::Error::other("it came back"))
}

fn try_exec(binary: &OwnedFd, arguments: Vec<OsString>, kept: &Kept) -> io::Result<()> {
    let name = std::env::args_os().next().unwrap_or_else(|| OsString::from("envd"));
    let arguments = std::iter::once(name).chain(arguments).map(text).collect::<Result<_, _>>()?;
    let variables = std::env::vars_os().map(|(mut name, value)| {
        name.push("=");
        name.push(value);
        text(name)
    });
    let variables = variables.collect::<Result<_, _>>()?;
    let executed = kept.survive(true).and_then(|()| {
        change_mask(libc::SIG_BLOCK);
        Err(execute(binary, arguments, variables))
    });
    change_mask(libc::SIG_UNBLOCK);
    kept.survive(false)?;
    executed
}

fn text(text: OsString) -> io::Result<CString> {
    Ok(CString::new(text.into_vec())?)
}

fn execute(binary: &OwnedFd, arguments: Vec<CString>, variables: Vec<CString>) -> io::Error {
    const EMPTY: &CStr = c"";
    let pointers = |strings: &[CString]| {
        let all = strings.iter().map(|string| string.as_ptr());
        all.chain(std::iter::once(ptr::null())).collect::<Vec<_>>()
    };
    let (argv, envp) = (pointers(&arguments), pointers(&variables));
    // SAFETY: the path is a constant, and both lists are C strings that live as long as this
    // function, with a null pointer at the end.
    #[expect(unsafe_code, reason = "execution has no safe form")]
    unsafe {
        let (argv, envp) = (argv.as_ptr(), envp.as_ptr());
        let (fd, flags) = (binary.as_raw_fd(), libc::AT_EMPTY_PATH);
        libc::syscall(libc::SYS_execveat, fd, EMPTY.as_ptr(), argv, envp, flags);
    }
    io::Error::last_os_error()
}

/// Lets the signals come that the program before this one may have kept back, now that they are
/// listened for.
pub(super) fn let_signals_come() {
    change_mask(libc::SIG_UNBLOCK);
}

fn change_mask(how: i32) {
    // SAFETY: the set is initialised before it is used, and nothing else is written.
    #[expect(unsafe_code, reason = "the mask of signals has no safe form")]
    unsafe {
        let mut set = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        for signal in TOLD {
            libc::sigaddset(&raw mut set, signal.as_raw());
        }
        libc::pthread_sigmask(how, &raw const set, ptr::null_mut());
    }
}
