//! A disk that gets full, and is full: what runs can still be ended, and found again.

use std::fs::{self, File};
use std::io::{self, Write};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::{Value, json};

use crate::kit::{Client, Service, command, furnish, leaked, list, looks, said, turn};

/// How large the disk of a test is, and what the service keeps free of it.
const SIZE_MIB: u64 = 128;
const RESERVE_MIB: u64 = 48;
const MIB: usize = 1024 * 1024;

const MKFS: &str = "/usr/sbin/mkfs.ext4";

/// A file system of its own, with room for little more than a data directory. It goes with this.
struct Disk {
    dir: tempfile::TempDir,
}

impl Disk {
    /// `None`, with the reason said, where none can be made.
    #[expect(clippy::print_stdout, reason = "a skipped test says so")]
    fn new() -> Option<Self> {
        if !Path::new(MKFS).exists() || !Path::new("/dev/loop-control").exists() {
            println!("skipped, because there is no mkfs.ext4, or there are no loop devices");
            return None;
        }
        let dir = tempfile::tempdir().unwrap();
        let image = dir.path().join("image");
        File::create(&image).unwrap().set_len(SIZE_MIB * 1024 * 1024).unwrap();
        // Nothing is kept back for root, as which everything here runs.
        run(MKFS, &["-q", "-m", "0", "-I", "256", image.to_str().unwrap()]);
        let at = dir.path().join("at");
        fs::create_dir(&at).unwrap();
        run("/usr/bin/mount", &["-o", "loop", image.to_str().unwrap(), at.to_str().unwrap()]);
        Some(Self { dir })
    }

    fn at(&self) -> PathBuf {
        self.dir.path().join("at")
    }

    fn data(&self) -> PathBuf {
        self.at().join("data")
    }

    fn filler(&self) -> PathBuf {
        self.at().join("filler")
    }

    /// Takes `mib` of what is free.
    fn take(&self, mib: usize) {
        let mut filler = File::options().create(true).append(true).open(self.filler()).unwrap();
        for _ in 0..mib {
            filler.write_all(&vec![1; MIB]).unwrap();
        }
    }

    /// Takes all there is, to the last block.
    fn fill(&self) {
        let mut filler = File::options().create(true).append(true).open(self.filler()).unwrap();
        for size in [MIB, 64 * 1024, 4096, 512] {
            let piece = vec![1; size];
            loop {
                // On the disk, or the kernel promises a block that nobody else can have and that
                // this file does not use.
                match filler.write_all(&piece).and_then(|()| filler.sync_data()) {
                    Ok(()) => {}
                    Err(error) if error.kind() == io::ErrorKind::StorageFull => break,
                    Err(error) => panic!("{error}"),
                }
            }
        }
    }

    /// Does `work` on a disk on which every block that comes free is taken at once.
    fn while_full(&self, work: impl FnOnce()) {
        let over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !over.load(Ordering::Relaxed) {
                    self.fill();
                }
            });
            // Also when it fails: the other waits for it.
            let worked = catch_unwind(AssertUnwindSafe(work));
            over.store(true, Ordering::Relaxed);
            worked.unwrap_or_else(|panic| resume_unwind(panic));
        });
    }

    fn make_room(&self) {
        fs::remove_file(self.filler()).unwrap();
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let at = self.at();
        let unmounted = command("/usr/bin/umount").arg("-l").arg(at).output().unwrap();
        if !unmounted.status.success() && !std::thread::panicking() {
            panic!("{}", said(&unmounted));
        }
    }
}

fn run(program: &str, args: &[&str]) {
    let ran = command(program).env("PATH", "/usr/sbin:/usr/bin").args(args).output().unwrap();
    assert!(ran.status.success(), "{program}: {}", said(&ran));
}

fn start(data: &Path) -> Service {
    let reserve = format!("{RESERVE_MIB}MiB");
    Service::start(data, &["--disk-reserve", &reserve])
}

fn is_refused(service: &Client) {
    let (status, body) = service.try_create();
    assert_eq!(status, 503, "{body}");
    assert!(body.contains("disk"), "{body}");
}

/// What a service answers whose disk is full.
fn answers(service: &Client, ids: &[&str]) {
    assert_eq!(list(service), ids);
    for id in ids {
        assert!(service.reaches(id), "{id}");
        let (status, body) = service.api("GET", &format!("/sandboxes/{id}/metrics"), &Value::Null);
        assert_eq!(status, 200, "{body}");
    }
    let (status, body) = service.admin("GET", "/nodes");
    assert_eq!(status, 200, "{body}");
    let (status, body) = service.admin("GET", &format!("/nodes/{}", service.node_id()));
    assert_eq!(status, 200, "{body}");
    is_refused(service);
}

fn is_gone(service: &Client, id: &str) {
    let (status, body) = service.api("GET", &format!("/sandboxes/{id}"), &Value::Null);
    assert_eq!(status, 404, "{body}");
    let (status, body) = service.api("DELETE", &format!("/sandboxes/{id}"), &Value::Null);
    assert_eq!(status, 404, "{body}");
}

fn sorted<const N: usize>(mut ids: [&str; N]) -> [&str; N] {
    ids.sort_unstable();
    ids
}

#[test]
fn before_the_disk_is_full_new_sandboxes_are_refused_and_what_runs_goes_on() {
    let Some(_turn) = turn() else { return };
    let Some(disk) = Disk::new() else { return };
    furnish(&disk.data());
    let service = start(&disk.data());
    let id = service.create();
    let room = service.try_create();
    assert_eq!(room.0, 201, "{}", room.1);
    let free = rustix::fs::statvfs(disk.at()).unwrap();
    let free_mib = usize::try_from(free.f_bavail * free.f_frsize / 1024 / 1024).unwrap();
    disk.take(free_mib - usize::try_from(RESERVE_MIB).unwrap() + 1);
    is_refused(&service);
    assert!(service.reaches(&id));
    disk.make_room();
    service.kill(&id);
    for id in list(&service) {
        service.kill(&id);
    }
    service.finish();
    assert_eq!(leaked(&disk.data()), json!([]));
}

#[test]
fn on_a_full_disk_what_runs_is_reached_ended_and_found_again() {
    let Some(_turn) = turn() else { return };
    let Some(disk) = Disk::new() else { return };
    furnish(&disk.data());
    let data = disk.data();
    let mut service = start(&data);
    let ids: Vec<String> = (0..6).map(|_| service.create()).collect();
    let [a, b, c, d, e, f] = <[String; 6]>::try_from(ids).unwrap();
    disk.fill();
    answers(&service, &sorted([&a, &b, &c, &d, &e, &f]));
    service.kill(&a);
    is_gone(&service, &a);
    disk.while_full(|| {
        service.kill(&b);
        is_gone(&service, &b);
    });
    answers(&service, &sorted([&c, &d, &e, &f]));
    assert_eq!(leaked(&data), json!([]));

    disk.fill();
    service.crash();
    let mut service = start(&data);
    answers(&service, &sorted([&c, &d, &e, &f]));
    disk.while_full(|| {
        service.kill(&c);
        is_gone(&service, &c);
    });
    // Its end may be written down by its node only.
    service.crash();
    let service = start(&data);
    answers(&service, &sorted([&d, &e, &f]));
    service.kill(&d);

    disk.make_room();
    assert!(looks(|| service.try_create().0 == 201), "there is room");
    is_gone(&service, &d);
    for id in list(&service) {
        service.kill(&id);
    }
    service.finish();
    assert_eq!(leaked(&data), json!([]));
}

#[test]
fn a_service_on_a_full_disk_is_drained_and_stopped_clean() {
    let Some(_turn) = turn() else { return };
    let Some(disk) = Disk::new() else { return };
    furnish(&disk.data());
    let service = start(&disk.data());
    for _ in 0..3 {
        service.create();
    }
    disk.fill();
    let drain = json!({ "status": "draining", "forceStop": true });
    let (status, body) =
        service.try_admin("POST", &format!("/nodes/{}", service.node_id()), &drain).unwrap();
    assert_eq!(status, 204, "{body}");
    assert!(looks(|| list(&service).is_empty()));
    service.finish();
    assert_eq!(leaked(&disk.data()), json!([]));
}
