//! Everything that `fixtures/probe.rs` tries, and what comes of it.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixListener};

use node_wire::NodeApi as _;
use testkit::{TestNode, in_view};

use super::{LIMIT, PROBE, probe, put};
use crate::guest::run;

/// The host's, which a sandbox looks for.
pub(super) struct Marks {
    pub dir: tempfile::TempDir,
    pub socket: String,
    _listener: UnixListener,
}

impl Marks {
    pub(super) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("marker"), "untouched").unwrap();
        let socket = format!("marker-{}", dir.path().display());
        let address = SocketAddr::from_abstract_name(&socket).unwrap();
        Self { dir, socket, _listener: UnixListener::bind_addr(&address).unwrap() }
    }

    pub(super) fn path(&self) -> String {
        self.dir.path().join("marker").display().to_string()
    }

    pub(super) fn assert_untouched(&self) {
        assert_eq!(std::fs::read_to_string(self.path()).unwrap(), "untouched");
        let names = std::fs::read_dir(self.dir.path()).unwrap().map(|entry| entry.unwrap());
        assert_eq!(names.map(|entry| entry.file_name()).collect::<Vec<_>>(), ["marker"]);
    }
}

/// What each try of the program at `program` came to, run by `user`.
pub(super) async fn tried(
    addr: IpAddr,
    user: &str,
    program: &str,
    marks: &Marks,
) -> BTreeMap<String, String> {
    let out = run(addr, user, &format!("{program} {} {}", marks.path(), marks.socket)).await;
    assert_eq!(out.code, 0, "{out:?}");
    let lines = out.stdout.lines().filter(|line| !line.starts_with('#'));
    lines.filter_map(|line| line.split_once(' ')).map(|(a, b)| (a.into(), b.into())).collect()
}

/// What root inside has, and nobody more: the twelve of the driver.
const POWERS: u64 = 0x0000_0000_a004_05fb;

/// Fails for everything that worked and should not have, all at once.
pub(super) fn assert_confined(tried: &BTreeMap<String, String>, who: &str) {
    let is_refused = |name: &str, came: &str| match name {
        "control:getpid" | "control:socket" | "attribute:user.overlay.opaque" => came == "ok",
        // The C library takes ENOSYS for an old kernel, and EPERM for a fault.
        "clone3" => came == "38",
        "i386:getpid" => came == "signal:31",
        "x32:unshare" => matches!(came, "1" | "38" | "signal:31"),
        "powers" => u64::from_str_radix(came, 16).is_ok_and(|powers| powers & !POWERS == 0),
        "priority" | "oom_score_adj" => matches!(came, "1" | "13"),
        "descriptors" => matches!(came, "nothing" | "13"),
        "abstract" => came == "111",
        // A user may not change roots at all, and root finds the sandbox's own above every other.
        "chroot" => came == "2",
        _ => match name.split(':').next() {
            Some("marker" | "open") => matches!(came, "2" | "13"),
            Some("read") => matches!(came, "nothing" | "1" | "2" | "13"),
            Some("write") => matches!(came, "1" | "2" | "13" | "30" | "26"),
            // A runtime answers as an old kernel would to calls that it does not know.
            _ => matches!(came, "1" | "38"),
        },
    };
    let worked: Vec<_> = tried.iter().filter(|(name, came)| !is_refused(name, came)).collect();
    assert!(worked.is_empty(), "{who}: {worked:?}");
    assert!(tried.len() > 120, "{who}: only {} tries were made", tried.len());
}

/// Puts the program into the sandbox at `addr`, for everybody to run.
pub(super) async fn install(addr: IpAddr) {
    assert_eq!(put(addr, PROBE, "root", probe()).await, 200);
    let out = run(addr, "root", &format!("busybox chmod 755 {PROBE}")).await;
    assert_eq!(out.code, 0, "{out:?}");
}

fn confined_by(runtime: &'static str) {
    if let Err(error) = machine::Runtime::find(runtime) {
        println!("skipped, because {error}");
        return;
    }
    in_view(async move |view| {
        let test = TestNode::start(view, |config| config.runtime = runtime.into()).await;
        let marks = Marks::new();
        let addr = test.node.create(test.spec("i1"), LIMIT).await.unwrap().route.addr;
        install(addr).await;
        for user in ["root", "user"] {
            assert_confined(&tried(addr, user, PROBE, &marks).await, user);
        }
        marks.assert_untouched();
        test.stop().await;
    });
}

#[test]
fn no_try_to_get_out_works_under_crun() {
    confined_by("crun");
}

#[test]
fn no_try_to_get_out_works_under_runc() {
    confined_by("runc");
}
