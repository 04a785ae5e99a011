use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use model::{BuildId, Resources, TemplateId};

use super::{RemoveError, Store};
use crate::{Lease, LeaseError, NewTemplate, Origin, Package, Template, copy_layer};

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

fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(60);
    while !is_so() {
        assert!(Instant::now() < end, "waited in vain for {what}");
        std::thread::yield_now();
    }
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
    assert_eq!(fs::read_to_string(lease.layers()[0].join("file")).unwrap(), "one");
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

    // A child that another test starts at this moment has a copy of the lock until it execs.
    wait_until("the dead one to be swept", || {
        Store::open(dir.path()).unwrap();
        names(dir.path()).len() == 3
    });
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
    assert!(second.layers()[0].join("file").is_file());
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
        assert_eq!(fs::read_to_string(lease.layers()[0].join("file")).unwrap(), "new");
    }
    assert_eq!(store.collect().unwrap(), 0, "the old build is leased");
    assert_eq!(fs::read_to_string(running.layers()[0].join("file")).unwrap(), "old");
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
        ("newer", text.replace("\"format\": 1", "\"format\": 3")),
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
    // A child that another test starts at this moment has copies of locks until it execs.
    wait_until("all others to go", || store.remove_all().unwrap() == expected);
    assert_eq!(names(&path).len(), 4);
    drop(lease);
    alive.discard().unwrap();
    for stranger in ["notes", "lost+found"] {
        fs::remove_dir(path.join(stranger)).unwrap();
    }
    wait_until("all to go", || store.remove_all().unwrap().is_empty());
    assert!(!path.exists());
}

/// Publishes a layer over what `lease` is of.
fn publish_over(store: &Store, lease: &Lease, id: &str, origin: Origin) -> Arc<Template> {
    let draft = store.begin().unwrap();
    fs::create_dir(draft.rootfs()).unwrap();
    store.publish_layer(draft, TemplateId::parse(id).unwrap(), origin, lease).unwrap()
}

#[test]
fn a_snapshot_has_the_layers_below_it_for_as_long_as_it_is_there() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let base = publish(&store, "one");
    let first = publish_over(&store, &store.lease(&base.id).unwrap(), "s1", Origin::Snapshot);
    let second = publish_over(&store, &store.lease(&first.id).unwrap(), "s2", Origin::Snapshot);
    assert_eq!(second.below, [first.build.clone(), base.build.clone()]);
    assert_eq!(store.find("base"), Some(Arc::clone(&base)), "it is not called as what it is of");
    let store = Store::open(dir.path()).unwrap();
    assert_eq!(store.get(&second.id), Some(Arc::clone(&second)));
    let path = |build: &BuildId| dir.path().join(build.as_str()).join("rootfs");
    let lease = store.lease(&second.id).unwrap();
    assert_eq!(lease.layers(), [&second.build, &first.build, &base.build].map(path));
    // A new build takes nothing from those that are made of the old one.
    publish(&store, "two");
    assert_eq!(store.collect().unwrap(), 0);
    assert!(matches!(store.remove(&first.id), Err(RemoveError::Below(_))));
    assert!(matches!(store.remove(&second.id), Err(RemoveError::Leased(_))));
    drop(lease);
    store.remove(&second.id).unwrap();
    store.remove(&first.id).unwrap();
    assert_eq!(store.collect().unwrap(), 1);
    assert!(matches!(store.lease_build(&base.build), Err(LeaseError::BuildGone(_))));
}

#[test]
fn what_was_made_for_one_moment_goes_when_nobody_has_it() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let base = publish(&store, "one");
    let made = publish_over(&store, &store.lease(&base.id).unwrap(), "s1", Origin::Passing);
    assert_eq!(store.collect().unwrap(), 0, "whom it was made for has had no time yet");
    let file = dir.path().join(made.build.as_str()).join("template.json");
    let text = fs::read_to_string(&file).unwrap();
    let created = jiff::Timestamp::try_from(made.created_at).unwrap().to_string();
    fs::write(file, text.replace(&created, "2001-01-01T00:00:00Z")).unwrap();
    let store = Store::open(dir.path()).unwrap();
    let lease = store.lease(&made.id).unwrap();
    assert_eq!(store.collect().unwrap(), 0);
    drop(lease);
    assert_eq!(store.collect().unwrap(), 1);
    assert_eq!(store.templates(), [base]);
}

#[tokio::test]
async fn a_copy_of_a_layer_is_the_same_in_everything() {
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&dir.path().join("images")).unwrap();
    let upper = dir.path().join("upper");
    fs::create_dir_all(upper.join("deep/er")).unwrap();
    fs::write(upper.join("deep/file"), "text").unwrap();
    fs::set_permissions(upper.join("deep/file"), fs::Permissions::from_mode(0o4751)).unwrap();
    fs::hard_link(upper.join("deep/file"), upper.join("link")).unwrap();
    symlink("/etc/passwd", upper.join("symlink")).unwrap();
    let draft = store.begin().unwrap();
    let budget = lifecycle::Budget::within(std::time::Duration::from_secs(60));
    let cancel = tokio_util::sync::CancellationToken::new();
    copy_layer(&upper, &draft, &cancel, budget).await.unwrap();
    let (of, copy) = (|name: &str| upper.join(name), |name: &str| draft.rootfs().join(name));
    for name in ["", "deep", "deep/er", "deep/file", "link", "symlink"] {
        let what = |path| {
            let meta = fs::symlink_metadata(path).unwrap();
            (meta.mode(), meta.uid(), meta.gid(), meta.mtime_nsec(), meta.nlink())
        };
        assert_eq!(what(copy(name)), what(of(name)), "{name}");
    }
    assert_eq!(fs::read_link(copy("symlink")).unwrap(), Path::new("/etc/passwd"));
    let inode = |name| fs::metadata(copy(name)).unwrap().ino();
    assert_eq!(inode("link"), inode("deep/file"));
    draft.discard().unwrap();
}
