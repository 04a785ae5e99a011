//! `cofferdam uninstall` on a host where a service was, is, or was killed.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write as _;
use std::net::Ipv4Addr;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use host::Mark;
use host::cgroup::{Cgroups, Layout};
use host::identity::{is_held, mark_of};
use images::Store;
use serde_json::{Value, json};

use crate::guest;
use crate::kit::{BINARY, Service, command, data_dir, looks, said, terminal, turn};

fn uninstall(data: &Path, args: &[&str]) -> Command {
    let mut command = command(BINARY);
    command.args(["uninstall", "--log", "error", "--timeouts-stop", "5s", "--envd"]);
    command.arg(testkit::agent()).arg("--data-dir").arg(data).args(args);
    command
}

/// Its exit code, and what it says to a program.
fn uninstalled(data: &Path, args: &[&str]) -> (i32, Value) {
    let Output { status, stdout, stderr } =
        uninstall(data, &[&["--yes", "--json"], args].concat()).output().unwrap();
    let told = serde_json::from_slice(&stdout);
    let told = told.unwrap_or_else(|_| panic!("{status} {}", String::from_utf8_lossy(&stderr)));
    (status.code().unwrap(), told)
}

/// What one node has on the host, by numbers that nothing else ever gets, whoever takes its names
/// after it.
#[derive(Debug, PartialEq, Eq)]
struct Traces {
    data: PathBuf,
    /// Processes with the time of their start.
    processes: BTreeSet<(i32, String)>,
    cgroups: BTreeSet<u64>,
    links: BTreeSet<String>,
    tables: BTreeSet<String>,
}

impl Traces {
    fn of(data: &Path) -> Self {
        let mark = mark_of(data, Ipv4Addr::new(10, 213, 0, 0)).unwrap();
        let cgroups = Cgroups::existing(Layout::detect().unwrap(), mark.cgroup_root());
        let (mut processes, mut groups) = (BTreeSet::new(), BTreeSet::new());
        for name in cgroups.list().unwrap() {
            let pids = cgroups.named(&name).pids().unwrap();
            processes.extend(pids.into_iter().filter_map(|pid| Some((pid, started(pid)?))));
        }
        for root in cgroups.roots().unwrap() {
            groups.extend(directories(&root));
        }
        let (links, tables) = (links(mark), tables(Some(mark)));
        Self { data: data.to_path_buf(), processes, cgroups: groups, links, tables }
    }

    /// Of one that runs a sandbox, when it has made the next slot as well.
    fn settled(data: &Path) -> Self {
        let mut last = Self::of(data);
        let is_settled = || {
            let now = Self::of(data);
            let is_same = now == last && now.links.len() == 2;
            last = now;
            is_same
        };
        assert!(looks(is_settled), "it never gets done");
        last
    }

    fn are_some_of_each(&self) -> bool {
        let Self { processes, cgroups, links, tables, .. } = self;
        !(processes.is_empty() || cgroups.is_empty() || links.is_empty() || tables.is_empty())
    }

    /// What of it is on the host now.
    fn left(&self) -> Vec<String> {
        let mut left = Vec::new();
        let there = |(pid, start): &&(i32, String)| started(*pid).as_ref() == Some(start);
        left.extend(self.processes.iter().filter(there).map(|(pid, _)| format!("process {pid}")));
        let layout = Layout::detect().unwrap();
        let groups = directories(layout.unified_path().unwrap());
        left.extend(self.cgroups.intersection(&groups).map(|group| format!("cgroup {group}")));
        let all = fs::read_dir("/sys/class/net").unwrap().map(|link| link.unwrap().path());
        let links: BTreeSet<String> = all.filter_map(|link| index(&link)).collect();
        left.extend(self.links.intersection(&links).map(|link| format!("link {link}")));
        let tables = tables(None);
        left.extend(self.tables.intersection(&tables).map(|table| format!("table {table}")));
        let path = self.data.to_str().unwrap();
        for view in ["/proc/1/mountinfo", "/proc/self/mountinfo"] {
            let mounts = fs::read_to_string(view).unwrap();
            left.extend(mounts.lines().filter(|line| line.contains(path)).map(str::to_owned));
        }
        for claim in fs::read_dir("/run/cofferdam").into_iter().flatten().flatten() {
            let holder = fs::read_to_string(claim.path()).unwrap_or_default();
            if holder == path {
                left.push(format!("claim {}", claim.path().display()));
            }
        }
        left
    }
}

/// When a process was started, in ticks; `None` when it is not there, or has ended and the host's
/// first process, to which it fell with the end of its service, has not asked how.
fn started(pid: i32) -> Option<String> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_ascii_whitespace();
    fields.next().filter(|state| *state != "Z")?;
    fields.nth(18).map(str::to_owned)
}

/// The numbers of `dir` and all below; those of cgroups are never used twice.
fn directories(dir: &Path) -> BTreeSet<u64> {
    let mut found: BTreeSet<u64> = fs::metadata(dir).iter().map(MetadataExt::ino).collect();
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            found.extend(directories(&entry.path()));
        }
    }
    found
}

fn index(link: &Path) -> Option<String> {
    let index = fs::read_to_string(link.join("ifindex")).ok()?;
    Some(index.trim().to_owned())
}

fn links(mark: Mark) -> BTreeSet<String> {
    let all = fs::read_dir("/sys/class/net").unwrap().map(|link| link.unwrap().path());
    let ours = all.filter(|link| {
        let name = link.file_name().unwrap().to_str().unwrap();
        mark.slot_of_link(name).is_some()
    });
    ours.filter_map(|link| index(&link)).collect()
}

/// The numbers of the tables of `mark`, or of all.
fn tables(mark: Option<Mark>) -> BTreeSet<String> {
    let listed = command("/usr/sbin/nft").args(["--json", "list", "tables"]).output().unwrap();
    let listed: Value = serde_json::from_slice(&listed.stdout).unwrap();
    let tables = listed["nftables"].as_array().unwrap().iter().map(|entry| &entry["table"]);
    let ours = tables.filter(|table| {
        table.is_object() && mark.is_none_or(|mark| table["name"] == json!(mark.table()))
    });
    ours.map(|table| table["handle"].to_string()).collect()
}

#[test]
fn after_a_kill_nothing_is_left_and_a_neighbour_serves_on() {
    let Some(_turn) = turn() else { return };
    let (data, beside) = (data_dir(), data_dir());
    let neighbour = Service::start(beside.path(), &[]);
    let stays = neighbour.create();
    let theirs = Traces::settled(beside.path());
    let mut service = Service::start(data.path(), &[]);
    for _ in 0..2 {
        let id = service.create();
        guest::start(service.address, &id, "while :; do sleep 1; done");
    }
    service.crash();
    let ours = Traces::of(data.path());
    assert!(ours.are_some_of_each(), "{ours:?}");
    assert!(!ours.left().is_empty());
    // Made by the first rules that give headers to HTTPS.
    fs::write(data.path().join("node/egress-authority.json"), "{}").unwrap();

    let (code, told) = uninstalled(data.path(), &[]);
    assert_eq!((code, &told["left"]), (0, &json!([])), "{told:#}");
    assert_eq!((&told["ended"], ours.left()), (&json!(2), Vec::new()));
    assert!(!data.path().exists());
    // The claims of others are theirs.
    let kept = told["kept"].as_array().unwrap();
    let claims = kept.iter().find(|kept| kept["path"] == "/run/cofferdam").unwrap();
    assert!(claims["why"].as_str().unwrap().contains(beside.path().to_str().unwrap()), "{claims}");

    assert_eq!(Traces::of(beside.path()), theirs);
    assert!(neighbour.reaches(&stays));
    let another = neighbour.create();
    for id in [&stays, &another] {
        neighbour.kill(id);
    }
    neighbour.finish();
}

#[test]
fn a_service_that_runs_is_not_touched() {
    let Some(_turn) = turn() else { return };
    let data = data_dir();
    let service = Service::start(data.path(), &[]);
    let id = service.create();
    let refused = uninstall(data.path(), &["--yes"]).output().unwrap();
    assert_eq!(refused.status.code(), Some(4), "{}", said(&refused));
    assert!(said(&refused).contains("systemctl stop cofferdam"), "{}", said(&refused));
    assert!(service.reaches(&id));
    service.kill(&id);
    service.finish();
}

#[test]
fn nothing_is_removed_before_somebody_says_yes() {
    let Some(_turn) = turn() else { return };
    let data = data_dir();
    let mut service = Service::start(data.path(), &[]);
    let id = service.create();
    service.crash();
    let ours = Traces::of(data.path());
    let unasked = uninstall(data.path(), &[]).output().unwrap();
    assert_eq!(unasked.status.code(), Some(1), "{}", said(&unasked));
    assert!(said(&unasked).contains("pass --yes"), "{}", said(&unasked));
    let (code, told) = answered(data.path(), "no\n");
    assert!(code == 1 && told.contains("nothing was removed"), "{told}");
    assert!(told.contains("This ends 1 sandboxes, and removes all records"), "{told}");
    assert_eq!(Traces::of(data.path()).processes, ours.processes);
    // It runs on for the next service, as it would have.
    let mut service = Service::start(data.path(), &[]);
    assert!(service.reaches(&id));
    service.crash();

    let ours = Traces::of(data.path());
    let (code, told) = answered(data.path(), "yes\n");
    assert!(code == 0 && told.contains("ended 1 sandboxes"), "{told}");
    assert!(told.contains(&format!("nothing is left of {}", data.path().display())), "{told}");
    assert_eq!(ours.left(), Vec::<String>::new());
}

/// What it says to a person who answers so, and its exit code.
fn answered(data: &Path, answer: &str) -> (i32, String) {
    let (mut screen, keyboard) = terminal();
    screen.write_all(answer.as_bytes()).unwrap();
    let output = uninstall(data, &[]).stdin(keyboard).output().unwrap();
    (output.status.code().unwrap(), said(&output))
}

#[test]
fn what_somebody_else_keeps_there_stays_and_is_named() {
    let Some(_turn) = turn() else { return };
    let data = data_dir();
    let service = Service::start(data.path(), &[]);
    let id = service.create();
    service.kill(&id);
    service.finish();
    let notes = data.path().join("notes");
    fs::create_dir(&notes).unwrap();
    fs::write(data.path().join("node/ended/note"), "").unwrap();

    let (code, told) = uninstalled(data.path(), &["--keep-images"]);
    assert_eq!((code, &told["left"]), (0, &json!([])), "{told:#}");
    let kept: BTreeSet<&str> = told["kept"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|kept| kept["path"].as_str()?.strip_prefix(data.path().to_str().unwrap()))
        .collect();
    assert_eq!(kept, BTreeSet::from(["", "/images", "/notes", "/node/ended"]), "{told:#}");
    assert_eq!(names(data.path()), ["images", "node", "notes"]);
    assert_eq!(Store::open(&data.path().join("images")).unwrap().templates().len(), 2);

    fs::remove_file(data.path().join("node/ended/note")).unwrap();
    let (code, told) = uninstalled(data.path(), &[]);
    assert_eq!((code, names(data.path())), (0, vec!["notes".to_owned()]), "{told:#}");
    fs::remove_dir(notes).unwrap();
    let (code, told) = uninstalled(data.path(), &[]);
    assert_eq!((code, data.path().exists()), (0, false), "{told:#}");
    // Nodes of other tests may be on this host.
    let is_removed = told["removed"].as_array().unwrap().contains(&json!("/run/cofferdam"));
    let is_kept = told["kept"].as_array().unwrap().iter().any(|kept| {
        kept["path"] == "/run/cofferdam" && kept["why"].as_str().unwrap().contains("other nodes")
    });
    assert!(is_removed != is_kept, "{told:#}");
    // Asked again, there is nothing to do.
    let again = uninstall(data.path(), &["--yes"]).output().unwrap();
    assert_eq!(again.status.code(), Some(0), "{}", said(&again));
    assert!(said(&again).contains("there is no data directory"), "{}", said(&again));
}

type Sight = fn(&Path) -> bool;

/// What can be seen of an uninstall from outside, in its order.
const MOMENTS: [(&str, Sight); 6] = [
    ("begun", |_| true),
    ("claimed", |data| is_held(data).unwrap()),
    ("released", |data| names(&data.join("node/lifecycles")).is_empty()),
    ("without templates", |data| !data.join("images").exists()),
    ("without credentials", |data| !data.join("credentials.env").exists()),
    ("without a lock", |data| !data.join("node.lock").exists()),
];

#[test]
fn killed_at_any_moment_the_next_one_goes_on() {
    let Some(_turn) = turn() else { return };
    for (moment, is_there) in MOMENTS {
        let data = data_dir();
        let mut service = Service::start(data.path(), &[]);
        service.create();
        service.crash();
        let ours = Traces::of(data.path());
        let mut killed = uninstall(data.path(), &["--yes"]);
        let mut killed = killed.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        // One that is quicker than whoever looks has come to its end.
        let has_ended = |killed: &mut Child| killed.try_wait().unwrap().is_some();
        let is_seen = || is_there(data.path()) || has_ended(&mut killed);
        assert!(looks(is_seen), "it is never {moment}");
        killed.kill().unwrap();
        killed.wait().unwrap();
        let last = uninstall(data.path(), &["--yes"]).output().unwrap();
        assert_eq!(last.status.code(), Some(0), "{moment}: {}", said(&last));
        assert_eq!(ours.left(), Vec::<String>::new(), "{moment}");
        assert!(!data.path().exists(), "{moment}");
    }
}

fn names(dir: &Path) -> Vec<String> {
    // It may be on its way out.
    let entries = fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.file_name());
    let mut names: Vec<String> = entries.map(|name| name.into_string().unwrap()).collect();
    names.sort();
    names
}

/// Something of the host's that is mounted among the files of the one sandbox.
struct InTheWay(PathBuf);

impl InTheWay {
    fn put(data: &Path) -> Self {
        let lifecycles = fs::read_dir(data.join("node/lifecycles")).unwrap();
        let held = lifecycles.into_iter().next().unwrap().unwrap().path().join("held");
        fs::create_dir(&held).unwrap();
        let mounted =
            command("/usr/bin/mount").args(["-t", "tmpfs", "none"]).arg(&held).output().unwrap();
        assert!(mounted.status.success(), "{}", said(&mounted));
        Self(held)
    }
}

impl Drop for InTheWay {
    fn drop(&mut self) {
        drop(command("/usr/bin/umount").arg(&self.0).output());
    }
}

#[test]
fn what_cannot_be_removed_is_named_and_the_next_one_goes_on() {
    let Some(_turn) = turn() else { return };
    let data = data_dir();
    let mut service = Service::start(data.path(), &[]);
    service.create();
    service.crash();
    let ours = Traces::of(data.path());
    let held = InTheWay::put(data.path());
    let (code, told) = uninstalled(data.path(), &[]);
    assert_eq!(code, 2, "{told:#}");
    let left = told["left"].as_array().unwrap();
    assert!(left.iter().any(|what| what.as_str().unwrap().contains("held")), "{told:#}");
    // The files say what is left: they stay, too.
    assert_eq!(told["removed"], json!([]), "{told:#}");
    assert!(data.path().join("credentials.env").exists());
    assert!(ours.left().iter().all(|what| !what.starts_with("process")), "{:?}", ours.left());

    drop(held);
    let (code, told) = uninstalled(data.path(), &[]);
    assert_eq!((code, &told["left"]), (0, &json!([])), "{told:#}");
    assert_eq!(ours.left(), Vec::<String>::new());
    assert!(!data.path().exists());
}
