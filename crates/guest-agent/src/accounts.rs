//! Users and groups, read from `/etc/passwd` and `/etc/group` by hand.
//!
//! The C library is never asked: inside a static program its lookup loads the sandbox's own
//! shared libraries, and whether it finds a user then depends on what those do.

use std::fs::File;
use std::io::{self, Read as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

/// Of one table: room for some ten thousand accounts.
const TABLE_BYTES_MAX: u64 = 1024 * 1024;

/// One user, with all that starting a process as this user needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct User {
    pub(crate) name: String,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// All groups, the primary one first.
    pub(crate) groups: Vec<u32>,
    pub(crate) home: String,
}

/// Both tables as they were when read. They are small and may change at any time, so every
/// request reads them anew.
#[derive(Debug, Default)]
pub(crate) struct Accounts {
    users: Vec<User>,
    groups: Vec<Group>,
}

#[derive(Debug)]
struct Group {
    name: String,
    gid: u32,
    members: Vec<String>,
}

impl Accounts {
    /// Reads the tables of this machine. One that is missing is empty.
    ///
    /// # Errors
    /// When a table is there and cannot be read.
    pub(crate) fn load() -> io::Result<Self> {
        let passwd = read_or_empty(Path::new("/etc/passwd"))?;
        let group = read_or_empty(Path::new("/etc/group"))?;
        Ok(Self::parse(&passwd, &group))
    }

    fn parse(passwd: &str, group: &str) -> Self {
        Self {
            users: passwd.lines().filter_map(parse_user).collect(),
            groups: group.lines().filter_map(parse_group).collect(),
        }
    }

    /// The user called `name`.
    pub(crate) fn user(&self, name: &str) -> Option<User> {
        let mut user = self.users.iter().find(|user| user.name == name)?.clone();
        for group in &self.groups {
            if group.members.contains(&user.name) && !user.groups.contains(&group.gid) {
                user.groups.push(group.gid);
            }
        }
        Some(user)
    }

    /// The name of a user, or the number in words.
    pub(crate) fn user_name(&self, uid: u32) -> String {
        let user = self.users.iter().find(|user| user.uid == uid);
        user.map_or_else(|| uid.to_string(), |user| user.name.clone())
    }

    /// The name of a group, or the number in words.
    pub(crate) fn group_name(&self, gid: u32) -> String {
        let group = self.groups.iter().find(|group| group.gid == gid);
        group.map_or_else(|| gid.to_string(), |group| group.name.clone())
    }
}

/// Programs in the sandbox may put anything there: a pipe must not make the agent wait for ever,
/// nor a file without end make it run out of memory.
fn read_or_empty(path: &Path) -> io::Result<String> {
    let file = File::options().read(true).custom_flags(libc::O_NONBLOCK).open(path);
    let file = match file {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(String::new()),
        other => other?,
    };
    let found = file.metadata()?;
    if !found.is_file() || found.len() > TABLE_BYTES_MAX {
        let what = format!("it must be a file of at most {TABLE_BYTES_MAX} bytes");
        return Err(io::Error::new(io::ErrorKind::InvalidData, what));
    }
    let mut bytes = Vec::new();
    file.take(TABLE_BYTES_MAX).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Comments, and the marks that once included a network directory, are no accounts.
fn is_account(line: &str) -> bool {
    !line.starts_with(['#', '+', '-'])
}

fn parse_user(line: &str) -> Option<User> {
    let mut fields = line.split(':');
    let name = fields.next().filter(|name| !name.is_empty() && is_account(name))?;
    let uid = fields.nth(1)?.parse().ok()?;
    let gid = fields.next()?.parse().ok()?;
    let home = fields.nth(1)?;
    // Without a shell field the line is cut short, and the home may be as well.
    fields.next()?;
    Some(User { name: name.into(), uid, gid, groups: vec![gid], home: home.into() })
}

fn parse_group(line: &str) -> Option<Group> {
    let mut fields = line.split(':');
    let name = fields.next().filter(|name| !name.is_empty() && is_account(name))?;
    let gid = fields.nth(1)?.parse().ok()?;
    let members = fields.next()?.split(',').filter(|member| !member.is_empty());
    Some(Group { name: name.into(), gid, members: members.map(str::to_owned).collect() })
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "\
root:x:0:0:root:/root:/bin/bash
# a comment:x:7:7::/:/bin/sh
+::::::
broken:x:one:1::/:/bin/sh
short:x:5:5:gecos:/home/sho
user:x:1000:1000:,,,:/home/user:/bin/bash
user:x:2000:2000::/elsewhere:/bin/sh
";
    const GROUP: &str = "\
root:x:0:
sudo:x:27:other,user
user:x:1000:user
docker:x:999:user
";

    #[test]
    fn a_user_has_the_primary_group_first_and_each_group_once() {
        let user = Accounts::parse(PASSWD, GROUP).user("user").unwrap();
        assert_eq!((user.uid, user.gid), (1000, 1000));
        assert_eq!(user.groups, [1000, 27, 999]);
        assert_eq!(user.home, "/home/user");
    }

    #[test]
    fn lines_that_are_no_accounts_are_passed_over() {
        let accounts = Accounts::parse(PASSWD, GROUP);
        assert_eq!(accounts.users.len(), 3);
        for name in ["broken", "short", "+", "# a comment", ""] {
            assert_eq!(accounts.user(name), None, "{name}");
        }
    }

    #[test]
    fn a_table_that_is_a_pipe_or_without_end_is_an_error_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        assert_eq!(read_or_empty(&path("none")).unwrap(), "");
        std::fs::write(path("table"), PASSWD).unwrap();
        assert_eq!(read_or_empty(&path("table")).unwrap(), PASSWD);
        File::create(path("huge")).unwrap().set_len(1 << 40).unwrap();
        let mode = rustix::fs::Mode::from_bits_retain(0o600);
        let pipe = rustix::fs::FileType::Fifo;
        rustix::fs::mknodat(rustix::fs::CWD, path("pipe"), pipe, mode, 0).unwrap();
        for name in ["huge", "pipe"] {
            let error = read_or_empty(&path(name)).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{name}");
        }
    }

    #[test]
    fn a_number_without_a_name_is_written_as_the_number() {
        let accounts = Accounts::parse(PASSWD, GROUP);
        assert_eq!(accounts.user_name(1000), "user");
        assert_eq!(accounts.user_name(4242), "4242");
        assert_eq!(accounts.group_name(27), "sudo");
        assert_eq!(accounts.group_name(4242), "4242");
    }
}
