//! What a sandbox leaves in its files: whoever gets them later, itself or another, has no more power
//! by them, and nobody on the host gets at them.

use std::net::IpAddr;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use model::{BuildId, EndReason, Keep, TemplateId};
use node_wire::{NewSnapshot, NodeApi as _};
use testkit::{TestNode, in_view};

use super::escape::{Marks, assert_confined, install, tried};
use super::{LIMIT, PROBE, id};
use crate::guest::run;

/// Copies of the probe that are root's for everybody, and that have every capability there is
/// (`struct vfs_ns_cap_data` of linux/capability.h, revision 2, effective); names and attributes that
/// mean something to an overlay of another kind; and the beginnings of every kind of file.
const LEAVE: &str = r"
cp=busybox\ cp; $cp /probe /suid; busybox chmod 4755 /suid
$cp /probe /sgid; busybox chmod 2755 /sgid
$cp /probe /capable
/probe set /capable security.capability 01000002ffffffffffffffffffffffffffffffff || exit 1
for dir in /etc /usr /usr/bin; do
    /probe set $dir user.overlay.opaque 79 || exit 2
    /probe set $dir trusted.overlay.opaque 79 && exit 3
    echo > $dir/.wh..wh..opq || exit 4
done
/probe set /etc/passwd user.overlay.redirect 2f70726f6265 || exit 5
/probe set /etc/passwd user.overlay.metacopy 00 || exit 6
echo > /etc/.wh.passwd; echo > /etc/.wh.group
busybox mknod /etc/hosts c 0 0 && exit 7
busybox mknod /hole c 0 0 && exit 8
busybox mkfifo /pipe || exit 9
echo left > '/odd
name' && busybox ln /suid /again || exit 10
echo done
";

/// What is there is there, and nothing else has become of it.
const LOOK: &str = "busybox grep -c : /etc/passwd /etc/group; busybox head -c 9 /etc/hosts; echo; \
    busybox stat -c '%a %u' /suid /sgid /capable /again; ls -d /hole 2>&1; cat '/odd\nname'";

pub(super) fn snapshot() -> NewSnapshot {
    NewSnapshot {
        template: TemplateId::parse("snapshot1").unwrap(),
        build: BuildId::parse("00000000-0000-4000-8000-000000000001").unwrap(),
        passing: false,
    }
}

async fn assert_powerless(addr: IpAddr, who: &str, marks: &Marks) {
    let look = run(addr, "root", &LOOK.replace("\\n", "\n")).await;
    let expected = "/etc/passwd:2\n/etc/group:2\n127.0.0.1\n4755 0\n2755 0\n755 0\n4755 0\n";
    assert!(
        look.stdout.starts_with(expected) && look.stdout.ends_with("left\n"),
        "{who}: {look:?}"
    );
    for (user, program) in
        [("root", PROBE), ("user", PROBE), ("user", "/suid"), ("user", "/sgid"), ("user", "/again")]
    {
        let what = format!("{who}, {user} with {program}");
        assert_confined(&tried(addr, user, program, marks).await, &what);
    }
    // One that wants more than there is to have is not run at all (capabilities(7)).
    let out = run(addr, "user", &format!("/capable {} x", marks.path())).await;
    assert!(out.code != 0 && out.stdout.is_empty(), "{who}: {out:?}");
}

/// Every file below `dir`, links not followed.
fn walk(dir: &Path, all: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let entry = entry.unwrap();
        all.push(entry.path());
        if entry.file_type().unwrap().is_dir() {
            walk(&entry.path(), all);
        }
    }
}

/// The copies of the set-user-id program on this host's disk, root's own: nobody else gets to them,
/// by the directories that are the node's and not by those above.
#[expect(clippy::disallowed_methods, reason = "somebody else on this host, who runs a program")]
fn assert_closed(root: &Path, expected: usize) {
    let mut files = Vec::new();
    walk(root, &mut files);
    let mut found = 0;
    for path in &files {
        let meta = std::fs::symlink_metadata(path).unwrap();
        let kind = meta.file_type();
        assert!(!kind.is_block_device(), "{}", path.display());
        // A whiteout of the kernel's own is 0:0.
        assert!(!kind.is_char_device() || meta.rdev() == 0, "{}", path.display());
        if !path.ends_with("suid") {
            continue;
        }
        found += 1;
        assert_eq!((meta.mode() & 0o7777, meta.uid()), (0o4755, 0), "{}", path.display());
        let above = path.ancestors().skip(1).take_while(|dir| *dir != root);
        let closed = above.filter(|dir| std::fs::metadata(dir).unwrap().mode() & 0o077 == 0);
        assert_ne!(closed.count(), 0, "everybody gets to {}", path.display());
        let refused = Command::new(path).uid(65534).gid(65534).status().unwrap_err();
        assert_eq!(refused.kind(), std::io::ErrorKind::PermissionDenied, "{refused}");
    }
    assert_eq!(found, expected, "below {}", root.display());
}

#[test]
fn what_a_sandbox_leaves_in_its_files_gives_nobody_power() {
    in_view(async |view| {
        let test = TestNode::start(view, |_| {}).await;
        let marks = Marks::new();
        let root = test.data_dir().parent().unwrap().to_owned();
        let addr = test.node.create(test.spec("i1"), LIMIT).await.unwrap().route.addr;
        install(addr).await;
        let left = run(addr, "root", LEAVE).await;
        assert_eq!((left.code, left.stdout.as_str()), (0, "done\n"), "{left:?}");
        assert_powerless(addr, "where it was left", &marks).await;
        assert_closed(&root, 1);

        test.node.snapshot(&id("i1"), snapshot()).await.unwrap();
        assert_closed(&root, 2);
        test.node.pause(&id("i1"), Keep::Files).await.unwrap();
        assert_closed(&root, 2);
        let resumed = test.node.resume(test.spec("i1"), Keep::Memory, LIMIT).await.unwrap();
        assert_powerless(resumed.started.route.addr, "resumed from files", &marks).await;

        let mut spec = test.spec("i2");
        spec.template = snapshot().template;
        let addr = test.node.create(spec, LIMIT).await.unwrap().route.addr;
        assert_powerless(addr, "started from a snapshot", &marks).await;
        marks.assert_untouched();
        for name in ["i1", "i2"] {
            test.node.kill(&id(name), EndReason::Request).await.unwrap();
        }
        test.node.remove_template(&snapshot().template).await.unwrap();
        assert_closed(&root, 0);
        test.stop().await;
    });
}
