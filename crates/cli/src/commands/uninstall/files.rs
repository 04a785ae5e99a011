//! The files of a data directory. Only names that are ours are removed: the directory may be one
//! that somebody keeps other things in.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::path::Path;
use std::time::Duration;

use host::files::remove_tree;
use images::Store;
use lifecycle::Budget;

use super::report::Report;

/// Secrets last: as long as anything is there, its owner can still be known.
const FILES: [&str; 8] = [
    "handover.sock",
    "control-plane.sqlite-journal",
    "control-plane.sqlite-shm",
    "control-plane.sqlite-spare",
    "control-plane.sqlite-wal",
    "control-plane.sqlite",
    ".credentials.env.new",
    "credentials.env",
];
const IMAGES: &str = "images";
const NODE: &str = "node";
/// The certificate authority by which sandboxes' requests of HTTPS are given headers, with its key.
const AUTHORITY: [&str; 2] = ["egress-authority.json.next", "egress-authority.json"];
/// What a paused sandbox has written may be large.
const PAUSED_LIMIT: Duration = Duration::from_secs(120);
/// Held by whoever removes the others.
const LOCK: &str = "node.lock";
/// Every new ext4 file system has one.
const LOST: &str = "lost+found";

/// Removes everything of ours but the lock and the directory itself.
pub(super) fn remove(dir: &Path, keep_images: bool, report: &mut Report) {
    if !keep_images {
        remove_images(&dir.join(IMAGES), report);
    }
    remove_node(&dir.join(NODE), report);
    for name in FILES {
        let path = dir.join(name);
        report.removal(&path, fs::remove_file(&path));
    }
}

fn remove_images(dir: &Path, report: &mut Report) {
    if !dir.exists() {
        return;
    }
    let removed = Store::open(dir).map_err(io::Error::other).and_then(|store| store.remove_all());
    match removed {
        Ok(stays) => {
            for path in &stays {
                report.keep(path, "in use by another program, or not Cofferdam's");
            }
            if stays.is_empty() {
                report.removal(dir, Ok(()));
            }
        }
        Err(error) => report.removal(dir, Err(error)),
    }
}

/// Directories of lifecycles are gone with what is in them; of those that ended there are records.
fn remove_node(node: &Path, report: &mut Report) {
    let ended = node.join("ended");
    let records = fs::read_dir(&ended).into_iter().flatten().flatten().map(|entry| entry.path());
    for path in records.filter(|path| path.extension() == Some(OsStr::new("json"))) {
        if let Err(error) = fs::remove_file(&path) {
            report.removal(&path, Err(error));
        }
    }
    let paused = node.join("paused");
    for entry in fs::read_dir(&paused).into_iter().flatten().flatten() {
        // What has no record of ours in it is somebody else's.
        if entry.path().join("paused.json").is_file()
            && let Err(error) = remove_tree(&entry.path(), Budget::within(PAUSED_LIMIT))
        {
            report.removal(&entry.path(), Err(io::Error::other(error)));
        }
    }
    for path in AUTHORITY.map(|name| node.join(name)) {
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                report.removal(&path, Err(error));
            }
            _ => {}
        }
    }
    for path in [&ended, &paused, &node.join("lifecycles"), node] {
        match fs::remove_dir(path) {
            Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => {
                if path != node {
                    report.keep(path, "something in it is not Cofferdam's");
                }
            }
            removed => report.removal(path, removed),
        }
    }
}

/// Removes the lock, and the directory when nothing of others is in it. To be called with the lock
/// held, and nothing left to do under it.
pub(super) fn remove_last(dir: &Path, keep_images: bool, report: &mut Report) {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let mut stays: Vec<_> = entries.map(|entry| entry.file_name()).collect();
    stays.sort();
    for name in stays.iter().filter(|name| *name != LOCK && *name != LOST) {
        let path = dir.join(name);
        if name == IMAGES && keep_images {
            report.keep(&path, "as you asked");
        } else if !report.tells_of(&path) {
            report.keep(&path, "not Cofferdam's");
        }
    }
    let lock = dir.join(LOCK);
    report.removal(&lock, fs::remove_file(&lock));
    match fs::remove_dir(dir) {
        Ok(()) => report.removal(dir, Ok(())),
        Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => {
            report.keep(dir, "not empty");
        }
        // A file system of its own, most likely.
        Err(error) => report.keep(dir, &error.to_string()),
    }
}
