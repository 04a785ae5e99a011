//! Programs and servers that speak TLS, an authority of the world, and one of the node.

use std::io;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use lifecycle::Budget;
use model::{Egress, HeaderRule, Secret};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    date_time_ymd,
};
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore, ServerConfig, SupportedProtocolVersion};
use tokio::net::TcpStream;
use tokio_rustls::{TlsAcceptor, TlsConnector, client, server};

use super::kit::{LIMIT, Program, World};
use crate::{Authority, Interceptor, Roots};

pub(super) type TlsProgram = Program<client::TlsStream<TcpStream>>;
pub(super) type TlsServer = Program<server::TlsStream<TcpStream>>;

/// In whose name servers of the world speak.
pub(super) struct Theirs {
    issuer: Issuer<'static, KeyPair>,
    pub(super) pem: String,
}

impl Theirs {
    pub(super) fn new() -> Self {
        let mut params = CertificateParams::default();
        let name = format!("the world's {}", rand::random::<u64>());
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        Self { issuer: Issuer::new(params, key), pem }
    }

    /// A server with a certificate for `names`, which has expired if it is `over`.
    pub(super) fn server(&self, names: &[&str], over: bool, protocols: &[&str]) -> TlsAcceptor {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names).unwrap();
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
        let day = Duration::from_secs(24 * 3600);
        params.not_before = date_time_ymd(1970, 1, 1) + (now - day * 10);
        params.not_after = date_time_ymd(1970, 1, 1) + if over { now - day } else { now + day };
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], key)
            .unwrap();
        config.alpn_protocols = wire(protocols);
        TlsAcceptor::from(Arc::new(config))
    }
}

fn wire(protocols: &[&str]) -> Vec<Vec<u8>> {
    protocols.iter().map(|protocol| protocol.as_bytes().to_vec()).collect()
}

/// The proxy of a sandbox in which programs believe the node, and a world with an authority.
pub(super) struct Https {
    pub(super) world: World,
    pub(super) theirs: Theirs,
    pub(super) ours: String,
}

impl Https {
    pub(super) async fn new(egress: Egress) -> Self {
        let theirs = Theirs::new();
        let authority = Authority::generate(SystemTime::now()).unwrap();
        let ours = authority.certificate().to_owned();
        let roots = Roots::of_pem(theirs.pem.as_bytes()).unwrap();
        let interceptor = Arc::new(Interceptor::new(authority, &roots).unwrap());
        let world = World::with(egress, Vec::new(), Ipv4Addr::LOCALHOST, Some(interceptor)).await;
        Self { world, theirs, ours }
    }

    /// A program that believes the node and nobody else.
    pub(super) async fn program(&self, name: &str, protocols: &[&str]) -> io::Result<TlsProgram> {
        self.program_that_believes(&self.ours, name, protocols).await
    }

    pub(super) async fn program_that_believes(
        &self,
        pem: &str,
        name: &str,
        protocols: &[&str],
    ) -> io::Result<TlsProgram> {
        let stream = self.world.connect().await.0;
        handshake(stream, pem, name, protocols, rustls::ALL_VERSIONS).await
    }

    /// The next that comes to `server`, by its certificate.
    pub(super) async fn accept(&self, server: &TlsAcceptor) -> io::Result<TlsServer> {
        let stream = self.world.accept().await.0;
        let accepted = Budget::within(LIMIT).run("TLS", server.accept(stream)).await.unwrap();
        accepted.map(Program)
    }

    /// Both ends of a connection to `name`.
    pub(super) async fn both(&self, name: &str, protocols: &[&str]) -> (TlsProgram, TlsServer) {
        let server = self.theirs.server(&[name], false, protocols);
        let (program, server) = tokio::join!(self.program(name, protocols), self.accept(&server));
        (program.unwrap(), server.unwrap())
    }

    pub(super) async fn close(self) {
        self.world.close().await;
    }
}

/// Begins TLS on `stream` as a program does that believes `pem`.
pub(super) async fn handshake(
    stream: TcpStream,
    pem: &str,
    name: &str,
    protocols: &[&str],
    versions: &[&'static SupportedProtocolVersion],
) -> io::Result<TlsProgram> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(pem.as_bytes()).unwrap()).unwrap();
    let mut config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_protocol_versions(versions)
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = wire(protocols);
    let connector = TlsConnector::from(Arc::new(config));
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let connected = Budget::within(LIMIT).run("TLS", connector.connect(name, stream)).await;
    connected.unwrap().map(Program)
}

/// Rules that give each of `requests` the headers `authorization: Bearer KEY` and `x-new: 1`.
pub(super) fn headers(requests: &[&str], key: &str) -> Egress {
    let rule = |requests: &&str| HeaderRule {
        requests: requests.parse().unwrap(),
        headers: vec![
            ("authorization".into(), Secret::new(format!("Bearer {key}"))),
            ("x-new".into(), Secret::new("1".into())),
        ],
    };
    Egress { headers: requests.iter().map(rule).collect(), ..Egress::default() }
}
