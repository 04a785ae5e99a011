use std::os::unix::fs::{MetadataExt as _, PermissionsExt};
use std::path::PathBuf;

use e2b_wire::ApiKey;

use super::sandboxes::tests::insert;
use super::{Store, StoreError};
use crate::Team;
use crate::app::now;
use crate::http::ApiError;

#[tokio::test]
async fn only_the_owner_can_read_any_file_of_the_database() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store.sqlite");
    let files = || std::fs::read_dir(dir.path()).unwrap().map(|file| file.unwrap().path());
    for _earlier_files in [false, true] {
        let store = Store::open(&path).await.unwrap();
        assert_eq!(files().count(), 4, "the database, its log, the index of the log, spare room");
        for file in files() {
            let mode = std::fs::metadata(&file).unwrap().mode() & 0o7777;
            assert_eq!(mode, 0o600, "{}", file.display());
            // As an earlier version, or another program, may have left it.
            std::fs::set_permissions(&file, PermissionsExt::from_mode(0o644)).unwrap();
        }
        // Not closed: the files stay, as when the process is killed.
        std::mem::drop(store);
    }
}

/// A database with so many sandboxes in it, and its log as if the program had been killed.
async fn killed_with(rows: usize) -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store.sqlite");
    let store = Store::open(&path).await.unwrap();
    store.configure_team(&Team::default(), &ApiKey::generate(), now()).await.unwrap();
    for n in 0..rows {
        insert(&store, &format!("i{n:04}")).await;
    }
    // Copied while it is open: an orderly end would empty the log.
    let copy = dir.path().join("killed.sqlite");
    for suffix in ["", "-wal"] {
        let from = format!("{}{suffix}", path.display());
        std::fs::copy(from, format!("{}{suffix}", copy.display())).unwrap();
    }
    store.close().await;
    (dir, copy)
}

#[tokio::test]
async fn a_log_that_was_cut_anywhere_leaves_the_oldest_commits_and_each_of_them_whole() {
    const ROWS: usize = 20;
    let (dir, killed) = killed_with(ROWS).await;
    let log = std::fs::read(format!("{}-wal", killed.display())).unwrap();
    let mut most = 0;
    for part in 0..=64 {
        let path = dir.path().join(format!("cut{part}.sqlite"));
        std::fs::copy(&killed, &path).unwrap();
        let cut = &log[..log.len() * part / 64];
        std::fs::write(format!("{}-wal", path.display()), cut).unwrap();
        let store = Store::open(&path).await.unwrap();
        let mut ids: Vec<String> =
            store.live_sandboxes().await.unwrap().iter().map(|row| row.id.to_string()).collect();
        ids.sort();
        let oldest: Vec<String> = (0..ids.len()).map(|n| format!("i{n:04}")).collect();
        assert_eq!(ids, oldest, "cut at {part} of 64");
        assert!(ids.len() >= most, "a longer log has more in it");
        most = ids.len();
        store.close().await;
    }
    assert_eq!(most, ROWS, "the whole log has everything");
}

#[tokio::test]
async fn a_damaged_database_is_told_at_the_start_with_what_to_do() {
    let (dir, killed) = killed_with(400).await;
    // In one file, as after an orderly end.
    Store::open(&killed).await.unwrap().close().await;
    let whole = std::fs::read(&killed).unwrap();
    assert!(whole.len() > 100_000, "{} bytes", whole.len());
    let mut scratched = whole.clone();
    scratched[whole.len() / 2..][..4096].fill(0x5a);
    let damaged = [
        ("half", whole[..whole.len() / 2].to_vec()),
        ("torn", whole[..whole.len() - 1000].to_vec()),
        ("head", whole[..60].to_vec()),
        ("scratched", scratched),
        ("another", b"this is a text and no database, whoever called it one".repeat(40)),
    ];
    for (name, bytes) in damaged {
        let path = dir.path().join(format!("{name}.sqlite"));
        std::fs::write(&path, bytes).unwrap();
        let error = Store::open(&path).await.unwrap_err();
        assert!(matches!(error, StoreError::Damaged { .. }), "{name}: {error:?}");
        let text = error.to_string();
        assert!(text.contains(path.to_str().unwrap()) && text.contains("move"), "{text}");
    }
    let empty = dir.path().join("empty.sqlite");
    std::fs::write(&empty, "").unwrap();
    Store::open(&empty).await.unwrap().close().await;
}

#[tokio::test]
async fn who_waits_for_the_database_too_long_is_told_to_try_again() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&dir.path().join("store.sqlite")).await.unwrap();
    let held = store.writer.acquire().await.unwrap();
    // From here on the clock goes on by itself whenever everybody waits for it.
    tokio::time::pause();
    let configured = store.configure_team(&Team::default(), &ApiKey::generate(), now()).await;
    let error = configured.unwrap_err();
    assert!(error.is_busy() && !error.is_disk_full(), "{error:?}");
    let answer = ApiError::from(error);
    let (status, message, _, wait) = answer.parts();
    assert!((status, wait) == (503, Some(2)) && message.ends_with("try again"), "{message}");
    tokio::time::resume();
    drop(held);
    store.configure_team(&Team::default(), &ApiKey::generate(), now()).await.unwrap();
}
