//! Headers in requests of HTTPS: a real program, which believes what its machine does, and a server
//! with a certificate of its own.

use std::net::{IpAddr, TcpStream};
use std::path::Path;
use std::sync::{Arc, mpsc};

use images::Store;
use lifecycle::Budget;
use model::{Egress, EndReason, HeaderRule, Keep, SandboxSpec, Secret};
use node_wire::NodeApi;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use rustls::crypto::ring;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use tempfile::TempDir;
use testkit::{TestNode, busybox_with, in_view, wait_for, with_view};

use super::LIMIT;
use super::world::{answer_all, serve, serve_each};
use crate::guest::run;
use crate::network::{INTERNET, Internet};
use crate::requirements::id;

const CURL: &str = "/usr/bin/curl";
/// Where the guest agent keeps what it has added to those that programs believe.
const ADDED: &str = "/usr/local/share/ca-certificates/e2b-ca.crt";
const PORT: u16 = 8443;

/// How servers of these names speak TLS, and the authority in whose name they do.
pub(super) fn certified(names: &[&str]) -> (String, Arc<ServerConfig>) {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, "the world's");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let key = KeyPair::generate().unwrap();
    let authority = params.self_signed(&key).unwrap().pem();
    let issuer = Issuer::new(params, key);
    let key = KeyPair::generate().unwrap();
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let leaf = CertificateParams::new(names).unwrap().signed_by(&key, &issuer).unwrap();
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![leaf.der().clone()], key)
        .unwrap();
    (authority, Arc::new(config))
}

/// Serves HTTPS in `internet`, and returns the authority in whose name it does.
fn serve_tls(internet: &Internet) -> String {
    let (authority, config) = certified(&["allowed.example", "other.example"]);
    let (ready, is_ready) = mpsc::channel();
    internet.within(move || {
        serve_each(PORT, move |stream: TcpStream| {
            let (to, from) = (stream.local_addr()?.ip(), stream.peer_addr()?.ip());
            let tls = ServerConnection::new(Arc::clone(&config)).unwrap();
            answer_all(StreamOwned::new(tls, stream), to, from)
        });
        ready.send(()).unwrap();
    });
    is_ready.recv().unwrap();
    authority
}

/// Where a node begins whose sandboxes have a program that speaks HTTPS.
fn prepared(authority: &str) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&dir.path().join("images")).unwrap();
    busybox_with(&store, &[CURL]);
    std::fs::write(dir.path().join("authorities.pem"), authority).unwrap();
    dir
}

async fn start(dir: TempDir, view: host::view::View) -> TestNode {
    let authorities = dir.path().join("authorities.pem");
    TestNode::start_in(dir, view, |config| {
        config.resolvers = vec![INTERNET];
        config.authorities = Some(authorities);
    })
    .await
}

fn rules() -> Egress {
    let headers = vec![("authorization".into(), Secret::new("Bearer key".into()))];
    let rule = HeaderRule { requests: "allowed.example".parse().unwrap(), headers };
    Egress { headers: vec![rule], ..Egress::default() }
}

fn spec(test: &TestNode, name: &str, egress: Egress) -> SandboxSpec {
    SandboxSpec { egress, ..test.spec(name) }
}

async fn link_up(addr: IpAddr) {
    let ask = "timeout 1 bash -c 'exec 3<>/dev/tcp/198.51.100.2/53'";
    wait_for("the link to come up", LIMIT, async || run(addr, "user", ask).await.code == 0).await;
}

/// What a program is told that asks `name` by HTTPS, or its exit status.
async fn ask(addr: IpAddr, name: &str, more: &str) -> Result<String, i64> {
    let ask = format!("curl -sS --max-time 20 {more} https://{name}:{PORT}/ 2>&1");
    let got = run(addr, "user", &ask).await;
    if got.code == 0 { Ok(got.stdout) } else { Err(got.code) }
}

async fn is_given(addr: IpAddr) -> bool {
    let answer = ask(addr, "allowed.example", "-H 'Authorization: mine'").await;
    answer.is_ok_and(|text| text.contains("Bearer key") && !text.contains("mine"))
}

/// Whether this host has the program that the sandboxes are to have.
fn has_curl() -> bool {
    let has = Path::new(CURL).is_file();
    if !has {
        println!("skipped, because {CURL} is not there");
    }
    has
}

#[test]
fn https_requests_to_a_domain_get_its_headers_and_others_are_not_touched() {
    if !has_curl() {
        return;
    }
    let internet = Internet::new();
    serve(&internet);
    let dir = prepared(&serve_tls(&internet));
    in_view(async move |view| {
        let test = start(dir, view).await;
        let made = test.node.create(spec(&test, "i1", rules()), LIMIT).await.unwrap();
        let addr = made.route.addr;
        link_up(addr).await;
        let answer = ask(addr, "allowed.example", "").await.unwrap();
        assert!(answer.contains(&format!("at {INTERNET} ")), "{answer}");
        assert!(is_given(addr).await);
        // 60: the certificate cannot be believed. It is the server's own, and the sandbox does not
        // know its authority.
        assert_eq!(ask(addr, "other.example", "").await, Err(60));
        let other = ask(addr, "other.example", "-k").await.unwrap();
        assert!(!other.contains("Bearer"), "{other}");
        let another = ask(addr, "allowed.example", "-H 'Host: other.example'").await.unwrap();
        assert!(another.contains("this connection is for allowed.example"), "{another}");

        // One that was made without knows nothing of it, and all of it with the change.
        let made = test.node.create(spec(&test, "i2", Egress::default()), LIMIT).await.unwrap();
        let addr = made.route.addr;
        link_up(addr).await;
        assert_ne!(run(addr, "user", &format!("cat {ADDED}")).await.code, 0);
        // 77: there is no list of authorities at all.
        assert_eq!(ask(addr, "allowed.example", "").await, Err(77));
        test.node.set_egress(&id("i2"), rules()).await.unwrap();
        assert!(is_given(addr).await);
        test.node.set_egress(&id("i2"), Egress::default()).await.unwrap();
        assert_eq!(ask(addr, "allowed.example", "").await, Err(60), "it is the server's own again");

        // The guest agent is told by who knows its token.
        let token = Some(Secret::new("token".into()));
        let closed = SandboxSpec { access_token: token, ..spec(&test, "i3", Egress::default()) };
        test.node.create(closed, LIMIT).await.unwrap();
        test.node.set_egress(&id("i3"), rules()).await.unwrap();
        test.stop().await;
    });
    drop(internet);
}

#[test]
fn headers_of_https_outlive_pauses_and_the_daemon() {
    if !has_curl() {
        return;
    }
    let internet = Internet::new();
    serve(&internet);
    let dir = prepared(&serve_tls(&internet));
    let kept = |dir: &Path| std::fs::read(dir.join("data/node/egress-authority.json")).unwrap();
    let (dir, addr, before) = with_view(async move |view| {
        let test = start(dir, view).await;
        let made = test.node.create(spec(&test, "i1", rules()), LIMIT).await.unwrap();
        link_up(made.route.addr).await;
        assert!(is_given(made.route.addr).await);
        for keep in [Keep::Memory, Keep::Files] {
            test.node.pause(&id("i1"), keep).await.unwrap();
            let again = spec(&test, "i1", rules());
            let resumed = test.node.resume(again, Keep::Memory, LIMIT).await.unwrap();
            assert_eq!(resumed.memory, keep == Keep::Memory);
            link_up(resumed.started.route.addr).await;
            assert!(is_given(resumed.started.route.addr).await, "{keep:?}");
        }
        let addr = test.node.list().await.unwrap()[0].addr.unwrap();
        let report = test.node.leave(Budget::within(LIMIT)).await;
        assert_eq!((report.left, report.errors), (1, Vec::new()));
        let dir = test.into_dir();
        let before = kept(dir.path());
        (dir, addr, before)
    });
    in_view(async move |view| {
        let at = dir.path().to_owned();
        let next = start(dir, view).await;
        wait_for("the next to serve", LIMIT, async || is_given(addr).await).await;
        assert_eq!(kept(&at), before);
        next.node.kill(&id("i1"), EndReason::Request).await.unwrap();
        next.wait_no_sandbox_objects().await;
        next.stop().await;
    });
    drop(internet);
}

#[test]
fn rules_whose_authority_a_sandbox_cannot_be_told_are_not_in_force() {
    let internet = Internet::new();
    serve(&internet);
    let dir = prepared_without_curl(&serve_tls(&internet));
    in_view(async move |view| {
        let test = start(dir, view).await;
        let made = test.node.create(test.spec("i1"), LIMIT).await.unwrap();
        let addr = made.route.addr;
        // Its list of authorities is none.
        let spoil = "mkdir -p /etc/ssl/certs/ca-certificates.crt";
        assert_eq!(run(addr, "root", &format!("busybox {spoil}")).await.code, 0);
        let error = test.node.set_egress(&id("i1"), rules()).await.unwrap_err().to_string();
        assert!(error.contains("believe the node's certificate authority"), "{error}");
        assert!(error.contains("/etc/ssl/certs/ca-certificates.crt"), "{error}");
        let kept = std::fs::read_dir(test.data_dir().join("node/lifecycles")).unwrap();
        let kept = kept.map(|entry| entry.unwrap().path().join("egress.json").exists());
        assert_eq!(kept.collect::<Vec<_>>(), [false]);
        test.stop().await;
    });
    drop(internet);
}

fn prepared_without_curl(authority: &str) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("authorities.pem"), authority).unwrap();
    dir
}
