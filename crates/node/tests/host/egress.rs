//! Rules by name: what a sandbox asks for decides where its connections go.

mod https;
mod proxies;
mod questions;
mod world;

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use lifecycle::Budget;
use model::{Egress, EndReason, HeaderRule, Ipv4Range, Secret, SocksProxy};
use node_wire::NodeApi;
use testkit::{TestNode, in_view, wait_for, with_view};
use tokio::net::TcpStream;

use crate::guest::run;
use crate::network::{ELSEWHERE, HOST, INTERNET, Internet};
use crate::requirements::id;
use world::{PASSWORD, USER, get, hello, is_over, keep_open, serve, talk};

const LIMIT: Duration = Duration::from_secs(60);
const SECOND: Duration = Duration::from_secs(1);

fn names(domains: &[&str]) -> Egress {
    Egress {
        deny: vec![Ipv4Range::ALL],
        domains: domains.iter().map(|text| text.parse().unwrap()).collect(),
        ..Egress::default()
    }
}

fn through_proxy(password: &str) -> Egress {
    let password = Some(Secret::new(password.into()));
    let proxy = SocksProxy::new("proxy.example:1080", Some(USER.into()), password).unwrap();
    Egress { proxy: Some(proxy), ..Egress::default() }
}

async fn start(view: host::view::View) -> TestNode {
    TestNode::start(view, |config| config.resolvers = vec![INTERNET]).await
}

/// A sandbox with `rules` whose link is up, and that of the internet.
async fn sandbox(test: &TestNode, name: &str, rules: Egress) -> IpAddr {
    let mut spec = test.spec(name);
    spec.egress = rules;
    let addr = test.node.create(spec, LIMIT).await.unwrap().route.addr;
    // Where names are allowed the sandbox's own question is taken in on the way.
    let there = || TcpStream::connect((INTERNET, 53));
    let is_there =
        async || Budget::within(SECOND).run("a way", there()).await.is_ok_and(|it| it.is_ok());
    wait_for("the internet to come up", LIMIT, is_there).await;
    let ask = "timeout 1 bash -c 'exec 3<>/dev/tcp/198.51.100.2/53'";
    wait_for("the link to come up", LIMIT, async || run(addr, "user", ask).await.code == 0).await;
    addr
}

fn text(address: Ipv4Addr) -> String {
    address.to_string()
}

#[test]
fn the_name_that_is_asked_for_decides_and_the_address_does_not() {
    let internet = Internet::new();
    serve(&internet);
    in_view(async move |view| {
        let test = start(view).await;
        let domains = ["allowed.example", "*.below.example", "private.example", "gone.example"];
        let addr = sandbox(&test, "i1", names(&domains)).await;
        let there = format!("at {INTERNET} from {HOST}\n");
        // By the name, by an address that is another's, by one that is nobody's.
        for to in ["allowed.example", &text(ELSEWHERE), "203.0.113.99", "10.98.7.2"] {
            let got = get(addr, to, "allowed.example").await;
            assert!(got.stdout.contains(&there), "{to}: {got:?}");
            let got = hello(addr, to, "allowed.example").await;
            assert!(got.stdout.contains(&format!("bytes at {INTERNET}")), "{to}: {got:?}");
        }
        let below = get(addr, &text(INTERNET), "a.below.example").await;
        assert!(below.stdout.contains(&format!("at {ELSEWHERE} ")), "{below:?}");
        for (host, part) in [
            ("other.example", "403 Forbidden"),
            ("other.example", "do not allow other.example"),
            ("below.example", "do not allow below.example"),
            (&text(INTERNET), "names no host"),
            ("private.example", "no sandbox reaches 10.98.7.2"),
            ("gone.example", "gone.example has no IPv4 address"),
        ] {
            let refused = get(addr, &text(INTERNET), host).await;
            assert!(refused.stdout.contains(part), "{host}: {refused:?}");
        }
        for (to, name) in [
            (text(INTERNET), "other.example"),
            (text(INTERNET), "198.51.100.2"),
            (text(INTERNET), "private.example"),
        ] {
            let refused = hello(addr, &to, name).await;
            assert_ne!(refused.code, 0, "{name}: {refused:?}");
            assert_eq!(refused.stdout.trim(), "", "{name}");
        }
        // Neither HTTP nor TLS, and nothing but TCP.
        let other = talk(addr, (&text(INTERNET), 80), b"hello\n").await;
        assert_eq!(other.stdout, "", "{other:?}");
        let udp = run(addr, "user", "bash -c 'echo x > /dev/udp/198.51.100.3/53'").await;
        assert_ne!(udp.code, 0, "{udp:?}");
        test.stop().await;
    });
    drop(internet);
}

#[test]
fn nobody_in_a_sandbox_can_change_its_table_or_pass_for_the_daemon() {
    let internet = Internet::new();
    serve(&internet);
    in_view(async move |view| {
        let test = start(view).await;
        let addr = sandbox(&test, "i1", names(&["allowed.example"])).await;
        // To change a table takes CAP_NET_ADMIN in the network's user namespace, to mark a packet
        // that or CAP_NET_RAW, as does a raw one: bits 12 and 13. What is not in the bounding set
        // nobody gets, and a user namespace of one's own does not own this network.
        for user in ["user", "root"] {
            let status = run(addr, user, "cat /proc/self/status").await.stdout;
            let bounding = status.lines().find_map(|line| line.strip_prefix("CapBnd:")).unwrap();
            let bounding = u64::from_str_radix(bounding.trim(), 16).unwrap();
            assert_eq!(bounding & (1 << 12 | 1 << 13), 0, "{bounding:x}");
            let rule = "busybox ip route add 198.51.100.3/32 dev eth0";
            assert_ne!(run(addr, user, rule).await.code, 0);
            let inside = format!("busybox unshare -Ur {rule}");
            assert_ne!(run(addr, user, &inside).await.code, 0);
        }
        let still = get(addr, &text(INTERNET), "other.example").await;
        assert!(still.stdout.contains("403 Forbidden"), "{still:?}");
        test.stop().await;
    });
    drop(internet);
}

#[test]
fn other_rules_are_in_force_at_once_and_for_what_is_open() {
    let internet = Internet::new();
    serve(&internet);
    in_view(async move |view| {
        let test = start(view).await;
        // By address at first: nothing of the daemon's is in its way.
        let addr = sandbox(&test, "i1", Egress::default()).await;
        let to = text(INTERNET);
        let set = async |rules: Egress| test.node.set_egress(&id("i1"), rules).await.unwrap();
        let allowed = async |host: &str| get(addr, &to, host).await.stdout.contains("200 OK");
        assert!(allowed("allowed.example").await && allowed("other.example").await);

        set(names(&["allowed.example"])).await;
        assert!(allowed("allowed.example").await && !allowed("other.example").await);
        set(names(&["allowed.example", "other.example"])).await;
        assert!(allowed("allowed.example").await && allowed("other.example").await);

        // One that is open and stays allowed, and one that does not.
        for name in ["allowed.example", "other.example"] {
            keep_open(addr, &to, name).await;
        }
        set(names(&["allowed.example"])).await;
        wait_for("the other to be cut off", LIMIT, || is_over(addr, "other.example")).await;
        assert!(!is_over(addr, "allowed.example").await);

        let denied = Ipv4Range::new(INTERNET, 32);
        set(Egress { deny: vec![denied], ..Egress::default() }).await;
        assert!(!allowed("allowed.example").await, "by address again");
        wait_for("the one to be cut off", LIMIT, || is_over(addr, "allowed.example")).await;
        set(Egress::default()).await;
        assert!(allowed("other.example").await);
        test.stop().await;
    });
    drop(internet);
}

#[test]
fn without_a_daemon_nothing_gets_out_and_the_next_one_serves_by_the_same_rules() {
    let internet = Internet::new();
    serve(&internet);
    let to = text(INTERNET);
    let (dir, addr) = with_view(async |view| {
        let test = start(view).await;
        let addr = sandbox(&test, "i1", names(&["allowed.example"])).await;
        let got = get(addr, &text(INTERNET), "allowed.example").await;
        assert!(got.stdout.contains("200 OK"), "{got:?}");
        let report = test.node.leave(Budget::within(LIMIT)).await;
        assert_eq!((report.left, report.errors), (1, Vec::new()));
        (test.into_dir(), addr)
    });
    let dir = with_view(async move |_view| {
        for host in ["allowed.example", "other.example"] {
            let refused = get(addr, "198.51.100.2", host).await;
            assert!(refused.stderr.contains("refused"), "{refused:?}");
        }
        let kept = std::fs::read_dir(dir.path().join("data/node/lifecycles")).unwrap();
        let kept = kept.map(|entry| entry.unwrap().path().join("egress.json").exists());
        assert_eq!(kept.collect::<Vec<_>>(), [true]);
        dir
    });
    in_view(async move |view| {
        let next = TestNode::start_in(dir, view, |config| config.resolvers = vec![INTERNET]).await;
        wait_for("the next to serve", LIMIT, async || {
            get(addr, &to, "allowed.example").await.stdout.contains("200 OK")
        })
        .await;
        let refused = get(addr, &to, "other.example").await;
        assert!(refused.stdout.contains("403 Forbidden"), "{refused:?}");
        next.node.set_egress(&id("i1"), names(&["other.example"])).await.unwrap();
        let got = get(addr, &to, "other.example").await;
        assert!(got.stdout.contains("200 OK"), "{got:?}");
        next.node.kill(&id("i1"), EndReason::Request).await.unwrap();
        next.wait_no_sandbox_objects().await;
        next.stop().await;
    });
    drop(internet);
}

#[test]
fn a_sandbox_that_ends_with_open_connections_leaves_nothing() {
    let internet = Internet::new();
    serve(&internet);
    in_view(async move |view| {
        let test = start(view).await;
        let addr = sandbox(&test, "i1", names(&["allowed.example"])).await;
        keep_open(addr, &text(INTERNET), "allowed.example").await;
        test.node.kill(&id("i1"), EndReason::Request).await.unwrap();
        test.wait_no_sandbox_objects().await;
        test.stop().await;
    });
    drop(internet);
}

#[test]
fn everything_goes_through_the_proxy_of_a_sandbox_that_has_one() {
    let internet = Internet::new();
    let asked = serve(&internet);
    in_view(async move |view| {
        let test = start(view).await;
        let addr = sandbox(&test, "i1", through_proxy(PASSWORD)).await;
        // From the proxy's address, which is its own network's.
        let by_name = get(addr, &text(INTERNET), "allowed.example").await;
        assert!(by_name.stdout.contains(&format!("at {INTERNET} ")), "{by_name:?}");
        assert!(!by_name.stdout.contains(&format!("from {HOST}")), "{by_name:?}");
        let first = talk(addr, (&text(INTERNET), 22), b"").await;
        assert!(first.stdout.contains("SSH-2.0-test"), "where the server speaks first: {first:?}");
        let hello = hello(addr, &text(ELSEWHERE), "allowed.example").await;
        assert!(hello.stdout.contains("bytes"), "{hello:?}");
        let expected = ["allowed.example:80", "198.51.100.2:22", "allowed.example:443"];
        assert_eq!(*asked.lock(), expected);
        let udp = run(addr, "user", "bash -c 'echo x > /dev/udp/198.51.100.3/9'").await;
        assert_ne!(udp.code, 0, "no datagram goes around it: {udp:?}");

        let set = async |rules: Egress| test.node.set_egress(&id("i1"), rules).await.unwrap();
        set(Egress { proxy: through_proxy(PASSWORD).proxy, ..names(&["allowed.example"]) }).await;
        let refused = get(addr, &text(INTERNET), "other.example").await;
        assert!(refused.stdout.contains("403 Forbidden"), "{refused:?}");
        set(through_proxy("wrong")).await;
        let denied = get(addr, &text(INTERNET), "allowed.example").await;
        assert!(!denied.stdout.contains("200 OK"), "fails closed: {denied:?}");
        assert_eq!(asked.lock().len(), expected.len());
        test.stop().await;
    });
    drop(internet);
}

#[test]
fn who_allows_names_says_which_name_servers_can_be_asked() {
    let internet = Internet::new();
    serve(&internet);
    in_view(async move |view| {
        let test = start(view).await;
        let addr = sandbox(&test, "i1", names(&["allowed.example"])).await;
        let asks = async |server: Ipv4Addr| {
            let ask = format!("bash -c 'echo x > /dev/udp/{server}/53'");
            run(addr, "user", &ask).await.code == 0
        };
        assert_eq!((asks(INTERNET).await, asks(ELSEWHERE).await), (true, false), "the node's");
        for (servers, expected) in [(vec![ELSEWHERE], (false, true)), (vec![], (false, false))] {
            // What is asked for is allowed altogether.
            let allow = servers.iter().map(|server| Ipv4Range::new(*server, 32)).collect();
            let name_servers = Some(servers);
            let rules = Egress { allow, name_servers, ..names(&["allowed.example"]) };
            test.node.set_egress(&id("i1"), rules).await.unwrap();
            assert_eq!((asks(INTERNET).await, asks(ELSEWHERE).await), expected);
            let got = get(addr, &text(INTERNET), "allowed.example").await;
            assert!(got.stdout.contains("200 OK"), "names are looked up by the node: {got:?}");
        }
        test.stop().await;
    });
    drop(internet);
}

#[test]
fn requests_to_a_domain_get_its_headers_and_no_others() {
    let internet = Internet::new();
    serve(&internet);
    in_view(async move |view| {
        let test = start(view).await;
        let header = |name: &str, value: &str| (name.to_owned(), Secret::new(value.into()));
        let headers = vec![header("authorization", "Bearer key"), header("x-a", "set")];
        let rule = HeaderRule { requests: "allowed.example".parse().unwrap(), headers };
        let rules = Egress { headers: vec![rule], ..Egress::default() };
        let addr = sandbox(&test, "i1", rules).await;
        // To an address that a program says is the domain's, nothing is told.
        let request = "GET / HTTP/1.1\r\nHost: allowed.example\r\nX-A: mine\r\n\r\n\
                       GET /2 HTTP/1.1\r\nHost: other.example\r\nX-A: mine\r\nConnection: close\r\n\r\n";
        let got = talk(addr, (&text(ELSEWHERE), 80), request.as_bytes()).await.stdout;
        let (first, second) = got.split_once("GET /2").unwrap();
        assert!(first.contains(&format!("at {INTERNET} ")), "{got}");
        assert!(first.contains("Bearer key") && first.contains("set"), "{got}");
        assert!(!first.contains("mine"), "{got}");
        assert!(second.contains("mine") && !second.contains("Bearer"), "{got}");
        test.stop().await;
    });
    drop(internet);
}
