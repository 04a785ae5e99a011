//! The way out: through the host's address to the internet, which here is a network namespace of
//! the test with documentation addresses (RFC 5737) and a name server.

use std::fs::File;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, TcpListener, UdpSocket};
use std::os::fd::AsFd;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use host::net::{Slot, is_linked};
use lifecycle::Budget;
use model::{Egress, Ipv4Range};
use node_wire::{NodeApi, NodeError};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use testkit::{TestNode, in_view, wait_for, with_view};

use crate::guest::run;
use crate::requirements::mark;

const LIMIT: Duration = Duration::from_secs(60);
pub(crate) const HOST: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);
pub(crate) const INTERNET: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 2);
pub(crate) const ELSEWHERE: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 3);
/// In a private range, and reachable from the host.
pub(crate) const PRIVATE: Ipv4Addr = Ipv4Addr::new(10, 98, 7, 2);

/// The addresses of an internet are on the host: one at a time has it, of all tests that run there.
fn only() -> File {
    let file = File::open(concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml")).unwrap();
    file.lock().unwrap();
    file
}

/// A namespace beside the host, joined by a link.
pub(crate) struct Internet {
    name: String,
    _only: File,
}

impl Internet {
    pub(crate) fn new() -> Self {
        let name = format!("cofferdam-test-{}", std::process::id());
        let this = Self { name, _only: only() };
        let (ns, link) = (&this.name, this.link());
        ip(&format!("netns add {ns}"));
        ip(&format!("link add {link} type veth peer name eth0 netns {ns}"));
        ip(&format!("addr add {HOST}/29 dev {link}"));
        ip(&format!("addr add 10.98.7.1/30 dev {link}"));
        ip(&format!("link set {link} up"));
        ip(&format!("-n {ns} addr add {INTERNET}/29 dev eth0"));
        ip(&format!("-n {ns} addr add {ELSEWHERE}/29 dev eth0"));
        ip(&format!("-n {ns} addr add {PRIVATE}/30 dev eth0"));
        ip(&format!("-n {ns} link set eth0 up"));
        this
    }

    fn link(&self) -> String {
        format!("cdi-{}", std::process::id())
    }

    /// Has its own programs reach its own addresses.
    pub(crate) fn loopback_up(&self) {
        ip(&format!("-n {} link set lo up", self.name));
    }

    /// Runs `work` in a thread in the namespace.
    pub(crate) fn within(&self, work: impl FnOnce() + Send + 'static) {
        let file = File::open(format!("/run/netns/{}", self.name)).unwrap();
        std::thread::spawn(move || {
            let fd = std::os::fd::AsFd::as_fd(&file);
            move_into_link_name_space(fd, Some(LinkNameSpaceType::Network)).unwrap();
            work();
        });
    }

    /// Serves in the namespace until the process ends: who connects is told its own address.
    fn serve(&self) {
        let (ready, is_ready) = std::sync::mpsc::channel();
        self.within(move || {
            let http = TcpListener::bind(("0.0.0.0", 80)).unwrap();
            let dns = UdpSocket::bind(("0.0.0.0", 53)).unwrap();
            std::thread::spawn(move || answer_names(&dns));
            ready.send(()).unwrap();
            for stream in http.incoming() {
                let mut stream = stream.unwrap();
                let peer = stream.peer_addr().unwrap().ip();
                let mut request = [0; 1024];
                // What it asks for does not matter.
                if stream.read(&mut request).is_ok() {
                    drop(write!(stream, "HTTP/1.0 200 OK\r\n\r\nyou are {peer}\n"));
                }
            }
        });
        is_ready.recv().unwrap();
    }
}

impl Drop for Internet {
    fn drop(&mut self) {
        // Who serves in the namespace keeps it, and its link, until the process ends.
        if std::fs::exists(format!("/sys/class/net/{}", self.link())).unwrap() {
            ip(&format!("link del {}", self.link()));
        }
        ip(&format!("netns del {}", self.name));
    }
}

#[expect(clippy::disallowed_methods, reason = "sets up the test's own network")]
fn ip(args: &str) {
    let done = Command::new("ip").args(args.split(' ')).output().unwrap();
    assert!(done.status.success(), "ip {args}: {}", String::from_utf8_lossy(&done.stderr));
}

/// Says of every name that it is [`INTERNET`] (RFC 1035, one A record).
fn answer_names(dns: &UdpSocket) {
    let mut packet = [0; 512];
    while let Ok((len, from)) = dns.recv_from(&mut packet) {
        let question_end = packet[12..len].iter().position(|byte| *byte == 0).unwrap() + 12 + 5;
        let is_v4 = packet[question_end - 4..question_end - 2] == [0, 1];
        let mut answer = packet[..question_end].to_vec();
        answer[2..4].copy_from_slice(&[0x81, 0x80]);
        answer[6..12].copy_from_slice(&[0, u8::from(is_v4), 0, 0, 0, 0]);
        if is_v4 {
            answer.extend([0xC0, 0x0C, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4]);
            answer.extend(INTERNET.octets());
        }
        dns.send_to(&answer, from).unwrap();
    }
}

#[test]
fn a_sandbox_reaches_the_internet_by_name_from_the_hosts_address_and_no_private_network() {
    let internet = Internet::new();
    internet.serve();
    in_view(async move |view| {
        let test = TestNode::start(view, |config| config.resolvers = vec![INTERNET]).await;
        let addr = test.node.create(test.spec("i1"), LIMIT).await.unwrap().route.addr;
        let get = async |from, host: &str| {
            let ask = format!("exec 3<>/dev/tcp/{host}/80; echo GET / >&3; cat <&3");
            run(from, "user", &format!("timeout 10 bash -c '{ask}'")).await
        };
        let answer = format!("HTTP/1.0 200 OK\r\n\r\nyou are {HOST}\n");
        wait_for("the link to come up", LIMIT, || async {
            get(addr, &INTERNET.to_string()).await.code == 0
        })
        .await;
        let by_address = get(addr, &INTERNET.to_string()).await;
        assert_eq!(by_address.stdout, answer, "{by_address:?}");
        let by_name = get(addr, "a.name.example").await;
        assert_eq!(by_name.stdout, answer, "{by_name:?}");
        let private = get(addr, &PRIVATE.to_string()).await;
        assert_ne!(private.code, 0, "{private:?}");
        let mut spec = test.spec("i2");
        spec.internet = false;
        let addr = test.node.create(spec, LIMIT).await.unwrap().route.addr;
        let out = get(addr, &INTERNET.to_string()).await;
        assert_ne!(out.code, 0, "{out:?}");
        test.stop().await;
    });
    drop(internet);
}

#[test]
fn rules_for_connections_are_in_force_from_the_start_and_from_every_change_on() {
    let internet = Internet::new();
    internet.serve();
    in_view(async move |view| {
        let test = TestNode::start(view, |_| {}).await;
        let range = |address: Ipv4Addr| Ipv4Range::new(address, 32);
        let mut spec = test.spec("i1");
        spec.egress = Egress {
            allow: vec![range(INTERNET)],
            deny: vec![Ipv4Range::ALL],
            ..Egress::default()
        };
        let id = spec.id.clone();
        let addr = test.node.create(spec, LIMIT).await.unwrap().route.addr;
        let IpAddr::V4(guest) = addr else { panic!("{addr}") };
        let answers = async |to: Ipv4Addr| {
            let ask = format!("exec 3<>/dev/tcp/{to}/80; echo GET / >&3; cat <&3");
            run(addr, "user", &format!("timeout 10 bash -c '{ask}'")).await.code == 0
        };
        wait_for("the link to come up", LIMIT, || answers(INTERNET)).await;
        assert!(!answers(ELSEWHERE).await);
        let set = async |allow: &[Ipv4Range], deny: &[Ipv4Range]| {
            let rules = Egress { allow: allow.to_vec(), deny: deny.to_vec(), ..Egress::default() };
            test.node.set_egress(&id, rules).await.unwrap();
            (answers(INTERNET).await, answers(ELSEWHERE).await)
        };
        let both = Ipv4Range::new(INTERNET, 31);
        assert_eq!(set(&[], &[]).await, (true, true));
        assert_eq!(set(&[], &[range(INTERNET)]).await, (false, true));
        assert_eq!(set(&[range(ELSEWHERE)], &[both]).await, (false, true));
        assert_eq!(set(&[both], &[range(ELSEWHERE)]).await, (true, true), "allowing beats denying");
        assert_eq!(set(&[], &[Ipv4Range::ALL]).await, (false, false));
        // The node still talks to the agent, or these could not be asked.
        let link = Ipv4Range::new(guest, 31);
        assert_eq!(set(&[], &[link, range(guest)]).await, (true, true));

        let changed = run(addr, "root", "ip route del unreachable 198.51.100.2").await;
        assert_ne!(changed.code, 0, "nobody inside changes the rules: {changed:?}");
        assert_eq!(set(&[], &[range(INTERNET)]).await, (false, true));
        let gone = "inobody".parse().unwrap();
        let refused = test.node.set_egress(&gone, Egress::default()).await;
        assert_eq!(refused, Err(NodeError::NotFound("inobody".into())));
        test.stop().await;
    });
}

/// The lines of what the host remembers of connections that name `address`.
fn remembered(address: Ipv4Addr) -> Vec<String> {
    let text = std::fs::read_to_string("/proc/net/nf_conntrack").unwrap();
    let named = |line: &&str| {
        let mut words = line.split_whitespace();
        words.any(|word| word.strip_prefix("src=").is_some_and(|src| src == address.to_string()))
    };
    text.lines().filter(named).map(str::to_owned).collect()
}

#[test]
fn what_the_host_remembers_of_a_sandboxs_connections_is_no_matter_of_the_next() {
    if !std::fs::exists("/proc/net/nf_conntrack").unwrap() {
        println!("skipped, because this host does not show the connections it remembers");
        return;
    }
    let internet = Internet::new();
    internet.serve();
    in_view(async move |view| {
        let test = TestNode::start(view, |config| config.resolvers = vec![INTERNET]).await;
        let addr = test.node.create(test.spec("i1"), LIMIT).await.unwrap().route.addr;
        let std::net::IpAddr::V4(guest) = addr else { panic!("{addr}") };
        // One that is open when its end comes, and a packet that nobody answers.
        let tcp = format!("exec 3<>/dev/tcp/{INTERNET}/80; exec sleep 1000");
        let tcp = format!("busybox setsid bash -c '{tcp}' </dev/null >/dev/null 2>&1 &");
        let udp = format!("bash -c 'echo x > /dev/udp/{INTERNET}/9'");
        let known = |what: &str| {
            let masked = format!("dst={HOST} ");
            remembered(guest).iter().any(|line| line.contains(what) && line.contains(&masked))
        };
        wait_for("the link to come up", LIMIT, async || {
            run(addr, "user", &udp).await.code == 0 && known(" udp ")
        })
        .await;
        assert_eq!(run(addr, "user", &tcp).await.code, 0);
        wait_for("it to connect", LIMIT, async || known(" tcp ")).await;
        test.node.kill(&crate::requirements::id("i1"), model::EndReason::Request).await.unwrap();
        // Before the address is another's, and with nobody waiting for it.
        wait_for("it to be forgotten", LIMIT, async || remembered(guest).is_empty()).await;
        test.stop().await;
    });
    drop(internet);
}

/// A slot that no node gets to in a test.
const FAR: u16 = 2000;

/// Has the host remember a connection to a slot that nobody has any more.
async fn remembered_of_nobody(mark: host::Mark) -> Ipv4Addr {
    let helpers = Path::new("/sys/fs/cgroup").join(mark.cgroup_root()).join("_helpers");
    let helpers = File::open(helpers).unwrap();
    let slot = Slot::create(mark, FAR, guest_wire::ENVD_PORT, helpers.as_fd()).unwrap();
    let guest = slot.net().guest;
    UdpSocket::bind("0.0.0.0:0").unwrap().send_to(b"x", (guest, 9)).unwrap();
    drop(slot);
    wait_for("the link to go", LIMIT, async || !is_linked(mark, FAR)).await;
    guest
}

#[test]
fn a_new_daemon_has_the_host_forget_all_but_the_connections_of_those_that_run_on() {
    if !std::fs::exists("/proc/net/nf_conntrack").unwrap() {
        println!("skipped, because this host does not show the connections it remembers");
        return;
    }
    let internet = Internet::new();
    internet.serve();
    let (dir, stays, nobodys) = with_view(async move |view| {
        let test = TestNode::start(view, |config| config.resolvers = vec![INTERNET]).await;
        let addr = test.node.create(test.spec("i1"), LIMIT).await.unwrap().route.addr;
        let IpAddr::V4(stays) = addr else { panic!("{addr}") };
        let tcp = format!("exec 3<>/dev/tcp/{INTERNET}/80; exec sleep 1000");
        let tcp = format!("busybox setsid bash -c '{tcp}' </dev/null >/dev/null 2>&1 &");
        wait_for("it to connect", LIMIT, async || {
            run(addr, "user", &tcp).await.code == 0 && is_connected(stays)
        })
        .await;
        let nobodys = remembered_of_nobody(mark(&test)).await;
        let report = test.node.leave(Budget::within(LIMIT)).await;
        assert_eq!((report.left, report.errors), (1, Vec::new()));
        (test.into_dir(), stays, nobodys)
    });
    assert_ne!(remembered(nobodys), [""; 0]);
    in_view(async move |view| {
        let next = TestNode::start_in(dir, view, |config| config.resolvers = vec![INTERNET]).await;
        wait_for("it to be forgotten", LIMIT, async || remembered(nobodys).is_empty()).await;
        assert!(is_connected(stays), "{:?}", remembered(stays));
        next.stop().await;
    });
    drop(internet);
}

/// Whether the host remembers a connection of `guest` to the internet.
fn is_connected(guest: Ipv4Addr) -> bool {
    let to = format!("dst={INTERNET} ");
    remembered(guest).iter().any(|line| line.contains(" tcp ") && line.contains(&to))
}
