//! The base template, made for real: needs root, the network and mmdebstrap, and takes 20 s.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use images::base::{self, Progress, Request};
use images::{Package, Store};
use lifecycle::Budget;
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

fn request() -> Request {
    Request::new("0.6.4".to_owned(), 10_240)
}

fn mounts() -> String {
    fs::read_to_string("/proc/self/mountinfo").unwrap()
}

/// Why a template cannot be made here at all, which is no fault of ours.
fn cannot() -> Option<&'static str> {
    if !rustix::process::geteuid().is_root() {
        return Some("making a template needs root");
    }
    if !Path::new("/usr/bin/mmdebstrap").is_file() {
        return Some("mmdebstrap is not installed");
    }
    None
}

#[expect(clippy::print_stdout, reason = "a skipped test says so")]
fn skip(reason: &str) {
    println!("skipped, because {reason}");
}

#[tokio::test]
async fn the_base_template_is_a_system_programs_can_use() {
    if let Some(reason) = cannot() {
        return skip(reason);
    }
    let dir = tempfile::tempdir().unwrap();
    let store = Arc::new(Store::open(dir.path()).unwrap());
    let mounts_before = mounts();
    let seen = Mutex::new(Vec::new());
    let progress = |progress: Progress| seen.lock().push(progress);
    let budget = Budget::within(base::USUAL_LIMIT);
    let template =
        base::build(&store, request(), &progress, &CancellationToken::new(), budget).await.unwrap();

    let steps: Vec<u64> = seen.lock().iter().map(|progress| progress.step).collect();
    assert_eq!(steps, Vec::from_iter(1..=Progress::STEPS), "every step is told once, in order");
    assert_eq!(mounts(), mounts_before, "no mount is left on the host");

    assert_eq!(store.find("base"), Some(Arc::clone(&template)));
    assert_eq!((template.content.resources.vcpus, template.content.resources.memory_mib), (2, 512));
    let named = |name: &str| template.content.packages.iter().any(|p: &Package| p.name == name);
    assert!(named("sudo") && named("bash") && named("libc6"));

    let lease = store.lease(&template.id).unwrap();
    let rootfs = &lease.layers()[0];
    let mode = |path: &str| fs::symlink_metadata(rootfs.join(path)).unwrap().mode() & 0o7777;
    assert_eq!(mode("code"), 0o777);
    assert_eq!(mode("usr/local"), 0o777);
    assert_eq!(mode("usr/local/bin"), 0o777);
    assert_eq!(mode("usr/bin/envd"), 0o755);
    assert_eq!(mode("etc/sudoers.d/user"), 0o440);
    assert_eq!(mode("usr/bin/sudo") & 0o4000, 0o4000, "set-user-id survived");
    assert_eq!(fs::read_to_string(rootfs.join("etc/resolv.conf")).unwrap(), "");
    assert_eq!(fs::read_to_string(rootfs.join("etc/hostname")).unwrap(), "e2b.local\n");
    assert_eq!(fs::symlink_metadata(rootfs.join("home/user")).unwrap().uid(), 1000);
    for authority in added_authorities() {
        let bundle = fs::read_to_string(rootfs.join("etc/ssl/certs/ca-certificates.crt")).unwrap();
        assert!(
            bundle.contains(&authority),
            "the host trusts it, so the template must:\n{authority}"
        );
    }
    let inside: Vec<_> = fs::read_dir(rootfs.parent().unwrap())
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    assert_eq!(inside.len(), 2, "only the files and their description: {inside:?}");
}

/// The first certificate of each file the operator of this host added.
fn added_authorities() -> Vec<String> {
    let Ok(entries) = fs::read_dir("/usr/local/share/ca-certificates") else { return Vec::new() };
    let paths = entries.map(|entry| entry.unwrap().path());
    paths
        .filter(|path| path.extension().is_some_and(|extension| extension == "crt"))
        .filter_map(|path| {
            let text = fs::read_to_string(path).unwrap().replace('\r', "");
            let begins = text.find("-----BEGIN CERTIFICATE-----")?;
            let ends = text.find("-----END CERTIFICATE-----")?;
            Some(text.get(begins..ends).unwrap().to_owned())
        })
        .collect()
}

#[tokio::test]
async fn a_build_that_is_out_of_time_leaves_nothing() {
    if let Some(reason) = cannot() {
        return skip(reason);
    }
    let dir = tempfile::tempdir().unwrap();
    let store = Arc::new(Store::open(dir.path()).unwrap());
    let mounts_before = mounts();
    let budget = Budget::within(Duration::from_secs(4));
    let never = CancellationToken::new();
    let error = base::build(&store, request(), &|_| (), &never, budget).await.unwrap_err();
    assert!(matches!(error, base::BuildError::Install(_)), "{error}");
    assert_eq!(mounts(), mounts_before);
    assert!(store.templates().is_empty());
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}
