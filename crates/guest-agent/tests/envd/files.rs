//! Contents of files, up and down.

use std::io::{Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};

use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;
use guest_wire::signature::{Operation, Signed};
use http::Method;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::json;

use crate::program::{Envd, is_root};
use crate::wire::Answer;

const RAW: (&str, &str) = ("content-type", "application/octet-stream");

fn encoded(text: &str) -> String {
    utf8_percent_encode(text, NON_ALPHANUMERIC).to_string()
}

fn address(path: &str) -> String {
    format!("/files?path={}", encoded(path))
}

fn form(parts: &[(&str, Option<&str>, &[u8])]) -> Vec<u8> {
    let mut body = Vec::new();
    for (field, name, content) in parts {
        let name = name.map(|name| format!("; filename=\"{name}\"")).unwrap_or_default();
        body.extend_from_slice(
            format!("--cut\r\nContent-Disposition: form-data; name=\"{field}\"{name}\r\n\r\n")
                .as_bytes(),
        );
        body.extend_from_slice(content);
        body.extend_from_slice(b"\r\n");
    }
    body.extend_from_slice(b"--cut--\r\n");
    body
}

async fn send_form(envd: &Envd, query: &str, parts: &[(&str, Option<&str>, &[u8])]) -> Answer {
    let headers = [("content-type", "multipart/form-data; boundary=cut")];
    envd.post(&format!("/files{query}"), &headers, form(parts)).await
}

fn gzip(data: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(data).unwrap();
    encoder.finish().unwrap()
}

#[tokio::test]
async fn a_file_comes_down_as_it_is() {
    let envd = Envd::start();
    let path = envd.text_path("größe a.txt");
    std::fs::write(&path, "content").unwrap();
    let answer = envd.get(&address(&path), &[]).await;
    assert_eq!((answer.status.as_u16(), answer.text()), (200, "content"));
    assert_eq!(answer.header("content-type"), Some("text/plain; charset=utf-8"));
    assert_eq!(answer.header("content-length"), Some("7"));
    assert_eq!(answer.header("accept-ranges"), Some("bytes"));
    let disposition = "inline; filename*=utf-8''gr%C3%B6%C3%9Fe%20a.txt";
    assert_eq!(answer.header("content-disposition"), Some(disposition));
    assert!(answer.header("last-modified").unwrap().ends_with(" GMT"));
}

#[tokio::test]
async fn a_file_that_is_not_there_or_none_is_told() {
    let envd = Envd::start();
    let path = envd.text_path("none");
    let missing = envd.get(&address(&path), &[]).await;
    assert_eq!(missing.error(), (404, format!("path '{path}' does not exist")));
    assert_eq!(missing.json()["code"], 404);
    assert_eq!(missing.header("content-type"), Some("application/json; charset=utf-8"));
    let path = envd.text_path("");
    let directory = envd.get(&address(&path), &[]).await;
    assert_eq!(directory.error(), (400, format!("path '{path}' is a directory")));
    let nobody = envd.get("/files?path=/x&username=no-such-user", &[]).await.error();
    assert_eq!(nobody.0, 401);
    assert!(nobody.1.starts_with("error looking up user 'no-such-user': "), "{}", nobody.1);
}

#[tokio::test]
async fn a_part_of_a_file_is_a_part() {
    let envd = Envd::start();
    std::fs::write(envd.path("a"), "0123456789").unwrap();
    let address = address(&envd.text_path("a"));
    let part = envd.get(&address, &[("range", "bytes=2-4"), ("accept-encoding", "gzip")]).await;
    assert_eq!((part.status.as_u16(), part.text()), (206, "234"));
    assert_eq!(part.header("content-range"), Some("bytes 2-4/10"));
    let beyond = envd.get(&address, &[("range", "bytes=10-")]).await;
    assert_eq!((beyond.status.as_u16(), beyond.header("content-range")), (416, Some("bytes */10")));
    let whole = envd.get(&address, &[]).await;
    let date = whole.header("last-modified").unwrap();
    let unchanged = envd.get(&address, &[("if-modified-since", date)]).await;
    assert_eq!((unchanged.status.as_u16(), unchanged.body.len()), (304, 0));
}

#[tokio::test]
async fn a_file_comes_down_compressed_when_asked() {
    let envd = Envd::start();
    let data: Vec<u8> = (0..1_000_000_u32).flat_map(|i| (i / 7).to_le_bytes()).collect();
    std::fs::write(envd.path("a.bin"), &data).unwrap();
    let address = address(&envd.text_path("a.bin"));
    let answer = envd.get(&address, &[("accept-encoding", "gzip")]).await;
    assert_eq!(answer.header("content-encoding"), Some("gzip"));
    assert_eq!(answer.header("content-type"), Some("application/octet-stream"));
    assert_eq!(answer.header("vary"), Some("accept-encoding"));
    let mut unpacked = Vec::new();
    GzDecoder::new(&answer.body[..]).read_to_end(&mut unpacked).unwrap();
    assert!(unpacked == data);
    let refused = envd.get(&address, &[("accept-encoding", "identity;q=0, gzip;q=0")]).await;
    assert_eq!(refused.status.as_u16(), 406);
}

#[tokio::test]
async fn a_raw_body_becomes_one_file() {
    let envd = Envd::start();
    let path = envd.text_path("new/dir/a");
    let answer = envd.post(&address(&path), &[RAW], "content").await;
    assert_eq!(answer.json(), json!([{"path": path, "name": "a", "type": "file"}]));
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "content");
    assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o777, 0o644);
    assert_eq!(std::fs::metadata(envd.path("new")).unwrap().mode() & 0o777, 0o755);

    // One that is there keeps its bits and loses its content.
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    envd.post(&address(&path), &[RAW], "x").await;
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "x");
    assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o777, 0o600);

    let nowhere = envd.post("/files", &[RAW], "x").await;
    let message = "path query parameter is required for raw body upload".to_owned();
    assert_eq!(nowhere.error(), (400, message));
    let directory = envd.post(&address(&envd.text_path("new")), &[RAW], "x").await;
    assert_eq!(directory.error(), (400, format!("path is a directory: {}", envd.text_path("new"))));
}

#[tokio::test]
async fn a_compressed_upload_is_unpacked() {
    let envd = Envd::start();
    let data = "text ".repeat(300_000);
    let path = envd.text_path("a");
    let headers = [RAW, ("content-encoding", "gzip")];
    let answer = envd.post(&address(&path), &headers, gzip(data.as_bytes())).await;
    assert_eq!(answer.status.as_u16(), 200);
    assert!(std::fs::read_to_string(&path).unwrap() == data);
    let broken = envd.post(&address(&path), &headers, "not gzip at all, but text").await;
    assert_eq!(broken.status.as_u16(), 400);
    let unknown = envd.post(&address(&path), &[RAW, ("content-encoding", "br")], "x").await;
    assert_eq!(unknown.status.as_u16(), 400);
}

#[tokio::test]
async fn a_form_brings_several_files() {
    let envd = Envd::start();
    let (a, b) = (envd.text_path("x/a"), envd.text_path("b"));
    let parts: [(&str, Option<&str>, &[u8]); 3] =
        [("file", Some(&a), b"one"), ("other", Some("/etc/no"), b"-"), ("file", Some(&b), b"two")];
    let answer = send_form(&envd, "", &parts).await;
    let written = json!([
        {"path": a, "name": "a", "type": "file"},
        {"path": b, "name": "b", "type": "file"},
    ]);
    assert_eq!(answer.json(), written);
    assert_eq!(std::fs::read_to_string(&a).unwrap(), "one");
    assert_eq!(std::fs::read_to_string(&b).unwrap(), "two");

    // The path of the query goes before the name in the part.
    let query = format!("?path={}", encoded(&a));
    let answer = send_form(&envd, &query, &[("file", Some("ignored"), b"three")]).await;
    assert_eq!(answer.json()[0]["path"], a);
    assert_eq!(std::fs::read_to_string(&a).unwrap(), "three");

    let twice = send_form(&envd, "", &[("file", Some(&a), b"1"), ("file", Some(&a), b"2")]).await;
    let (status, message) = twice.error();
    assert_eq!(status, 400);
    assert!(message.contains(&format!("to the same path '{a}'")), "{message}");
    assert_eq!(std::fs::read_to_string(&a).unwrap(), "1");
}

#[tokio::test]
async fn a_form_that_is_odd_is_answered() {
    let envd = Envd::start();
    let none = send_form(&envd, "", &[("other", None, b"x")]).await;
    assert_eq!((none.status.as_u16(), none.text()), (200, "[]"));
    let nameless = send_form(&envd, "", &[("file", None, b"x")]).await;
    assert_eq!(nameless.status.as_u16(), 400);
    let headers = [("content-type", "multipart/form-data; boundary=cut")];
    let cut = envd.post("/files", &headers, "--cut\r\nContent-Disp").await;
    assert_eq!(cut.status.as_u16(), 500);
    let other = envd.post("/files?path=/x", &[("content-type", "text/plain")], "x").await;
    assert_eq!(
        other.error(),
        (
            400,
            "unsupported content type: text/plain, expected multipart/form-data or \
             application/octet-stream"
                .to_owned()
        )
    );
}

#[tokio::test]
async fn a_large_file_goes_through_with_flat_memory() {
    let envd = Envd::start();
    let data = vec![b'x'; 64 << 20];
    let path = envd.text_path("large");
    let answer = envd.post(&address(&path), &[RAW], data.clone()).await;
    assert_eq!(answer.status.as_u16(), 200);
    assert!(std::fs::read(&path).unwrap() == data);
    let answer = envd.get(&address(&path), &[]).await;
    assert!(answer.body == data);
    let status = std::fs::read_to_string(format!("/proc/{}/status", envd.pid())).unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    let peak_kib: u64 = peak.trim().trim_end_matches(" kB").parse().unwrap();
    assert!(peak_kib < 48 * 1024, "the agent took {peak_kib} KiB");
}

#[tokio::test]
async fn files_belong_to_the_user_of_the_query() {
    if !is_root() {
        println!("skipped, because only root can give files away");
        return;
    }
    let envd = Envd::start();
    let path = envd.text_path("d/a");
    let address = format!("{}&username=nobody", address(&path));
    envd.post(&address, &[RAW], "x").await;
    let owner = std::fs::metadata(&path).unwrap().uid();
    assert_ne!(owner, 0);
    assert_eq!(std::fs::metadata(envd.path("d")).unwrap().uid(), owner);
}

#[tokio::test]
async fn metadata_is_kept_beside_the_file_and_replaced_with_it() {
    let envd = Envd::start();
    let path = envd.text_path("a");
    let answer = envd.post(&address(&path), &[RAW, ("X-Metadata-Kind", "note")], "x").await;
    assert_eq!(answer.json()[0]["metadata"], json!({"kind": "note"}));
    let probe = rustix::fs::setxattr(&path, "user.probe", b"x", rustix::fs::XattrFlags::empty());
    if probe.is_err() {
        println!("skipped, because the file system has no extended attributes");
        return;
    }
    let stat = async || {
        envd.ok("filesystem.Filesystem/Stat", json!({"path": path})).await["entry"]["metadata"]
            .clone()
    };
    assert_eq!(stat().await, json!({"kind": "note"}));
    envd.post(&address(&path), &[RAW], "x").await;
    assert_eq!(stat().await, json!(null));
    let bad = envd.post(&address(&path), &[RAW, ("X-Metadata-a", "tab\there")], "x").await.error();
    assert_eq!(bad.0, 400);
    assert!(bad.1.starts_with("invalid metadata: "), "{}", bad.1);
}

#[tokio::test]
async fn files_become_one() {
    let envd = Envd::start();
    let path = |name: &str| envd.text_path(name);
    for (name, content) in [("1", "one"), ("2", "two")] {
        std::fs::write(envd.path(name), content).unwrap();
    }
    let compose = async |sources: &[&str], destination: &str| {
        let sources: Vec<_> = sources.iter().map(|name| path(name)).collect();
        let body = json!({"source_paths": sources, "destination": path(destination)});
        envd.post("/files/compose", &[], body.to_string()).await
    };
    let answer = compose(&["2", "1"], "d/all").await;
    assert_eq!(answer.json(), json!({"path": path("d/all"), "name": "all", "type": "file"}));
    assert_eq!(std::fs::read_to_string(envd.path("d/all")).unwrap(), "twoone");
    assert!(!envd.path("1").exists() && !envd.path("2").exists());
    assert_eq!(compose(&["1"], "x").await.status.as_u16(), 404);
    assert_eq!(compose(&["d/all"], "d/all").await.status.as_u16(), 400);
    assert_eq!(compose(&["d"], "x").await.status.as_u16(), 400);
    assert_eq!(compose(&[], "x").await.status.as_u16(), 400);
    let left: Vec<_> = std::fs::read_dir(envd.path("d")).unwrap().flatten().collect();
    assert_eq!(left.len(), 1, "a temporary file is left: {left:?}");
}

#[tokio::test]
async fn a_full_disk_is_507_with_the_size() {
    if !is_root() {
        println!("skipped, because only root can mount a small disk");
        return;
    }
    let small = ["unshare", "--mount", "--propagation", "private", "sh", "-c"];
    let script = r#"mount -t tmpfs -o size=1m,nr_inodes=8 tmpfs /mnt && exec "$0" "$@""#;
    let wrapper: Vec<&str> = small.into_iter().chain([script]).collect();
    let probe = crate::program::command("unshare").args(["--mount", "true"]).status();
    if !probe.is_ok_and(|status| status.success()) {
        println!("skipped, because this machine allows no mounts");
        return;
    }
    let envd = Envd::start_by(&wrapper, &[], &[]);
    let answer = envd.post(&address("/mnt/a"), &[RAW], vec![0; 2 << 20]).await;
    let message = "attempted to write 2097152 bytes: not enough disk space available".to_owned();
    assert_eq!(answer.error(), (507, message));
    envd.post(&address("/mnt/a"), &[RAW], "").await;
    let mut last = None;
    for index in 0..8 {
        last = Some(envd.post(&address(&format!("/mnt/{index}")), &[RAW], "").await);
    }
    let (status, message) = last.unwrap().error();
    assert_eq!(status, 507);
    assert!(message.starts_with("not enough inodes available"), "{message}");
}

#[tokio::test]
async fn with_a_token_a_file_needs_it_or_a_signature() {
    let envd = Envd::start();
    std::fs::write(envd.path("a"), "x").unwrap();
    envd.post("/init", &[], json!({"accessToken": "tok"}).to_string()).await;
    let path = envd.text_path("a");
    let address = address(&path);
    let refused = async |address: &str, headers: &[(&str, &str)]| {
        let (status, message) = envd.get(address, headers).await.error();
        assert_eq!(status, 401);
        message
    };
    assert_eq!(refused(&address, &[]).await, "missing signature query parameter");
    let wrong = refused(&address, &[("x-access-token", "other")]).await;
    assert_eq!(wrong, "access token present in header but does not match");
    assert_eq!(envd.get(&address, &[("x-access-token", "tok")]).await.status.as_u16(), 200);

    let signed = |operation, expiration| {
        let signed = Signed { path: &path, operation, username: "", expiration };
        let expiration = expiration.map(|at| format!("&signature_expiration={at}"));
        let signature = encoded(&signed.signature("tok"));
        format!("{address}&signature={signature}{}", expiration.unwrap_or_default())
    };
    for expiration in [None, Some(4_000_000_000)] {
        let answer = envd.get(&signed(Operation::Read, expiration), &[]).await;
        assert_eq!(answer.text(), "x");
    }
    let expired = refused(&signed(Operation::Read, Some(1)), &[]).await;
    assert_eq!(expired, "signature is already expired");
    assert_eq!(refused(&signed(Operation::Write, None), &[]).await, "invalid signature");
    let written = envd.post(&signed(Operation::Write, None), &[RAW], "y").await;
    assert_eq!(written.status.as_u16(), 200);
    let unreadable = envd.get(&format!("{address}&signature_expiration=soon"), &[]).await;
    assert_eq!(unreadable.status.as_u16(), 400);
    let compose = envd.post("/files/compose", &[], "{}").await;
    assert_eq!(compose.status.as_u16(), 401);
    let head = envd.send(Method::HEAD, &address, &[], bytes::Bytes::new()).await;
    assert_eq!(head.status.as_u16(), 401);
}
