//! The ends of builds, with a tool of the tests' own in the place of mmdebstrap: it mounts, starts
//! sessions of its own, writes wherever it may, and never ends.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use lifecycle::Budget;
use rand::Rng;
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

use super::authorities::Authorities;
use super::sources::Sources;
use super::{BuildError, Host, Maker, Progress, Request, Tools};
use crate::Store;
use crate::command::tests::{keeper, processes_in};

const SLOW: &str = "#!/bin/sh
for arg; do case $arg in */rootfs) rootfs=$arg ;; esac; done
mkdir \"$rootfs\" && cd \"$rootfs\" || exit 1
mkdir mounted && mount -t tmpfs none mounted || exit 1
write() { i=0; while :; do i=$((i + 1)); mkdir -p \"$1$i\"; echo x > \"$1$i/file\"; done; }
write a &
write mounted/b &
setsid sh -c 'while :; do mkdir c$$; rmdir c$$; done' &
echo 'I: running apt-get update' >&2
wait
";

/// Makes a program. Another one writes it: a child that another test starts meanwhile would have this
/// process's copy of the file open for writing, and nobody could run it until that child execs.
#[expect(clippy::disallowed_methods, reason = "a test makes a program from outside")]
fn install(program: &Path, text: &str) {
    let draft = program.with_extension("draft");
    fs::write(&draft, text).unwrap();
    let mut install = std::process::Command::new("install");
    let done = install.args(["-m", "755"]).arg(draft).arg(program).status().unwrap();
    assert!(done.success(), "{done}");
}

/// A store, and a tool that fills it for ever.
struct Slow {
    dir: TempDir,
    store: Arc<Store>,
}

impl Slow {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        install(&dir.path().join("slow"), SLOW);
        let store = Arc::new(Store::open(&dir.path().join("images")).unwrap());
        Self { dir, store }
    }

    /// `None` where programs cannot get namespaces of their own.
    fn maker(&self) -> Option<Maker> {
        let tools = Tools { mmdebstrap: self.dir.path().join("slow"), keeper: keeper()? };
        let host = Host {
            release: "none".to_owned(),
            sources: Sources::default(),
            authorities: Authorities::default(),
        };
        Some(Maker { tools, host, request: Request::new("0".to_owned(), 1) })
    }

    fn left(&self) -> Vec<String> {
        let mut left = processes_in(self.dir.path());
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let dir = self.dir.path().to_str().unwrap();
        left.extend(mounts.lines().filter(|line| line.contains(dir)).map(str::to_owned));
        let files = fs::read_dir(self.store.dir()).unwrap();
        left.extend(files.map(|file| file.unwrap().path().display().to_string()));
        left
    }
}

fn hour() -> Budget {
    Budget::within(Duration::from_secs(3600))
}

const NOTHING: [&str; 0] = [];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cancelled_at_any_moment_a_build_leaves_nothing_when_it_answers() {
    let slow = Slow::new();
    for round in 0..40_u64 {
        let Some(maker) = slow.maker() else { return };
        // Every other one in the middle of the tool's work, the others wherever the time falls.
        let at_work = round.is_multiple_of(2);
        let after = Duration::from_micros(rand::rng().random_range(0..40_000));
        let cancel = CancellationToken::new();
        let progress = |_: Progress| {
            if at_work {
                cancel.cancel();
            }
        };
        let moment = async {
            if !at_work {
                tokio::time::sleep(after).await;
                cancel.cancel();
            }
        };
        let (made, ()) = tokio::join!(maker.make(&slow.store, &progress, &cancel, hour()), moment);
        let error = made.unwrap_err();
        assert!(matches!(error, BuildError::Cancelled), "{error:?}");
        assert_eq!(slow.left(), NOTHING, "round {round}, {after:?}");
    }
}

#[tokio::test]
async fn a_build_that_is_out_of_time_leaves_nothing_when_it_answers() {
    let slow = Slow::new();
    let Some(maker) = slow.maker() else { return };
    let (never, budget) = (CancellationToken::new(), Budget::within(Duration::from_secs(3)));
    let error = maker.make(&slow.store, &|_| (), &never, budget).await.unwrap_err();
    assert!(matches!(error, BuildError::Install(_)), "{error:?}");
    assert_eq!(slow.left(), NOTHING);
}

#[tokio::test]
async fn a_build_that_is_dropped_ends_by_itself_and_leaves_files_to_the_sweep() {
    let slow = Slow::new();
    let Some(maker) = slow.maker() else { return };
    let (never, began) = (CancellationToken::new(), CancellationToken::new());
    let progress = |_: Progress| began.cancel();
    tokio::select! {
        made = maker.make(&slow.store, &progress, &never, hour()) => panic!("{made:?}"),
        () = began.cancelled() => {}
    }
    let end = Instant::now() + Duration::from_secs(60);
    while !processes_in(slow.dir.path()).is_empty() {
        assert!(Instant::now() < end, "still there: {:?}", processes_in(slow.dir.path()));
        tokio::task::yield_now().await;
    }
    // A child that another test starts at this moment has a copy of its lock until it execs.
    while slow.left() != NOTHING {
        assert!(Instant::now() < end, "still there: {:?}", slow.left());
        slow.store.sweep().unwrap();
    }
}

#[tokio::test]
async fn a_tool_that_fails_leaves_nothing_when_the_build_answers() {
    let slow = Slow::new();
    let failing = SLOW.replace("\nwait\n", "\nexit 7\n");
    install(&slow.dir.path().join("slow"), &failing);
    let Some(maker) = slow.maker() else { return };
    let error = maker.make(&slow.store, &|_| (), &CancellationToken::new(), hour()).await;
    assert!(matches!(error, Err(BuildError::Install(_))), "{error:?}");
    assert_eq!(slow.left(), NOTHING);
}
