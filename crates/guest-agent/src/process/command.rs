//! What to execute, made ready before the fork: after it nothing may be allocated.

use std::collections::{BTreeMap, HashMap};
use std::ffi::{CString, NulError};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use crate::accounts::User;
use crate::open_files::OpenFiles;

/// A program with its arguments, variables, directory and user.
#[derive(Debug)]
pub(super) struct Command {
    pub(super) arguments: Vec<CString>,
    pub(super) variables: Vec<CString>,
    /// Files to try in turn.
    pub(super) candidates: Vec<CString>,
    pub(super) workdir: CString,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) groups: Vec<u32>,
    /// The soft and the hard limit, as the kernel reads them.
    pub(super) open_files: [u64; 2],
    /// Whether a file that is no program is one for the shell.
    pub(super) may_be_script: bool,
    /// What the process says when it turns out that there is no such program.
    pub(super) not_found: Vec<u8>,
    /// The same for a file that is no program, or not for this user.
    pub(super) not_executable: Vec<u8>,
}

/// The parts of a request a command is made of.
pub(super) struct Wanted<'a> {
    pub(super) program: &'a str,
    pub(super) arguments: &'a [String],
    /// Complete: nothing is inherited.
    pub(super) variables: &'a BTreeMap<String, String>,
    pub(super) workdir: &'a Path,
    pub(super) user: &'a User,
    pub(super) open_files: OpenFiles,
}

impl Command {
    /// # Errors
    /// When a part holds a zero byte, which the kernel takes for its end.
    pub(super) fn new(wanted: &Wanted<'_>) -> Result<Self, NulError> {
        let program = wanted.program;
        let arguments = std::iter::once(program)
            .chain(wanted.arguments.iter().map(String::as_str))
            .map(CString::new)
            .collect::<Result<_, _>>()?;
        let variables = wanted
            .variables
            .iter()
            .map(|(name, value)| CString::new(format!("{name}={value}")))
            .collect::<Result<_, _>>()?;
        let path = wanted.variables.get("PATH").map_or("", String::as_str);
        let candidates =
            candidates(program, path).into_iter().map(CString::new).collect::<Result<_, _>>()?;
        Ok(Self {
            arguments,
            variables,
            candidates,
            workdir: CString::new(wanted.workdir.as_os_str().as_bytes())?,
            uid: wanted.user.uid,
            gid: wanted.user.gid,
            groups: wanted.user.groups.clone(),
            open_files: wanted.open_files.as_raw(),
            may_be_script: true,
            not_found: format!("envd: {program}: command not found\n").into_bytes(),
            not_executable: format!("envd: {program}: permission denied\n").into_bytes(),
        })
    }
}

/// A name with a slash is a file; one without is looked for along the search path.
fn candidates(program: &str, path: &str) -> Vec<String> {
    if program.contains('/') {
        return vec![program.to_owned()];
    }
    if program.is_empty() {
        return Vec::new();
    }
    let directories = path.split(':').filter(|directory| !directory.is_empty());
    directories.map(|directory| format!("{directory}/{program}")).collect()
}

/// The variables of one process; later sources win.
pub(super) fn variables(
    path: &str,
    user: &User,
    global: BTreeMap<String, String>,
    requested: impl IntoIterator<Item = (String, String)>,
) -> BTreeMap<String, String> {
    let mut all = BTreeMap::from([
        ("PATH".to_owned(), path.to_owned()),
        ("HOME".to_owned(), user.home.clone()),
        ("USER".to_owned(), user.name.clone()),
        ("LOGNAME".to_owned(), user.name.clone()),
    ]);
    all.extend(global);
    all.extend(requested);
    all
}

/// A variable that cannot be told to a process: its name is empty or has an equals sign.
pub(super) fn unusable_name<S: std::hash::BuildHasher>(
    variables: &HashMap<String, String, S>,
) -> Option<&str> {
    variables.keys().map(String::as_str).find(|name| name.is_empty() || name.contains('='))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user() -> User {
        User { name: "user".into(), uid: 1, gid: 1, groups: vec![1], home: "/home/user".into() }
    }

    #[test]
    fn only_a_bare_name_is_looked_for_along_the_search_path() {
        assert_eq!(candidates("ls", "/a::/b"), ["/a/ls", "/b/ls"]);
        assert_eq!(candidates("./ls", "/a"), ["./ls"]);
        assert_eq!(candidates("/bin/ls", "/a"), ["/bin/ls"]);
        assert!(candidates("", "/a").is_empty());
    }

    #[test]
    fn a_requested_variable_wins_over_a_global_one_and_that_over_the_users() {
        let global = [("HOME", "/global"), ("A", "global")];
        let requested = [("A", "requested"), ("PATH", "/x")];
        let owned = |(name, value): (&str, &str)| (name.to_owned(), value.to_owned());
        let all = variables("/bin", &user(), global.map(owned).into(), requested.map(owned));
        let shown: Vec<_> = all.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
        let expected = [
            ("A", "requested"),
            ("HOME", "/global"),
            ("LOGNAME", "user"),
            ("PATH", "/x"),
            ("USER", "user"),
        ];
        assert_eq!(shown, expected);
    }

    #[test]
    fn a_zero_byte_is_an_error_and_not_the_end_of_an_argument() {
        let wanted = Wanted {
            program: "echo",
            arguments: &["a\0b".to_owned()],
            variables: &BTreeMap::new(),
            workdir: Path::new("/"),
            user: &user(),
            open_files: OpenFiles {
                most: 0,
                inherited: rustix::process::getrlimit(rustix::process::Resource::Nofile),
            },
        };
        assert!(Command::new(&wanted).is_err());
    }
}
