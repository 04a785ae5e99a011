//! What it takes to stand between a program and a server that speak TLS: a name of one's own to
//! speak in towards the program, and somebody to believe about the server.

use std::io;
use std::sync::Arc;
use std::time::SystemTime;

use model::HostName;
use rustls::client::Resumption;
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::server::NoServerSessionStorage;
use rustls::sign::SingleCertAndKey;
use rustls::{ClientConfig, RootCertStore, ServerConfig};

pub use authority::{Authority, AuthorityError, KeptAuthority};
use leaves::Leaves;
pub(crate) use protocol::{Offer, Protocol};

mod authority;
mod leaves;
mod protocol;

/// The authorities that servers are believed by.
#[derive(Debug, Clone)]
pub struct Roots(Arc<RootCertStore>);

impl Roots {
    /// Those that this host believes, as they are now. Reads files.
    ///
    /// With none no server is believed, which the log says; what cannot be understood of some is
    /// passed over.
    #[must_use]
    pub fn of_host() -> Self {
        let found = rustls_native_certs::load_native_certs();
        let mut roots = RootCertStore::empty();
        let (added, _passed_over) = roots.add_parsable_certificates(found.certs);
        for error in &found.errors {
            tracing::debug!(%error, "certificates of this host cannot be read");
        }
        if added == 0 {
            tracing::warn!(
                "this host believes no certificate authority, so no HTTPS request can be given a \
                 header and no proxy is believed that speaks TLS; install its ca-certificates and \
                 restart the service"
            );
        }
        Self(Arc::new(roots))
    }

    /// Those in `text`, in PEM.
    ///
    /// # Errors
    /// When there is none, or one that cannot be understood.
    pub fn of_pem(text: &[u8]) -> io::Result<Self> {
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(text) {
            let certificate = certificate.map_err(io::Error::other)?;
            roots.add(certificate).map_err(io::Error::other)?;
        }
        if roots.is_empty() {
            return Err(io::Error::other("there is no certificate"));
        }
        Ok(Self(Arc::new(roots)))
    }

    /// How to speak to a server that is believed by them. No session is resumed.
    pub(crate) fn client(&self) -> Result<ClientConfig, rustls::Error> {
        let crypto = Arc::new(ring::default_provider());
        let mut config = ClientConfig::builder_with_provider(crypto)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(Arc::clone(&self.0))
            .with_no_client_auth();
        config.resumption = Resumption::disabled();
        Ok(config)
    }
}

/// Stands in for servers, in the name of an authority that the program believes.
///
/// No session is resumed on either side: sandboxes of several owners come by here, and a ticket
/// would tell a server that they are on one node.
#[derive(Debug)]
pub struct Interceptor {
    authority: Authority,
    leaves: Leaves,
    crypto: Arc<CryptoProvider>,
    towards_servers: ClientConfig,
}

impl Interceptor {
    /// # Errors
    /// When the library that makes keys cannot.
    pub fn new(authority: Authority, roots: &Roots) -> Result<Self, AuthorityError> {
        let crypto = Arc::new(ring::default_provider());
        let towards_servers = roots.client()?;
        let leaves = Leaves::new(&crypto)?;
        Ok(Self { authority, leaves, crypto, towards_servers })
    }

    /// Whose certificate a program must believe.
    #[must_use]
    pub fn authority(&self) -> &Authority {
        &self.authority
    }

    /// How to speak to a program as the server `name`; with a protocol if it has asked for one.
    pub(crate) fn as_server(
        &self,
        name: &HostName,
        protocol: Option<Protocol>,
    ) -> Result<Arc<ServerConfig>, AuthorityError> {
        let leaf = self.leaves.of(&self.authority, name, SystemTime::now())?;
        let mut config = ServerConfig::builder_with_provider(Arc::clone(&self.crypto))
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(SingleCertAndKey::from(leaf)));
        config.alpn_protocols = protocol.into_iter().map(Protocol::to_wire).collect();
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        Ok(Arc::new(config))
    }

    /// How to speak to a server that may choose one of `protocols`.
    pub(crate) fn as_client(&self, protocols: &[Protocol]) -> Arc<ClientConfig> {
        let mut config = self.towards_servers.clone();
        config.alpn_protocols = protocols.iter().copied().map(Protocol::to_wire).collect();
        Arc::new(config)
    }
}
