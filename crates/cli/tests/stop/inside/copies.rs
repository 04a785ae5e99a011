//! Files, both ways.

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;

use buffa::Message as _;
use guest_wire::proto::filesystem::{EntryInfo, FileType, ListDirResponse, StatResponse};
use serde_json::Value;

use crate::kit::{Client, Service, command, data_dir, said, turn};

use super::{bytes, script};

fn cp(service: &Client, from: &str, to: &str) -> (i32, String) {
    let (code, told, complaint) = service.sandbox(&["cp", from, to]);
    assert_eq!(told, "");
    (code, complaint)
}

/// Copies all of it.
fn copies(service: &Client, from: &str, to: &str) {
    assert_eq!(cp(service, from, to), (0, String::new()), "{from} {to}");
}

fn at(path: &Path) -> &str {
    path.to_str().unwrap()
}

const NAMES: [&str; 9] = [
    "plain",
    "with space",
    "-dash",
    "ünïcode ☃",
    "new\nline",
    "100%&a=b+c#?",
    "co:lon",
    "$HOME",
    "\\",
];

#[test]
fn a_tree_goes_in_and_comes_out_as_it_was_with_whatever_names_and_sizes() {
    let Some(_turn) = turn() else { return };
    let data = data_dir();
    let service = Service::start(data.path(), &[]);
    let id = service.create();
    // The template has no chmod of its own.
    let linked = "busybox ln -s busybox /bin/chmod";
    assert_eq!(script(&service, &id, &["--user", "root"], linked), "");
    let here = tempfile::tempdir().unwrap();
    let tree = here.path().join("tree");
    fs::create_dir_all(tree.join("empty")).unwrap();
    for (name, length) in NAMES.into_iter().zip([0, 1, 127, 128 * 1024, 3_000_001].iter().cycle()) {
        let directory = tree.join(name).join("deep").join(name);
        fs::create_dir_all(&directory).unwrap();
        fs::write(directory.join(name), bytes(*length)).unwrap();
    }
    let program = tree.join("program");
    fs::write(&program, "#!/bin/sh\necho it runs\n").unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();

    copies(&service, at(&tree), &format!("{id}:"));
    assert_eq!(script(&service, &id, &[], "tree/program"), "it runs\n");
    assert_eq!(script(&service, &id, &[], "busybox stat -c %U 'tree/with space'"), "user\n");
    let back = here.path().join("back");
    copies(&service, &format!("{id}:tree"), at(&back));
    let diff = command("/usr/bin/diff").args(["-r", at(&tree), at(&back)]).output().unwrap();
    assert!(diff.status.success(), "{}", said(&diff));
    let mode = fs::metadata(back.join("program")).unwrap().permissions().mode();
    assert_eq!(mode & 0o111, 0o111);
    // Into what is there, over what is there.
    copies(&service, &format!("{id}:/home/user/tree"), at(&back));
    copies(&service, at(&program), &format!("{id}:tree/tree"));
    assert_eq!(script(&service, &id, &[], "cat tree/tree"), "#!/bin/sh\necho it runs\n");
    let mut diff = command("/usr/bin/diff");
    let diff = diff.args(["-r", at(&tree), at(&back.join("tree"))]).output().unwrap();
    assert!(diff.status.success(), "{}", said(&diff));
    service.kill(&id);
    service.finish();
}

#[test]
fn links_are_neither_followed_nor_made_and_what_is_left_out_is_said() {
    let Some(_turn) = turn() else { return };
    let data = data_dir();
    let service = Service::start(data.path(), &[]);
    let id = service.create();
    let here = tempfile::tempdir().unwrap();
    let made = "mkdir -p d/e && echo a > d/file && busybox ln -s /etc d/dir && busybox ln -s \
                /etc/passwd d/link && busybox mkfifo d/pipe && busybox ln -s d short";
    script(&service, &id, &[], &made.replace("mkdir", "busybox mkdir"));
    let to = here.path().join("d");
    let (code, complaint) = cp(&service, &format!("{id}:d"), at(&to));
    assert_eq!(code, 3, "{complaint}");
    for line in ["d/dir: it is a link", "d/link: it is a link", "d/pipe: it is neither"] {
        assert!(complaint.contains(line), "{complaint}");
    }
    assert_eq!(complaint.lines().count(), 3, "{complaint}");
    assert_eq!(fs::read_dir(&to).unwrap().count(), 2);
    // Named by the user it is followed.
    assert_eq!(cp(&service, &format!("{id}:short"), at(&here.path().join("s"))).0, 3);
    assert_eq!(fs::read_to_string(here.path().join("s/file")).unwrap(), "a\n");

    // A link that waits here under a name that comes is not written through.
    let victim = here.path().join("victim");
    fs::write(&victim, "whole").unwrap();
    fs::remove_file(to.join("file")).unwrap();
    symlink(&victim, to.join("file")).unwrap();
    let (code, complaint) = cp(&service, &format!("{id}:d/file"), at(&to));
    assert!(code == 1 && complaint.contains("write"), "{complaint}");
    assert_eq!(fs::read_to_string(&victim).unwrap(), "whole");

    let (code, complaint) = cp(&service, at(&to), &format!("{id}:/home/user/up"));
    assert!(code == 3 && complaint.contains("file: it is a link"), "{complaint}");
    service.kill(&id);
    service.finish();
}

#[test]
fn what_cannot_be_copied_is_said_and_nothing_is_made() {
    let Some(_turn) = turn() else { return };
    let data = data_dir();
    let service = Service::start(data.path(), &[]);
    let id = service.create();
    let here = tempfile::tempdir().unwrap();
    let inside = |path: &str| format!("{id}:{path}");
    let file = here.path().join("file");
    fs::write(&file, "x").unwrap();
    let there = here.path().join("there");
    for (from, to, why) in [
        (inside("/no/such"), at(&there).to_owned(), "no such file or directory in the sandbox"),
        (inside("/dev/null"), at(&there).to_owned(), "neither a file nor a directory"),
        (inside("/etc/passwd"), format!("{}/", at(&there)), "no such directory here"),
        (inside("/"), at(here.path()).to_owned(), "no name of its own"),
        (at(&file).to_owned(), inside("new/"), "no such directory in the sandbox"),
        (at(here.path()).to_owned(), inside("/etc/passwd"), "something else has its name"),
        (at(&there).to_owned(), inside("x"), "look at"),
        (at(&file).to_owned(), at(&there).to_owned(), "neither"),
        (inside("a"), inside("b"), "both are in a sandbox"),
    ] {
        let (code, complaint) = cp(&service, &from, &to);
        assert_eq!(code, 1, "{from} {to}: {complaint}");
        assert!(complaint.contains(why), "{complaint}");
    }
    assert_eq!(fs::read_dir(here.path()).unwrap().count(), 1);
    service.kill(&id);
    service.finish();
}

/// A directory as no agent tells of it.
fn forged() -> Vec<u8> {
    let names = ["../up", "..", ".", "", "/etc/forged", "a/b", "a\0b", "link/through", "good"];
    let entry = |name: &str| EntryInfo {
        name: name.to_owned(),
        r#type: FileType::FILE_TYPE_FILE.into(),
        path: format!("/d/{name}"),
        mode: 0o644,
        ..EntryInfo::default()
    };
    let entries = names.into_iter().map(entry).collect();
    ListDirResponse { entries, ..ListDirResponse::default() }.encode_to_vec()
}

/// Answers as `service` does, but for files.
fn forge(mut client: TcpStream, service: &Client, token: &str) {
    let mut reader = BufReader::new(client.try_clone().unwrap());
    let (mut head, mut length, mut team) = (String::new(), 0, String::new());
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).unwrap() == 0 {
            return;
        }
        let (name, value) = line.split_once(':').unwrap_or_default();
        match name {
            "content-length" => length = value.trim().parse().unwrap(),
            "x-team-id" => value.trim().clone_into(&mut team),
            _ => {}
        }
        if line == "\r\n" {
            break;
        }
        head.push_str(&line);
    }
    reader.take(length).read_to_end(&mut Vec::new()).unwrap();
    let path = head.split(' ').nth(1).unwrap();
    let directory = EntryInfo {
        name: "d".to_owned(),
        r#type: FileType::FILE_TYPE_DIRECTORY.into(),
        path: "/d".to_owned(),
        mode: 0o755,
        ..EntryInfo::default()
    };
    let stat = StatResponse { entry: directory.into(), ..StatResponse::default() };
    let answer = match path {
        "/filesystem.Filesystem/Stat" => stat.encode_to_vec(),
        "/filesystem.Filesystem/ListDir" => forged(),
        path if path.starts_with("/files") => b"forged".to_vec(),
        path => {
            let headers = [("X-Admin-Token", token), ("X-Team-ID", team.as_str())];
            let headers = if team.is_empty() { &headers[..1] } else { &headers };
            service.call("GET", path, headers, "").1.into_bytes()
        }
    };
    let length = answer.len();
    let head = format!("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n");
    client.write_all(head.as_bytes()).unwrap();
    client.write_all(&answer).unwrap();
}

#[test]
fn names_that_lead_out_of_the_destination_lead_nowhere() {
    let Some(_turn) = turn() else { return };
    let data = data_dir();
    let service = Service::start(data.path(), &[]);
    let id = service.create();
    let token = service.credential("COFFERDAM_ADMIN_TOKEN");
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let here = tempfile::tempdir().unwrap();
    let to = here.path().join("to");
    let client: Client = service.client.clone();
    let asked = token.clone();
    // Ends with the test's process.
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            forge(stream.unwrap(), &client, &asked);
        }
    });
    let mut copying = service.about_sandboxes(&["cp", &format!("{id}:/d"), at(&to)]);
    let copying = copying.env("E2B_API_URL", url).env("COFFERDAM_ADMIN_TOKEN", &token);
    let output = copying.output().unwrap();
    let complaint = said(&output);
    assert_eq!(output.status.code(), Some(3), "{complaint}");
    assert_eq!(complaint.matches("is no name of a file").count(), 8, "{complaint}");
    let names = |path: &Path| -> Vec<String> {
        let names = fs::read_dir(path).unwrap();
        names.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    };
    assert_eq!((names(here.path()), names(&to)), (vec!["to".to_owned()], vec!["good".to_owned()]));
    assert!(!Path::new("/etc/forged").exists());
    let (status, body) = service.api("DELETE", &format!("/sandboxes/{id}"), &Value::Null);
    assert_eq!(status, 204, "{body}");
    service.finish();
}
