//! Sockets that one program leaves to the next in the same process (execve(2)).
//!
//! By their numbers, which nobody else in the process has: a thread that is late may still close what
//! it has opened, so nothing is moved to numbers that were agreed upon.

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, OwnedFd, RawFd};

use super::Passed;

/// In the environment: the process, and `NAME=NUMBER` of each.
const PASSED: &str = "PASSED_SOCKETS";

/// Leaves `named` open; the variable that tells the next program.
///
/// # Errors
/// What the system says.
pub(crate) fn leave(named: &[(&'static str, OwnedFd)]) -> io::Result<(&'static str, String)> {
    let mut words = vec![std::process::id().to_string()];
    for (name, fd) in named {
        words.push(format!("{name}={}", host::inherited::leave_open(fd.as_fd())?));
    }
    Ok((PASSED, words.join(" ")))
}

/// Takes what the program before this one has left. `None` where there was none.
///
/// To be called once, before other descriptors are opened or programs started.
///
/// # Errors
/// A descriptor that the environment names is not there.
pub(crate) fn take(env: &[(OsString, OsString)]) -> io::Result<Option<Passed>> {
    let found = env.iter().find(|(name, _)| name == PASSED).and_then(|(_, value)| value.to_str());
    let Some((names, numbers)) = found.and_then(parse) else { return Ok(None) };
    let fds = host::inherited::take_these(&numbers)?;
    Ok(Some(Passed(names.into_iter().zip(fds).collect())))
}

/// `None` when it was meant for another process, or is none of ours.
fn parse(text: &str) -> Option<(Vec<String>, Vec<RawFd>)> {
    let mut words = text.split(' ');
    if words.next()? != std::process::id().to_string() {
        return None;
    }
    let pair = |word: &str| {
        let (name, number) = word.split_once('=')?;
        Some((name.to_owned(), number.parse::<RawFd>().ok()?))
    };
    words.map(pair).collect::<Option<Vec<_>>>().map(|pairs| pairs.into_iter().unzip())
}

#[cfg(test)]
mod tests {
    use std::os::fd::{AsRawFd, OwnedFd};

    use super::{leave, parse, take};

    #[test]
    fn what_is_left_is_told_by_name_and_number_and_to_this_process_only() {
        let (one, other) = std::io::pipe().unwrap();
        let named = [("a", OwnedFd::from(one)), ("b", OwnedFd::from(other))];
        let (_, told) = leave(&named).unwrap();
        let numbers = named.iter().map(|(_, fd)| fd.as_raw_fd()).collect();
        assert_eq!(parse(&told), Some((vec!["a".to_owned(), "b".to_owned()], numbers)));
        assert_eq!(parse("1 a=3"), None, "another process's");
        let own = std::process::id();
        assert_eq!(parse(&format!("{own} a=x")), None);
        assert_eq!(parse(&format!("{own}")), Some((Vec::new(), Vec::new())));
        assert!(take(&[]).unwrap().is_none());
        let closed = [("PASSED_SOCKETS".into(), format!("{own} a=1").into())];
        take(&closed).unwrap_err();
    }
}
