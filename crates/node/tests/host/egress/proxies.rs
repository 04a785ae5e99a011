//! A proxy that speaks TLS.

use std::net::Ipv4Addr;
use std::sync::{Arc, mpsc};

use lifecycle::{Budget, TaskGroup};
use model::{Egress, EndReason, ProxyTls, Secret, SocksProxy};
use node_wire::NodeApi;
use rustls::ServerConfig;
use testkit::{TestNode, in_view, wait_for, with_view};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use super::https::certified;
use super::world::{PASSWORD, USER, get, serve, talk};
use super::{LIMIT, sandbox, text};
use crate::network::{HOST, INTERNET, Internet};
use crate::requirements::id;

const PORT: u16 = 1443;

/// Has the proxy in `internet` speak TLS as well, until the process ends.
fn serve_in_tls(internet: &Internet, config: Arc<ServerConfig>) {
    let (ready, is_ready) = mpsc::channel();
    let acceptor = TlsAcceptor::from(config);
    internet.within(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async move {
            let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, PORT)).await.unwrap();
            ready.send(()).unwrap();
            let tasks = TaskGroup::default();
            loop {
                let (stream, _from) = listener.accept().await.unwrap();
                let acceptor = acceptor.clone();
                tasks.spawn(tracing::Span::none(), async move {
                    // Whoever does not believe it is not interested.
                    let Ok(mut client) = acceptor.accept(stream).await else { return };
                    let mut plain = TcpStream::connect(("127.0.0.1", 1080)).await.unwrap();
                    drop(tokio::io::copy_bidirectional(&mut client, &mut plain).await);
                });
            }
        });
    });
    is_ready.recv().unwrap();
}

fn through(name: Option<&str>, authorities: Option<&str>) -> Egress {
    let password = Some(Secret::new(PASSWORD.into()));
    let address = format!("proxy.example:{PORT}");
    let proxy = SocksProxy::new(&address, Some(USER.into()), password).unwrap();
    let tls = ProxyTls::new(name, authorities.map(str::to_owned)).unwrap();
    Egress { proxy: Some(proxy.in_tls(Some(tls))), ..Egress::default() }
}

#[test]
fn a_proxy_that_speaks_tls_is_believed_by_its_certificate_and_by_the_next_daemon_too() {
    let internet = Internet::new();
    let asked = serve(&internet);
    let (theirs, config) = certified(&["proxy.example"]);
    serve_in_tls(&internet, config);
    let (own, _unused) = certified(&["nobody.example"]);
    let believed = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(believed.path(), &theirs).unwrap();
    let authorities = believed.path().to_owned();
    let again = authorities.clone();
    let to = text(INTERNET);
    let known = to.clone();
    let (dir, addr) = with_view(async move |view| {
        let start = TestNode::start(view, |config| {
            config.resolvers = vec![INTERNET];
            config.authorities = Some(authorities);
        });
        let test = start.await;
        let addr = sandbox(&test, "i1", through(None, None)).await;
        let set = async |rules: Egress| test.node.set_egress(&id("i1"), rules).await.unwrap();
        let gets = async || get(addr, &known, "allowed.example").await.stdout;
        let got = gets().await;
        assert!(got.contains("200 OK") && !got.contains(&format!("from {HOST}")), "{got}");
        let first = talk(addr, (&known, 22), b"").await;
        assert!(first.stdout.contains("SSH-2.0-test"), "where the server speaks first: {first:?}");
        let so_far = asked.lock().len();
        set(through(None, Some(&own))).await;
        assert!(!gets().await.contains("200 OK"), "its certificate is not from those");
        set(through(Some("other.example"), Some(&theirs))).await;
        assert!(!gets().await.contains("200 OK"), "it is another's");
        assert_eq!(asked.lock().len(), so_far, "nothing goes around it or in the clear");
        set(through(None, Some(&theirs))).await;
        assert!(gets().await.contains("200 OK"));
        let report = test.node.leave(Budget::within(LIMIT)).await;
        assert_eq!((report.left, report.errors), (1, Vec::new()));
        (test.into_dir(), addr)
    });
    in_view(async move |view| {
        let next = TestNode::start_in(dir, view, |config| {
            config.resolvers = vec![INTERNET];
            config.authorities = Some(again);
        });
        let next = next.await;
        let gets = async || get(addr, &to, "allowed.example").await.stdout.contains("200 OK");
        wait_for("the next to serve", LIMIT, gets).await;
        next.node.set_egress(&id("i1"), through(None, None)).await.unwrap();
        assert!(gets().await);
        next.node.kill(&id("i1"), EndReason::Request).await.unwrap();
        next.wait_no_sandbox_objects().await;
        next.stop().await;
    });
    drop((internet, believed));
}
