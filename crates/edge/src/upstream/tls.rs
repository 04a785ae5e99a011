//! TLS towards programs in sandboxes, on the ports of which it was said that they speak it.
//!
//! No certificate is looked at, and any is taken. It would prove nothing: the edge knows a sandbox by
//! its address on a link of this host, which nobody else has, and whoever holds that address may
//! make any certificate. Programs have self-signed ones, and on every other port there is no TLS at
//! all. What it is for is that such programs speak nothing else.

use std::io;
use std::sync::{Arc, LazyLock};

use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, Error, SignatureScheme};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::Protocol;

static HTTP1: LazyLock<Result<TlsConnector, Error>> = LazyLock::new(|| connector(b"http/1.1"));
static HTTP2: LazyLock<Result<TlsConnector, Error>> = LazyLock::new(|| connector(b"h2"));

/// Sets up TLS on a connection to a sandbox.
///
/// Servers are sent no name: the edge knows of the sandbox only its address.
///
/// Cancel safety: yes.
///
/// # Errors
/// The other end does not speak TLS, or not with `protocol` inside.
pub(super) async fn connect(
    socket: TcpStream,
    protocol: Protocol,
) -> io::Result<TlsStream<TcpStream>> {
    let connector = match protocol {
        Protocol::Http1 => &HTTP1,
        Protocol::Http2 => &HTTP2,
    };
    let connector = connector.as_ref().map_err(|error| io::Error::other(error.clone()))?;
    let name = ServerName::IpAddress(socket.peer_addr()?.ip().into());
    connector.connect(name, socket).await
}

fn connector(protocol: &[u8]) -> Result<TlsConnector, Error> {
    let provider = Arc::new(ring::default_provider());
    let mut config = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anyone(provider)))
        .with_no_client_auth();
    config.alpn_protocols = vec![protocol.to_vec()];
    // Sessions are remembered by address, which is another sandbox's some day.
    config.resumption = Resumption::disabled();
    Ok(TlsConnector::from(Arc::new(config)))
}

/// Takes every server for the one that is meant.
#[derive(Debug)]
struct Anyone(Arc<CryptoProvider>);

impl ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _server: &CertificateDer<'_>,
        _chain: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
