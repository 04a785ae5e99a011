//! A runtime that hangs, lies, breaks off or talks without end: the real one behind a script that
//! does what a test says before it, or instead.

use std::fs;
use std::mem::MaybeUninit;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use host::process::{Process, Spawn};
use model::EndReason;
use node::Config;
use node_wire::{CreateError, NodeApi};
use rustix::fs::inotify;
use rustix::io::Errno;
use testkit::{TestNode, in_view};

use crate::guest::run;
use crate::requirements::{LIMIT, census, id, lifecycles};

/// Long enough for a start on a busy machine, short enough to wait for.
const SHORT: Duration = Duration::from_secs(4);
const SHORT_MS: u64 = 4000;
/// What a step that hangs does: it cannot be told from one that takes long.
pub(crate) const HANG: &str = "trap '' TERM HUP INT; exec sleep 100000";
/// What the real one does.
const REAL: &str = "\"$real\" \"$@\"";

/// A runtime that reads, at each call, what it is to do.
pub(crate) struct Script {
    dir: tempfile::TempDir,
}

impl Script {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let real = machine::Runtime::find("crun").unwrap();
        let text = format!(
            r#"#!/bin/sh
real={}
pid_file= log= call= before=
for word; do
  case "$before" in --pid-file) pid_file=$word ;; --log) log=$word ;; esac
  case "$word" in create|start|delete|kill|state) call=$word ;; esac
  before=$word
done
[ -e "${{0%/*}}/$call" ] && [ "$call" ] && . "${{0%/*}}/$call"
exec "$real" "$@"
"#,
            real.program().display()
        );
        let this = Self { dir };
        fs::write(this.path(), text).unwrap();
        fs::set_permissions(this.path(), fs::Permissions::from_mode(0o755)).unwrap();
        this
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("crun")
    }

    /// From now on `call` begins with `what`; what the real one does comes after it, unless it ends.
    pub(crate) fn says(&self, call: &str, what: &str) {
        let next = self.dir.path().join("next");
        fs::write(&next, format!("{what}\n")).unwrap();
        fs::rename(next, self.dir.path().join(call)).unwrap();
    }

    /// From now on `call` waits at its beginning until it is let go.
    pub(crate) fn holds(&self, call: &str) {
        self.says(call, "until [ -e \"${0%/*}/go\" ]; do sleep 0.01; done");
    }

    pub(crate) fn lets_go(&self) {
        fs::write(self.dir.path().join("go"), "").unwrap();
    }

    pub(crate) fn obeys(&self) {
        for call in ["create", "start", "delete", "kill", "state"] {
            match fs::remove_file(self.dir.path().join(call)) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => panic!("{error}"),
                _ => {}
            }
        }
    }

    pub(crate) fn used_by(&self, config: &mut Config) {
        config.runtime = self.path().to_string_lossy().into_owned();
        config.teardown_limit = SHORT;
    }
}

/// The next sandbox comes and goes as if nothing had been.
async fn works(test: &TestNode) {
    let addr = test.node.create(test.spec("next"), LIMIT).await.unwrap().route.addr;
    assert_eq!(run(addr, "user", "echo works").await.stdout, "works\n");
    test.node.kill(&id("next"), EndReason::Request).await.unwrap();
    test.wait_no_sandbox_objects().await;
}

/// Why a create fails in which the runtime does `what` when it is told to `call`. Nothing is left
/// of it when its caller hears so, and the node goes on.
async fn failure(test: &TestNode, script: &Script, call: &str, what: &str) -> CreateError {
    script.says(call, what);
    let error = test.node.create(test.spec("i1"), SHORT).await.unwrap_err();
    let left = census(test).await;
    assert!(lifecycles(&left).is_empty(), "{call} {what}: {left:#?}");
    assert_eq!(test.node.sandboxes(), 0, "{call} {what}");
    script.obeys();
    works(test).await;
    error
}

fn refused(error: &CreateError) -> &str {
    match error {
        CreateError::Failed { step: "machine", message } => message,
        other => panic!("{other:?}"),
    }
}

fn is_alive(process: &Process) -> bool {
    fs::read_to_string(Path::new("/proc").join(process.identity().pid.to_string()).join("stat"))
        .is_ok_and(|stat| !stat.contains(") Z "))
}

#[test]
fn a_start_whose_runtime_hangs_ends_at_its_limit_and_leaves_nothing() {
    in_view(async |view| {
        let script = Script::new();
        let test = TestNode::start(view, |config| script.used_by(config)).await;
        // Before it has made anything, and when all is made and it does not come back.
        let late = format!("{REAL}; {HANG}");
        for (call, what) in [("create", HANG), ("create", &late), ("start", HANG), ("start", &late)]
        {
            let error = failure(&test, &script, call, what).await;
            assert_eq!(
                error,
                CreateError::Expired { step: "machine", limit_ms: SHORT_MS },
                "{call}"
            );
        }
        test.stop().await;
    });
}

/// crun runs as a copy of itself that it has mounted, and is killed before it has let go of that.
const DIES_AS_A_COPY: &str = "copy=$(mktemp \"$_LIBCONTAINER_STATEDIR/crun.XXXXXX\") && \
                              mount --bind \"$real\" \"$copy\" && kill -9 $$";

#[test]
fn a_copy_that_a_runtime_has_mounted_of_itself_goes_with_its_sandbox() {
    in_view(async |view| {
        let script = Script::new();
        let test = TestNode::start(view, |config| script.used_by(config)).await;
        for call in ["create", "start"] {
            let error = failure(&test, &script, call, DIES_AS_A_COPY).await;
            assert!(refused(&error).contains("signal 9"), "{call}: {error}");
            let mounts = fs::read_to_string("/proc/thread-self/mountinfo").unwrap();
            assert!(!mounts.contains("/crun."), "{call}: {mounts}");
        }
        test.stop().await;
    });
}

/// What the real one does with that, and that it is asked for in its own words.
#[test]
fn no_runtime_makes_a_file_outside_of_its_sandbox() {
    in_view(async |view| {
        // A script is run from where it is, and so is the real one by it.
        let script = Script::new();
        let test = TestNode::start(view, |config| script.used_by(config)).await;
        let watch = inotify::init(inotify::CreateFlags::NONBLOCK).unwrap();
        inotify::add_watch(&watch, "/tmp", inotify::WatchFlags::CREATE).unwrap();
        works(&test).await;
        let mut room = [MaybeUninit::uninit(); 4096];
        let mut made = inotify::Reader::new(watch, &mut room);
        loop {
            match made.next() {
                Ok(event) => {
                    let name = event.file_name().unwrap().to_string_lossy().into_owned();
                    assert!(!name.starts_with("crun."), "{name}");
                }
                Err(Errno::WOULDBLOCK) => break,
                Err(error) => panic!("{error}"),
            }
        }
        test.stop().await;
    });
}

#[test]
fn a_runtime_that_says_it_has_done_what_it_has_not_is_found_out() {
    in_view(async |view| {
        let script = Script::new();
        let test = TestNode::start(view, |config| script.used_by(config)).await;
        let nothing_made = failure(&test, &script, "create", "exit 0").await;
        assert!(refused(&nothing_made).ends_with("crun has written no pid file"), "{nothing_made}");
        // What was never started does not answer.
        let not_started = failure(&test, &script, "start", "exit 0").await;
        assert_eq!(not_started, CreateError::Expired { step: "init", limit_ms: SHORT_MS });
        let no_number = format!("{REAL} && echo none > \"$pid_file\"; exit");
        let no_number = failure(&test, &script, "create", &no_number).await;
        assert!(
            refused(&no_number).ends_with("crun has written no number as its pid"),
            "{no_number}"
        );
        test.stop().await;
    });
}

#[test]
fn what_a_runtime_has_made_and_does_not_own_up_to_is_removed() {
    in_view(async |view| {
        let script = Script::new();
        let test = TestNode::start(view, |config| script.used_by(config)).await;
        for call in ["create", "start"] {
            let error = failure(&test, &script, call, &format!("{REAL}; exit 1")).await;
            assert!(refused(&error).starts_with(&format!("crun {call}: ")), "{error}");
        }
        test.stop().await;
    });
}

#[test]
fn a_process_that_a_runtime_wrongly_names_is_not_touched() {
    in_view(async |view| {
        let script = Script::new();
        let test = TestNode::start(view, |config| script.used_by(config)).await;
        let innocent = Spawn::new("/bin/sleep").args(["1000"]).start().unwrap();
        let pid = innocent.identity().pid;
        for pid in [pid, 1, i32::try_from(std::process::id()).unwrap()] {
            let what = format!("{REAL} && echo {pid} > \"$pid_file\"; exit");
            let error = failure(&test, &script, "create", &what).await;
            let said = format!("process {pid} is not in cgroup");
            assert!(refused(&error).contains(&said), "{error}");
        }
        assert!(is_alive(&innocent), "killed by its number");
        innocent.signal(rustix::process::Signal::KILL).unwrap();
        innocent.exited().await.unwrap();
        test.stop().await;
    });
}

#[test]
fn a_runtime_that_dies_half_way_takes_what_it_started_with_it() {
    in_view(async |view| {
        let script = Script::new();
        let test = TestNode::start(view, |config| script.used_by(config)).await;
        let dies = "trap '' TERM; sleep 100000 & kill -9 $$";
        for what in [dies.to_owned(), format!("{REAL}; {dies}")] {
            for call in ["create", "start"] {
                let error = failure(&test, &script, call, &what).await;
                assert!(refused(&error).starts_with(&format!("crun {call}: ")), "{error}");
            }
        }
        test.stop().await;
    });
}

#[test]
fn however_much_a_runtime_says_it_is_listened_to_for_a_while_only() {
    in_view(async |view| {
        let script = Script::new();
        let test = TestNode::start(view, |config| script.used_by(config)).await;
        let megabytes = "yes words words words | head -c 8000000";
        for call in ["create", "start"] {
            script.says(call, &format!("{megabytes}; {megabytes} >&2; {megabytes} > \"$log\""));
        }
        works(&test).await;
        let long = "{ printf '{\"msg\":\"'; yes | head -c 8000000 | tr -d '\\n'; echo '\"}'; }";
        let error = failure(&test, &script, "create", &format!("{long} > \"$log\"; exit 3")).await;
        assert_eq!(refused(&error), "crun create: exit status 3");
        test.stop().await;
    });
}

#[test]
fn a_sandbox_goes_without_its_runtime() {
    in_view(async |view| {
        let script = Script::new();
        let test = TestNode::start(view, |config| script.used_by(config)).await;
        test.node.create(test.spec("i1"), LIMIT).await.unwrap();
        test.node.create(test.spec("i2"), LIMIT).await.unwrap();
        // Whatever it is called with from now on, it does not come back; then it is not there.
        for call in ["delete", "kill", "state"] {
            script.says(call, HANG);
        }
        test.node.kill(&id("i1"), EndReason::Request).await.unwrap();
        assert!(lifecycles(&census(&test).await).len() == 1, "one of two is left");
        fs::remove_file(script.path()).unwrap();
        test.node.kill(&id("i2"), EndReason::Request).await.unwrap();
        test.wait_no_sandbox_objects().await;
        test.stop().await;
    });
}
