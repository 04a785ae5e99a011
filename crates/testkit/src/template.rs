use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use images::{NewTemplate, Store};
use model::{Resources, TemplateId};

const BUSYBOX: &str = "/bin/busybox";

/// Whether the host has a busybox that runs without libraries.
#[must_use]
pub fn has_busybox() -> bool {
    Path::new(BUSYBOX).is_file()
}

/// Puts a template of busybox and bash into `store`: made in milliseconds, without a network.
///
/// # Panics
/// When it cannot be made.
pub fn busybox(store: &Store) -> TemplateId {
    busybox_with(store, &[])
}

/// As [`busybox`], with `programs` of this host and what they are linked with.
///
/// # Panics
/// When it cannot be made.
pub fn busybox_with(store: &Store, programs: &[&str]) -> TemplateId {
    let draft = store.begin().expect("begin template");
    let root = draft.rootfs();
    for dir in ["bin", "dev", "etc", "home/user", "proc", "root", "run", "sys", "tmp", "usr/bin"] {
        fs::create_dir_all(root.join(dir)).expect("template directory");
    }
    fs::set_permissions(root.join("tmp"), fs::Permissions::from_mode(0o1777)).expect("chmod");
    std::os::unix::fs::chown(root.join("home/user"), Some(1000), Some(1000)).expect("chown");
    fs::copy(BUSYBOX, root.join("bin/busybox")).expect("copy busybox (install busybox-static)");
    for applet in ["sh", "cat", "sleep", "echo", "id", "ls", "true", "mount", "timeout"] {
        symlink("busybox", root.join("bin").join(applet)).expect("applet");
    }
    // A real one: it can open connections, which a static busybox cannot (it looks up even
    // numbers through libraries that are not there, and crashes).
    copy_with_libraries("/bin/bash", &root);
    programs.iter().for_each(|program| copy_with_libraries(program, &root));
    let write = |path: &str, text: &str| fs::write(root.join(path), text).expect("template file");
    write("usr/bin/envd", "");
    write("etc/passwd", "root:x:0:0::/root:/bin/sh\nuser:x:1000:1000::/home/user:/bin/sh\n");
    write("etc/group", "root:x:0:\nuser:x:1000:\n");
    write("etc/hosts", "127.0.0.1 localhost\n");
    let content = NewTemplate {
        aliases: vec!["busybox".into()],
        resources: Resources { vcpus: 1, memory_mib: 128, disk_mib: 1024 },
        user: "user".into(),
        workdir: None,
        envd_version: "0.6.4".into(),
        packages: Vec::new(),
    };
    match store.publish(draft, content) {
        Ok(template) => template.id.clone(),
        Err((_draft, error)) => panic!("publish template: {error}"),
    }
}

#[expect(clippy::disallowed_methods, reason = "asks the host's loader, once per test node")]
fn copy_with_libraries(program: &str, root: &Path) {
    let listed = std::process::Command::new("ldd").arg(program).output().expect("ldd");
    let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
    let libraries = listed.split_whitespace().filter(|word| word.starts_with('/'));
    for file in libraries.chain([program]) {
        let to = root.join(file.trim_start_matches('/'));
        fs::create_dir_all(to.parent().expect("a directory")).expect("library directory");
        fs::copy(file, to).expect("copy library");
    }
}
