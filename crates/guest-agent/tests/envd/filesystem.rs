//! Looking, making, moving, removing, watching.

use std::os::unix::fs::{MetadataExt as _, symlink};

use serde_json::{Value, json};

use crate::connect::basic;
use crate::program::{Envd, is_root};

fn method(name: &str) -> String {
    format!("filesystem.Filesystem/{name}")
}

async fn fails(envd: &Envd, name: &str, body: Value) -> (u16, String) {
    let (status, code, _message) = envd.fails(&method(name), body).await;
    (status, code)
}

#[tokio::test]
async fn a_file_is_told_as_it_is() {
    let envd = Envd::start();
    std::fs::write(envd.path("a"), "text").unwrap();
    let path = envd.text_path("a");
    let entry = envd.ok(&method("Stat"), json!({"path": path})).await["entry"].clone();
    assert_eq!(entry["name"], "a");
    assert_eq!(entry["type"], "FILE_TYPE_FILE");
    // Numbers of 64 bits are text in JSON.
    assert_eq!(entry["size"], "4");
    assert_eq!(entry["permissions"], "-rw-r--r--");
    assert_eq!(entry["mode"], 0o644);
    assert!(entry["modifiedTime"].as_str().unwrap().ends_with('Z'));
    let missing = envd.fails(&method("Stat"), json!({"path": envd.text_path("none")})).await;
    assert_eq!((missing.0, missing.1.as_str()), (404, "not_found"));
    assert!(missing.2.starts_with("file not found: "), "{}", missing.2);
}

#[tokio::test]
async fn the_first_clients_get_three_fields() {
    let envd = Envd::start();
    std::fs::write(envd.path("a"), "text").unwrap();
    let path = envd.text_path("a");
    let answer = envd
        .call(&method("Stat"), json!({"path": path}), &[("user-agent", "connect-python")])
        .await;
    let expected = json!({"entry": {"name": "a", "type": "FILE_TYPE_FILE", "path": path}});
    assert_eq!(answer.json(), expected);
    assert_eq!(answer.header("x-e2b-legacy-sdk"), Some("true"));
}

#[tokio::test]
async fn directories_are_made_whole_and_only_once() {
    let envd = Envd::start();
    let path = envd.text_path("a/b/c");
    let made = envd.ok(&method("MakeDir"), json!({"path": path})).await;
    assert_eq!(made["entry"]["permissions"], "drwxr-xr-x");
    let (status, code, message) = envd.fails(&method("MakeDir"), json!({"path": path})).await;
    let expected = format!("directory already exists: {path}");
    assert_eq!((status, code.as_str(), message), (409, "already_exists", expected));
    std::fs::write(envd.path("file"), "").unwrap();
    let in_the_way = fails(&envd, "MakeDir", json!({"path": envd.text_path("file")})).await;
    assert_eq!(in_the_way, (400, "invalid_argument".to_owned()));
}

#[tokio::test]
async fn what_is_made_belongs_to_the_acting_user() {
    if !is_root() {
        println!("skipped, because only root can give files away");
        return;
    }
    let envd = Envd::start();
    let nobody = basic("nobody");
    let headers = [("authorization", nobody.as_str())];
    let body = json!({"path": envd.text_path("x/y")});
    let made = envd.call(&method("MakeDir"), body, &headers).await;
    assert_eq!(made.json()["entry"]["owner"], "nobody");
    assert_ne!(std::fs::metadata(envd.path("x")).unwrap().uid(), 0);
}

#[tokio::test]
async fn moving_makes_the_way_and_takes_the_place() {
    let envd = Envd::start();
    std::fs::write(envd.path("a"), "new").unwrap();
    std::fs::create_dir_all(envd.path("full/x")).unwrap();
    let body = |from: &str, to: &str| json!({"source": envd.text_path(from), "destination": envd.text_path(to)});
    let moved = envd.ok(&method("Move"), body("a", "deep/b")).await;
    assert_eq!(moved["entry"]["path"], envd.text_path("deep/b"));
    std::fs::write(envd.path("c"), "old").unwrap();
    envd.ok(&method("Move"), body("deep/b", "c")).await;
    assert_eq!(std::fs::read_to_string(envd.path("c")).unwrap(), "new");
    assert_eq!(fails(&envd, "Move", body("a", "d")).await, (404, "not_found".to_owned()));
    assert_eq!(fails(&envd, "Move", body("deep", "full")).await, (500, "internal".to_owned()));
}

#[tokio::test]
async fn a_listing_goes_as_deep_as_asked() {
    let envd = Envd::start();
    std::fs::create_dir_all(envd.path("r/b/deep")).unwrap();
    for file in ["r/a", "r/b/x", "r/c"] {
        std::fs::write(envd.path(file), "").unwrap();
    }
    let names = async |depth: u32| -> Vec<String> {
        let body = json!({"path": envd.text_path("r"), "depth": depth});
        let list = envd.ok(&method("ListDir"), body).await;
        let entries = list["entries"].as_array().unwrap();
        entries.iter().map(|entry| entry["name"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(names(0).await, ["a", "b", "c"]);
    assert_eq!(names(2).await, ["a", "b", "deep", "x", "c"]);
    let path = |name: &str| json!({"path": envd.text_path(name)});
    assert_eq!(fails(&envd, "ListDir", path("none")).await, (404, "not_found".to_owned()));
    let file = fails(&envd, "ListDir", path("r/a")).await;
    assert_eq!(file, (400, "invalid_argument".to_owned()));
    symlink("loop", envd.path("loop")).unwrap();
    let cycle = fails(&envd, "ListDir", path("loop")).await;
    assert_eq!(cycle, (400, "failed_precondition".to_owned()));
}

#[tokio::test]
async fn removing_takes_everything_below_and_what_is_gone_is_removed() {
    let envd = Envd::start();
    std::fs::create_dir_all(envd.path("kept")).unwrap();
    std::fs::create_dir_all(envd.path("a/b")).unwrap();
    symlink(envd.path("kept"), envd.path("a/link")).unwrap();
    for _ in 0..2 {
        envd.ok(&method("Remove"), json!({"path": envd.text_path("a")})).await;
    }
    assert!(!envd.path("a").exists());
    assert!(envd.path("kept").exists());
}

#[tokio::test]
async fn a_home_of_somebody_else_is_not_guessed() {
    let envd = Envd::start();
    let (status, code, message) = envd.fails(&method("Stat"), json!({"path": "~other/x"})).await;
    assert_eq!((status, code.as_str()), (400, "invalid_argument"));
    assert!(message.contains("cannot expand user-specific home dir"), "{message}");
}

#[tokio::test]
async fn a_watch_tells_what_happens_and_what_is_there() {
    let envd = Envd::start();
    std::fs::create_dir(envd.path("w")).unwrap();
    let body = json!({"path": envd.text_path("w"), "recursive": true, "includeEntry": true});
    let headers = [("keepalive-ping-interval", "1")];
    let mut frames = envd.stream(&method("WatchDir"), body, &headers).await;
    assert_eq!(frames.message().await, Ok(json!({"start": {}})));
    assert_eq!(frames.message().await, Ok(json!({"keepalive": {}})));
    std::fs::create_dir(envd.path("w/d")).unwrap();
    let made = frames.message().await.unwrap()["filesystem"].clone();
    assert_eq!((&made["name"], &made["type"]), (&json!("d"), &json!("EVENT_TYPE_CREATE")));
    assert_eq!(made["entry"]["type"], "FILE_TYPE_DIRECTORY");
    // The directory itself was told about only after it was watched.
    std::fs::write(envd.path("w/d/f"), "x").unwrap();
    for kind in ["EVENT_TYPE_CREATE", "EVENT_TYPE_WRITE"] {
        let event = frames.message().await.unwrap()["filesystem"].clone();
        assert_eq!((&event["name"], &event["type"]), (&json!("d/f"), &json!(kind)));
    }
    std::fs::remove_file(envd.path("w/d/f")).unwrap();
    let gone = json!({"filesystem": {"name": "d/f", "type": "EVENT_TYPE_REMOVE"}});
    assert_eq!(frames.message().await, Ok(gone));
}

#[tokio::test]
async fn only_directories_that_are_there_are_watched() {
    let envd = Envd::start();
    std::fs::write(envd.path("f"), "").unwrap();
    for (name, code) in [("none", "not_found"), ("f", "invalid_argument")] {
        let body = json!({"path": envd.text_path(name)});
        let mut frames = envd.stream(&method("WatchDir"), body.clone(), &[]).await;
        assert_eq!(frames.message().await.unwrap_err()["code"], code);
        assert_eq!(fails(&envd, "CreateWatcher", body).await.1, code);
    }
}

#[tokio::test]
async fn a_polled_watcher_keeps_events_until_they_are_taken() {
    let envd = Envd::start();
    std::fs::create_dir(envd.path("w")).unwrap();
    let made = envd.ok(&method("CreateWatcher"), json!({"path": envd.text_path("w")})).await;
    let id = json!({"watcherId": made["watcherId"]});
    assert_eq!(envd.ok(&method("GetWatcherEvents"), id.clone()).await, json!({}));
    std::fs::write(envd.path("w/a"), "x").unwrap();
    let mut taken = Vec::new();
    while taken.len() < 2 {
        let events = envd.ok(&method("GetWatcherEvents"), id.clone()).await;
        taken.extend(events["events"].as_array().cloned().unwrap_or_default());
    }
    let event = |kind: &str| json!({"name": "a", "type": kind});
    assert_eq!(taken, [event("EVENT_TYPE_CREATE"), event("EVENT_TYPE_WRITE")]);
    envd.ok(&method("RemoveWatcher"), id.clone()).await;
    for name in ["GetWatcherEvents", "RemoveWatcher"] {
        assert_eq!(fails(&envd, name, id.clone()).await, (404, "not_found".to_owned()));
    }
}
