use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};

use lifecycle::Budget;
use model::{EndReason, SandboxId, SandboxPhase};
use node_wire::{CreateError, NodeApi, NodeError, NodeEvent};
use testkit::{TestNode, in_view, wait_for};

use crate::guest::run;

const LIMIT: Duration = Duration::from_secs(60);

fn id(text: &str) -> SandboxId {
    SandboxId::parse(text).unwrap()
}

#[test]
fn a_sandbox_runs_commands_and_leaves_nothing_when_it_is_killed() {
    in_view(async |view| {
        let test = TestNode::start(view, |_| {}).await;
        let started = test.node.create(test.spec("i1"), LIMIT).await.unwrap();
        assert_eq!(started.status.phase, SandboxPhase::Live);
        let out = run(started.route.addr, "user", "id -u; echo $GREETING $E2B_SANDBOX_ID").await;
        assert_eq!((out.code, out.stdout.as_str()), (0, "1000\nhello i1\n"), "{out:?}");
        test.node.kill(&id("i1"), EndReason::Request).await.unwrap();
        let gone = test.node.kill(&id("i1"), EndReason::Request).await.unwrap_err();
        assert!(matches!(gone, NodeError::NotFound(_)));
        test.wait_no_sandbox_objects().await;
        test.stop().await;
    });
}

/// Each sandbox has a small file in the daemon's view, whose page stays in use when its name is gone.
#[test]
fn the_view_has_room_for_every_sandbox_of_a_full_node() {
    in_view(async |_view| {
        let path = Path::new(host::view::DIR).join("one");
        let one = |_| {
            std::fs::write(&path, [b'x'; 37]).unwrap();
            let file = std::fs::File::open(&path).unwrap();
            std::fs::remove_file(&path).unwrap();
            OwnedFd::from(file)
        };
        let all: Vec<OwnedFd> = (0..host::identity::SLOTS).map(one).collect();
        assert_eq!(all.len(), usize::from(host::identity::SLOTS));
    });
}

#[test]
fn the_inside_is_confined_by_crun() {
    confined_by("crun");
}

#[test]
fn the_inside_is_confined_by_runc() {
    confined_by("runc");
}

fn confined_by(runtime: &'static str) {
    if let Err(error) = machine::Runtime::find(runtime) {
        println!("skipped, because {error}");
        return;
    }
    in_view(async move |view| {
        let test = TestNode::start(view, |config| config.runtime = runtime.into()).await;
        let addr = test.node.create(test.spec("i1"), LIMIT).await.unwrap().route.addr;
        let read = async |command: &str| run(addr, "root", command).await;
        let status = read("cat /proc/1/status").await.stdout;
        assert!(status.contains("Seccomp:\t2"), "no filter: {status}");
        assert!(status.contains("CapEff:\t00000000a00405fb"), "not the twelve: {status}");
        let map = read("cat /proc/self/uid_map").await.stdout;
        let fields: Vec<u64> = map.split_whitespace().map(|n| n.parse().unwrap()).collect();
        assert!(fields[0] == 0 && fields[1] >= 0x0800_0000 && fields[2] == 65536, "{map}");
        for refused in [
            "mount -t tmpfs x /tmp",
            "mount -t proc x /tmp",
            "echo 1 > /proc/sys/kernel/panic",
            "echo b > /proc/sysrq-trigger",
            "ls /sys/fs/cgroup/*",
            "cat /proc/kcore | busybox head -c1 | busybox grep -q .",
            "busybox mknod /tmp/sda b 254 0",
            "busybox unshare -U true",
            "ls /dev/kvm || ls /dev/mem || ls /dev/vda",
        ] {
            let out = read(refused).await;
            assert_ne!(out.code, 0, "{refused} worked: {out:?}");
        }
        // What programs need, works: owning files, being another user, loopback, ping.
        for allowed in [
            "echo x > /etc/motd && busybox chown 1000 /etc/motd && cat /etc/motd",
            "busybox su user -c id",
            "busybox ifconfig lo | busybox grep -q UP",
            "cat /etc/resolv.conf | busybox grep -q nameserver",
        ] {
            let out = read(allowed).await;
            assert_eq!(out.code, 0, "{allowed}: {out:?}");
        }
        test.stop().await;
    });
}

#[test]
fn memory_and_processes_are_limited_and_the_agent_outlives_both() {
    in_view(async |view| {
        let test = TestNode::start(view, |config| config.max_pids = 64).await;
        let lacks: Vec<_> = test.node.info().await.unwrap().enforcement;
        let lacks: Vec<_> = lacks.iter().filter(|e| !e.enforced && e.what != "disk").collect();
        if !lacks.is_empty() {
            println!("skipped, because this host cannot enforce {lacks:?}");
            return test.stop().await;
        }
        let addr = test.node.create(test.spec("i1"), LIMIT).await.unwrap().route.addr;
        let eat = "busybox tail /dev/zero";
        assert_ne!(run(addr, "user", eat).await.code, 0);
        let bomb = "for i in $(busybox seq 200); do sleep 30 & done 2>/dev/null; echo started";
        let _out =
            run(addr, "user", &format!("({bomb}) >/dev/null 2>&1; busybox killall sleep")).await;
        assert_eq!(run(addr, "user", "echo alive").await.stdout, "alive\n");
        test.stop().await;
    });
}

/// Whether a connection from the sandbox at `from` to `ADDRESS PORT` opens within a second.
async fn reaches(from: std::net::IpAddr, target: &str) -> bool {
    let path = target.replace(' ', "/");
    let out = run(from, "user", &format!("timeout 1 bash -c 'exec 3<>/dev/tcp/{path}'")).await;
    // Refused is 1; a signal, at the end of the second, shows as -1.
    assert!([0, 1, -1].contains(&out.code), "the probe failed: {out:?}");
    out.code == 0
}

#[test]
fn sandboxes_reach_neither_each_other_nor_the_host() {
    in_view(async |view| {
        let test = TestNode::start(view, |_| {}).await;
        let one = test.node.create(test.spec("i1"), LIMIT).await.unwrap().route.addr;
        let two = test.node.create(test.spec("i2"), LIMIT).await.unwrap().route.addr;
        let listener = tokio::net::TcpListener::bind("0.0.0.0:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let std::net::IpAddr::V4(own) = one else { panic!("not IPv4") };
        let gateway = std::net::Ipv4Addr::from_bits(own.to_bits() - 1);
        let host = std::fs::read_to_string("/proc/net/fib_trie").unwrap();
        let mut targets = vec![
            format!("{two} 49983"),
            format!("{gateway} {port}"),
            "169.254.169.254 80".to_owned(),
            "10.0.0.1 80".to_owned(),
        ];
        // Every address the host has, whatever its range.
        let lines: Vec<&str> = host.lines().collect();
        for pair in lines.windows(2) {
            if pair[1].contains("/32 host LOCAL")
                && let Some(address) = pair[0].split_whitespace().last()
                && !address.starts_with("127.")
            {
                targets.push(format!("{address} {port}"));
            }
        }
        targets.sort();
        targets.dedup();
        wait_for("the probe to work", LIMIT, || reaches(one, "127.0.0.1 49983")).await;
        for target in &targets {
            assert!(!reaches(one, target).await, "reached {target}");
        }
        assert!(targets.len() > 4, "the host's addresses were not found");
        // The other way round works: that is how traffic gets in.
        assert_eq!(run(two, "user", "echo in").await.stdout, "in\n");
        test.stop().await;
    });
}

#[test]
fn without_internet_there_is_no_way_out_but_the_agent_answers() {
    in_view(async |view| {
        let test = TestNode::start(view, |_| {}).await;
        let mut spec = test.spec("i1");
        spec.internet = false;
        let addr = test.node.create(spec, LIMIT).await.unwrap().route.addr;
        let out = run(addr, "user", "busybox ip route").await;
        assert!(!out.stdout.contains("default via"), "{out:?}");
        assert!(out.stdout.contains("unreachable default"), "who tries is told at once: {out:?}");
        let addr = test.node.create(test.spec("i2"), LIMIT).await.unwrap().route.addr;
        assert!(run(addr, "user", "busybox ip route").await.stdout.contains("default via"));
        test.stop().await;
    });
}

#[test]
fn a_sandbox_ends_at_its_time_and_says_why() {
    in_view(async |view| {
        let test = TestNode::start(view, |_| {}).await;
        let mut events = test.node.events();
        let mut spec = test.spec("i1");
        spec.ttl = Duration::from_millis(50);
        test.node.create(spec, LIMIT).await.unwrap();
        let event = events.recv().await.unwrap();
        let NodeEvent::Ended { reason, .. } = event else { panic!("{event:?}") };
        assert_eq!(reason, EndReason::Timeout);
        test.node.create(test.spec("i2"), LIMIT).await.unwrap();
        test.node.set_end(&id("i2"), SystemTime::now()).await.unwrap();
        wait_for("the end that was moved", LIMIT, || async { test.node.sandboxes() == 0 }).await;
        test.wait_no_sandbox_objects().await;
        test.stop().await;
    });
}

#[test]
fn a_machine_that_ends_by_itself_is_noticed_and_cleaned_up() {
    in_view(async |view| {
        let test = TestNode::start(view, |_| {}).await;
        let mut events = test.node.events();
        test.node.create(test.spec("i1"), LIMIT).await.unwrap();
        let items = test.node.census(Budget::within(LIMIT)).await.unwrap();
        let envd = items.iter().find(|i| i.name.ends_with(" envd")).unwrap();
        let pid = envd.name.split(' ').next().unwrap().parse().unwrap();
        let process = host::process::Process::open(pid).unwrap();
        process.signal(rustix::process::Signal::KILL).unwrap();
        let event = events.recv().await.unwrap();
        assert!(matches!(event, NodeEvent::Ended { reason: EndReason::Crashed, .. }), "{event:?}");
        test.wait_no_sandbox_objects().await;
        test.stop().await;
    });
}

#[test]
fn what_cannot_be_admitted_is_refused_before_anything_is_made() {
    in_view(async |view| {
        let test = TestNode::start(view, |config| config.max_sandboxes = 2).await;
        test.node.create(test.spec("i1"), LIMIT).await.unwrap();
        let twice = test.node.create(test.spec("i1"), LIMIT).await.unwrap_err();
        assert!(matches!(twice, CreateError::AlreadyExists(_)), "{twice}");
        test.node.create(test.spec("i2"), LIMIT).await.unwrap();
        let full = test.node.create(test.spec("i3"), LIMIT).await.unwrap_err();
        assert!(matches!(full, CreateError::Full { limit: 2 }), "{full}");
        let mut unknown = test.spec("i4");
        unknown.template = model::TemplateId::parse("nosuch").unwrap();
        let unknown = test.node.create(unknown, LIMIT).await.unwrap_err();
        assert!(matches!(unknown, CreateError::UnknownTemplate(_)), "{unknown}");
        assert_eq!(test.node.list().await.unwrap().len(), 2);
        test.stop().await;
    });
}

#[test]
fn a_full_disk_is_said_before_anything_is_made() {
    in_view(async |view| {
        let test = TestNode::start(view, |config| config.disk_reserve_mib = u64::MAX / 2).await;
        let error = test.node.create(test.spec("i1"), LIMIT).await.unwrap_err();
        assert!(matches!(error, CreateError::DiskFull { .. }), "{error}");
        assert!(error.retry_after().is_some());
        test.stop().await;
    });
}

#[test]
fn a_caller_that_hangs_up_loses_the_answer_and_nothing_else() {
    in_view(async |view| {
        let test = TestNode::start(view, |_| {}).await;
        let create = test.node.create(test.spec("i1"), LIMIT);
        // Polled once, so that the work has begun, then dropped.
        let hung_up = Budget::within(Duration::ZERO).run("create", create).await;
        hung_up.unwrap_err();
        wait_for("the sandbox to run all the same", LIMIT, || async {
            let list = test.node.list().await.unwrap();
            list.iter().any(|s| s.phase == SandboxPhase::Live)
        })
        .await;
        test.stop().await;
    });
}

#[test]
fn a_start_that_is_killed_is_undone() {
    in_view(async |view| {
        let test = TestNode::start(view, |_| {}).await;
        let create = test.node.create(test.spec("i1"), LIMIT);
        let kill = async {
            let sandbox = id("i1");
            wait_for("the start to begin", LIMIT, || async { test.node.sandboxes() == 1 }).await;
            test.node.kill(&sandbox, EndReason::Request).await
        };
        let (created, killed) = tokio::join!(create, kill);
        killed.unwrap();
        // Either the kill came first, or the sandbox had just become live.
        if let Err(error) = created {
            assert_eq!(error, CreateError::Cancelled);
        }
        test.wait_no_sandbox_objects().await;
        test.stop().await;
    });
}

#[test]
fn a_stopped_node_ends_its_sandboxes_and_admits_no_more() {
    in_view(async |view| {
        let test = TestNode::start(view, |_| {}).await;
        for sandbox in ["i1", "i2", "i3"] {
            test.node.create(test.spec(sandbox), LIMIT).await.unwrap();
        }
        let report = test.node.shutdown(Budget::within(LIMIT)).await;
        assert_eq!((report.ended, report.is_clean()), (3, true), "{report:#?}");
        let refused = test.node.create(test.spec("i4"), LIMIT).await.unwrap_err();
        assert!(matches!(refused, CreateError::Draining), "{refused}");
    });
}

#[test]
fn two_nodes_on_one_host_leave_each_other_alone() {
    in_view(async |view| {
        let one = TestNode::start(view, |_| {}).await;
        let addr = one.node.create(one.spec("i1"), LIMIT).await.unwrap().route.addr;
        let second = || {
            in_view(async |view| {
                let two = TestNode::start(view, |_| {}).await;
                two.node.create(two.spec("i1"), LIMIT).await.unwrap();
                two.stop().await;
            });
        };
        let second = tokio::task::spawn_blocking(move || host::view::outside(second));
        second.await.unwrap().unwrap();
        assert_eq!(run(addr, "user", "echo still here").await.stdout, "still here\n");
        one.stop().await;
    });
}

#[test]
fn leaks_are_told_apart_from_what_a_running_node_owns() {
    in_view(async |view| {
        let test = TestNode::start(view, |_| {}).await;
        test.node.create(test.spec("i1"), LIMIT).await.unwrap();
        let network = std::net::Ipv4Addr::new(10, 213, 0, 0);
        // As the command does it: in a process that is not the daemon's.
        let leaks = || {
            let dir = test.data_dir();
            let handle = tokio::runtime::Handle::current();
            host::view::outside(move || handle.block_on(node::leaks(&dir, network)))
                .unwrap()
                .unwrap()
        };
        let report = tokio::task::block_in_place(leaks);
        assert!(report.daemon_running && report.leaked.is_empty(), "{report:#?}");
        assert!(!report.owned.is_empty());
        // A group of ours that no lifecycle accounts for.
        let mark = host::identity::mark_of(&test.data_dir(), network).unwrap();
        let root = host::view::outside(host::cgroup::Layout::detect).unwrap().unwrap();
        let stray = root.unified_path().unwrap().join(mark.cgroup_root()).join("lstray");
        let stray = &stray;
        host::view::outside(|| std::fs::create_dir(stray)).unwrap().unwrap();
        let report = tokio::task::block_in_place(leaks);
        assert_eq!(report.leaked.len(), 1, "{report:#?}");
        host::view::outside(|| std::fs::remove_dir(stray)).unwrap().unwrap();
        test.stop().await;
    });
}

/// Less than it takes to look once; what is there for longer may well be seen twice.
const ONE_LOOK: Duration = Duration::from_millis(1);

/// Set when this goes: a test that fails would wait for its thread for good.
struct Ends(Arc<AtomicBool>);

impl Drop for Ends {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn what_goes_while_it_is_looked_for_is_no_leak() {
    in_view(async |view| {
        let test = TestNode::start(view, |_| {}).await;
        let (dir, network) = (test.data_dir(), std::net::Ipv4Addr::new(10, 213, 0, 0));
        let mark = host::identity::mark_of(&dir, network).unwrap();
        let layout = host::view::outside(host::cgroup::Layout::detect).unwrap().unwrap();
        let groups = layout.unified_path().unwrap().join(mark.cgroup_root());
        let done = Arc::new(AtomicBool::new(false));
        let _ends = Ends(Arc::clone(&done));
        // What the last moment of one sandbox after the other looks like: a group without a
        // directory, and never the same twice.
        let ends = Arc::clone(&done);
        let end = tokio::task::spawn_blocking(move || {
            let mut stayed = Vec::new();
            host::view::outside(|| {
                let mut n = 0_u64;
                while !ends.load(Ordering::Relaxed) {
                    n += 1;
                    let name = format!("l{n}");
                    let began = Instant::now();
                    std::fs::create_dir(groups.join(&name)).unwrap();
                    std::fs::remove_dir(groups.join(&name)).unwrap();
                    if began.elapsed() > ONE_LOOK {
                        stayed.push(name);
                    }
                }
            })
            .unwrap();
            stayed
        });
        // And the real thing.
        let come_and_go = async || {
            let mut n = 0;
            while !done.load(Ordering::Relaxed) {
                n += 1;
                let name = format!("i{n}");
                test.node.create(test.spec(&name), LIMIT).await.unwrap();
                test.node.kill(&id(&name), EndReason::Request).await.unwrap();
            }
        };
        let look = async {
            let handle = tokio::runtime::Handle::current();
            let looks = tokio::task::spawn_blocking(move || {
                let look = || handle.block_on(node::leaks(&dir, network));
                host::view::outside(|| (0..40).map(|_| look()).collect::<Vec<_>>()).unwrap()
            });
            let reports = looks.await.unwrap();
            done.store(true, Ordering::Relaxed);
            reports
        };
        let (reports, ()) = tokio::join!(look, come_and_go());
        let stayed = end.await.unwrap();
        for mut report in reports.into_iter().map(Result::unwrap) {
            report.leaked.retain(|item| !stayed.contains(&item.name));
            assert!(report.daemon_running && report.leaked.is_empty(), "{:#?}", report.leaked);
        }
        test.stop().await;
    });
}
