//! The certificate authority of a node.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use model::{HostName, Secret};
use rcgen::{
    BasicConstraints, Certificate, CertificateParams, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, SanType, SerialNumber,
    date_time_ymd,
};
use rustls::RootCertStore;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};

const DAY: Duration = Duration::from_secs(24 * 3600);
/// How long one is good for.
const VALIDITY: Duration = Duration::from_secs(20 * 365 * 24 * 3600);
/// One that has less left than this is not begun with: a daemon may run for years.
const LEAST_LEFT: Duration = Duration::from_secs(10 * 365 * 24 * 3600);
/// A certificate is good from that long before it was made on: a clock may be a little behind.
const BEFORE: Duration = DAY;
/// Bytes of a serial number (RFC 5280, 4.1.2.2: at most 20, and positive).
const SERIAL_LEN: usize = 16;

/// An authority that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    #[error("make a certificate")]
    Make(#[from] rcgen::Error),
    #[error("set up TLS")]
    Tls(#[from] rustls::Error),
    #[error("the certificate authority that is kept is not whole: {0}")]
    Damaged(String),
}

/// Signs for names. Its key leaves the node's files and memory for nowhere.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    kept: KeptAuthority,
}

/// All that must be kept of an [`Authority`] to have it again.
#[derive(Debug, Clone)]
pub struct KeptAuthority {
    /// Part of its name, and different for every one.
    pub id: String,
    /// In PEM, as the certificate.
    pub key: Secret,
    pub certificate: String,
    pub ends_at: SystemTime,
}

impl fmt::Debug for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authority").field("id", &self.kept.id).finish_non_exhaustive()
    }
}

impl Authority {
    /// A new one.
    ///
    /// # Errors
    /// When the library that makes keys cannot.
    pub fn generate(now: SystemTime) -> Result<Self, AuthorityError> {
        let key = KeyPair::generate()?;
        let id = format!("{:016x}", rand::random::<u64>());
        let mut params = params_of(&id);
        let ends_at = now + VALIDITY;
        set_validity(&mut params, now, ends_at);
        params.serial_number = Some(serial());
        let certificate = params.self_signed(&key)?.pem();
        let secret = Secret::new(key.serialize_pem());
        let kept = KeptAuthority { id, key: secret, certificate, ends_at };
        Ok(Self { issuer: Issuer::new(params, key), kept })
    }

    /// The one of which `kept` is what was kept.
    ///
    /// # Errors
    /// When certificates that it signs would not be believed by who believes its own.
    pub fn restore(kept: KeptAuthority) -> Result<Self, AuthorityError> {
        let key = KeyPair::from_pem(kept.key.expose())?;
        let authority = Self { issuer: Issuer::new(params_of(&kept.id), key), kept };
        authority.check()?;
        Ok(authority)
    }

    #[must_use]
    pub fn kept(&self) -> &KeptAuthority {
        &self.kept
    }

    #[must_use]
    pub fn id(&self) -> &str {
        &self.kept.id
    }

    /// Its own certificate, in PEM.
    #[must_use]
    pub fn certificate(&self) -> &str {
        &self.kept.certificate
    }

    /// Whether it lasts for as long as a daemon may run.
    #[must_use]
    pub fn lasts(&self, now: SystemTime) -> bool {
        self.kept.ends_at.duration_since(now).is_ok_and(|left| left >= LEAST_LEFT)
    }

    /// A certificate of the server `name` for `key`, good until `until`.
    pub(super) fn sign(
        &self,
        name: &HostName,
        key: &KeyPair,
        now: SystemTime,
        until: SystemTime,
    ) -> Result<Certificate, AuthorityError> {
        let mut params = CertificateParams::default();
        // The name is where names are read today (RFC 9525, 6.3); that a subject is empty is legal,
        // and some programs do not like it.
        params.distinguished_name = named("Cofferdam sandbox egress");
        params.subject_alt_names = vec![SanType::DnsName(name.as_str().try_into()?)];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.use_authority_key_identifier_extension = true;
        params.serial_number = Some(serial());
        set_validity(&mut params, now, until);
        Ok(params.signed_by(key, &self.issuer)?)
    }

    /// Signs for a name, and believes that by the certificate as a program would.
    fn check(&self) -> Result<(), AuthorityError> {
        let damaged = |error: &dyn fmt::Display| AuthorityError::Damaged(error.to_string());
        let mut roots = RootCertStore::empty();
        let own = CertificateDer::from_pem_slice(self.kept.certificate.as_bytes());
        roots.add(own.map_err(|error| damaged(&error))?).map_err(|error| damaged(&error))?;
        let crypto = Arc::new(ring::default_provider());
        let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), crypto);
        let verifier = verifier.build().map_err(|error| damaged(&error))?;
        let name: HostName = "check.invalid".parse().map_err(|error| damaged(&error))?;
        let server = ServerName::try_from(name.as_str()).map_err(|error| damaged(&error))?;
        let now = SystemTime::now();
        let signed = self.sign(&name, &KeyPair::generate()?, now, now + DAY)?;
        let believed =
            verifier.verify_server_cert(signed.der(), &[], &server, &[], UnixTime::now());
        believed.map(drop).map_err(|error| damaged(&error))
    }
}

fn params_of(id: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    // A name of its own: a program that knows two tells them apart.
    params.distinguished_name = named(&format!("Cofferdam sandbox egress {id}"));
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

fn named(name: &str) -> DistinguishedName {
    let mut subject = DistinguishedName::new();
    subject.push(DnType::OrganizationName, "Cofferdam");
    subject.push(DnType::CommonName, name);
    subject
}

fn set_validity(params: &mut CertificateParams, now: SystemTime, until: SystemTime) {
    // The library's type of time can be made from nothing else that is here.
    let at = |time: SystemTime| {
        date_time_ymd(1970, 1, 1) + time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default()
    };
    params.not_before = at(now.checked_sub(BEFORE).unwrap_or(now));
    params.not_after = at(until);
}

/// Random: two of one issuer that are the same are taken for a fraud.
fn serial() -> SerialNumber {
    let mut serial: [u8; SERIAL_LEN] = rand::random();
    // Positive, and not shorter for a zero at its beginning.
    serial[0] = serial[0] & 0x7f | 0x40;
    SerialNumber::from_slice(&serial)
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use model::Secret;

    use super::{Authority, AuthorityError, LEAST_LEFT, VALIDITY};

    #[test]
    fn what_is_kept_of_an_authority_is_enough_to_have_it_again() {
        let made = Authority::generate(SystemTime::now()).unwrap();
        let again = Authority::restore(made.kept().clone()).unwrap();
        assert_eq!(again.id(), made.id());
        assert_eq!(again.certificate(), made.certificate());
        let other = Authority::generate(SystemTime::now()).unwrap();
        assert_ne!(other.id(), made.id());
        let debug = format!("{made:?} {:?}", made.kept());
        assert!(!debug.contains("PRIVATE"), "{debug}");
    }

    #[test]
    fn what_does_not_fit_together_is_no_authority() {
        let [one, other] =
            [(), ()].map(|()| Authority::generate(SystemTime::now()).unwrap().kept().clone());
        let key = Authority::restore(super::KeptAuthority { key: other.key, ..one.clone() });
        assert!(matches!(key, Err(AuthorityError::Damaged(_))), "{key:?}");
        let name = Authority::restore(super::KeptAuthority { id: other.id, ..one.clone() });
        assert!(matches!(name, Err(AuthorityError::Damaged(_))), "{name:?}");
        let torn = one.certificate.chars().take(200).collect();
        Authority::restore(super::KeptAuthority { certificate: torn, ..one.clone() }).unwrap_err();
        let key = Secret::new("no key".into());
        Authority::restore(super::KeptAuthority { key, ..one }).unwrap_err();
    }

    #[test]
    fn one_is_begun_with_only_if_it_lasts_for_years() {
        let now = SystemTime::now();
        let authority = Authority::generate(now).unwrap();
        let end = now + VALIDITY;
        assert!(authority.lasts(now) && authority.lasts(end - LEAST_LEFT));
        assert!(!authority.lasts(end - LEAST_LEFT + Duration::from_secs(1)));
        assert!(!authority.lasts(end + Duration::from_secs(1)));
    }
}
