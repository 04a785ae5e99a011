use std::fs;
use std::path::Path;
use std::sync::Arc;

use model::{BuildId, Resources, TemplateId};

use super::{RemoveError, Store};
use crate::{LeaseError, NewTemplate, Package, Template};

fn content() -> NewTemplate {
    NewTemplate {
        aliases: vec!["base".to_owned()],
        resources: Resources { vcpus: 2, memory_mib: 512, disk_mib: 4096 },
        user: "user".to_owned(),
        workdir: Some("/code".to_owned()),
        envd_version: "0.6.13".to_owned(),
        packages: vec![Package { name: "bash".to_owned(), version: "5.2".to_owned() }],
    }
}

/// Publishes a template whose only file holds `text`.
fn publish(store: &Store, text: &str) -> Arc<Template> {
    let draft = store.begin().unwrap();
    fs::create_dir(draft.rootfs()).unwrap();
    fs::write(draft.rootfs().join("file"), text).unwrap();
    fs::write(draft.path().join("scratch"), "the maker's own").unwrap();
    store.publish(draft, content()).unwrap()
}

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[test]
fn a_published_template_is_read_back_as_it_was_by_the_next_process() {
    let dir = tempfile::tempdir().unwrap();
    let made = publish(&Store::open(dir.path()).unwrap(), "one");
    let store = Store::open(dir.path()).unwrap();
    assert_eq!(store.get(&made.id), Some(Arc::clone(&made)));
    assert_eq!(store.find("base"), Some(Arc::clone(&made)));
    assert_eq!(store.find(made.id.as_str()), Some(Arc::clone(&made)));
    assert_eq!(store.find("other"), None);
    assert_eq!(made.content, content());
    let lease = store.lease(&made.id).unwrap();
    assert_eq!(fs::read_to_string(lease.rootfs().join("file")).unwrap(), "one");
    let template_dir = dir.path().join(made.build.as_str());
    assert_eq!(names(&template_dir), ["rootfs", "template.json"], "scratch files are gone");
    let mode =
        std::os::unix::fs::PermissionsExt::mode(&fs::metadata(template_dir).unwrap().permissions());
    assert_eq!(mode & 0o7777, 0o700, "nobody gets at the set-user-id files beneath");
}

#[test]
fn what_an_interrupted_build_left_is_swept_and_strangers_are_not() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let dead = store.begin().unwrap();
    fs::create_dir_all(dead.rootfs().join("usr/bin")).unwrap();
    drop(dead); // As a killed process leaves it: the lock is gone, the directory is not.
    let alive = store.begin().unwrap();
    fs::create_dir(dir.path().join(".gone-abc")).unwrap();
    fs::create_dir(dir.path().join("lost+found")).unwrap();
    fs::write(dir.path().join(".new-note"), "a person's file").unwrap();

    let store = Store::open(dir.path()).unwrap();
    let alive_name = alive.path().file_name().unwrap().to_str().unwrap().to_owned();
    let mut expected = vec![".new-note".to_owned(), alive_name, "lost+found".to_owned()];
    expected.sort();
    assert_eq!(names(dir.path()), expected);
    assert!(store.templates().is_empty());
    alive.discard().unwrap();
}

#[test]
fn a_lease_holds_off_removal_by_this_process_and_by_another() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let other = Store::open(dir.path()).unwrap();
    let made = publish(&store, "one");
    let first = store.lease(&made.id).unwrap();
    let second = store.lease(&made.id).unwrap();
    drop(first);
    for store in [&store, &other] {
        let error = store.remove(&made.id).unwrap_err();
        assert!(matches!(error, RemoveError::Leased(ref build) if *build == made.build), "{error}");
    }
    assert!(second.rootfs().join("file").is_file());
    drop(second);
    other.remove(&made.id).unwrap();
    assert!(names(dir.path()).is_empty());
    assert!(matches!(store.lease(&made.id), Err(LeaseError::Unknown(_))));
    assert!(matches!(store.remove(&made.id), Err(RemoveError::Unknown(_))));
}

#[test]
fn a_new_build_takes_over_the_template_and_the_old_one_lasts_as_long_as_its_leases() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let watching = Store::open(dir.path()).unwrap();
    let old = publish(&store, "old");
    let running = watching.lease(&old.id).unwrap();
    let new = publish(&store, "new");
    assert_eq!(new.id, old.id, "the template keeps its id");
    assert_ne!(new.build, old.build);
    for store in [&store, &watching] {
        assert_eq!(store.templates(), [Arc::clone(&new)], "one build is in use");
        let lease = store.lease(&old.id).unwrap();
        assert_eq!(fs::read_to_string(lease.rootfs().join("file")).unwrap(), "new");
    }
    assert_eq!(store.collect().unwrap(), 0, "the old build is leased");
    assert_eq!(fs::read_to_string(running.rootfs().join("file")).unwrap(), "old");
    // A daemon that takes over a sandbox gets the very build it was started from.
    assert_eq!(store.lease_build(&old.build).unwrap().build(), &old.build);
    drop(running);
    assert_eq!(store.collect().unwrap(), 1);
    assert_eq!(names(dir.path()), [new.build.as_str()]);
    assert!(matches!(store.lease_build(&old.build), Err(LeaseError::BuildGone(_))));
}

#[test]
fn a_clock_that_goes_back_does_not_bring_an_old_build_into_use() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let old = publish(&store, "old");
    let new = publish(&store, "new");
    let file = dir.path().join(old.build.as_str()).join("template.json");
    let text = fs::read_to_string(&file).unwrap();
    let created = jiff::Timestamp::try_from(old.created_at).unwrap().to_string();
    fs::write(file, text.replace(&created, "2999-01-01T00:00:00Z")).unwrap();
    assert_eq!(Store::open(dir.path()).unwrap().get(&new.id).unwrap().build, new.build);
}

#[test]
fn a_template_that_cannot_be_read_is_left_out_and_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let good = publish(&Store::open(dir.path()).unwrap(), "good");
    let manifest = dir.path().join(good.build.as_str()).join("template.json");
    let text = fs::read_to_string(&manifest).unwrap();
    let rows = [
        ("not-json", "}".to_owned()),
        ("newer", text.replace("\"format\": 1", "\"format\": 2")),
        ("misnamed", text.clone()),
        ("bad-id", text.replace(good.id.as_str(), "../../etc")),
    ];
    for (name, text) in &rows {
        fs::create_dir_all(dir.path().join(name).join("rootfs")).unwrap();
        fs::write(dir.path().join(name).join("template.json"), text).unwrap();
    }
    let store = Store::open(dir.path()).unwrap();
    assert_eq!(store.templates(), [good]);
    assert_eq!(store.collect().unwrap(), 0);
    assert_eq!(names(dir.path()).len(), rows.len() + 1);
}

#[test]
fn a_failed_publish_hands_the_draft_back_and_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let made = publish(&store, "one");
    let draft = store.begin().unwrap();
    // Something has the final name already, so the rename fails.
    fs::create_dir_all(dir.path().join(draft.build().as_str()).join("in-the-way")).unwrap();
    let (draft, _error) = store.publish(draft, content()).unwrap_err();
    assert_eq!(store.templates(), [Arc::clone(&made)]);
    fs::remove_dir_all(dir.path().join(draft.build().as_str())).unwrap();
    draft.discard().unwrap();
    assert_eq!(names(dir.path()), [made.build.as_str()]);
}

#[test]
fn ids_have_the_public_form() {
    let dir = tempfile::tempdir().unwrap();
    let made = publish(&Store::open(dir.path()).unwrap(), "one");
    assert_eq!(made.id.as_str().len(), 20);
    assert!(made.id.as_str().bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit()));
    assert_eq!(made.build.as_str().len(), 36);
    TemplateId::parse(made.id.as_str()).unwrap();
    BuildId::parse(made.build.as_str()).unwrap();
}

#[test]
fn everything_is_removed_but_what_is_in_use_or_not_ours() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("images");
    let (store, other) = (Store::open(&path).unwrap(), Store::open(&path).unwrap());
    let used = publish(&store, "one");
    let lease = other.lease(&used.id).unwrap();
    publish(&store, "two");
    drop(store.begin().unwrap());
    let alive = other.begin().unwrap();
    // One whose description was lost is ours all the same.
    let broken = publish(&store, "three");
    fs::remove_file(path.join(broken.build.as_str()).join("template.json")).unwrap();
    for stranger in ["notes", "lost+found"] {
        fs::create_dir(path.join(stranger)).unwrap();
    }

    let mut expected = vec![
        alive.path().to_path_buf(),
        path.join("lost+found"),
        path.join("notes"),
        path.join(used.build.as_str()),
    ];
    expected.sort();
    assert_eq!(store.remove_all().unwrap(), expected);
    assert_eq!(names(&path).len(), 4);
    drop(lease);
    alive.discard().unwrap();
    for stranger in ["notes", "lost+found"] {
        fs::remove_dir(path.join(stranger)).unwrap();
    }
    assert_eq!(store.remove_all().unwrap(), Vec::<std::path::PathBuf>::new());
    assert!(!path.exists());
}
