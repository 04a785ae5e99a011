//! Certificates of the servers that are stood in for.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use model::HostName;
use parking_lot::Mutex;
use rcgen::KeyPair;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::sign::{CertifiedKey, SigningKey};

use super::authority::{Authority, AuthorityError};

/// Names whose certificates are kept for the next connection. To make one takes a signature.
const KNOWN_MAX: usize = 1024;
/// How long one is good for.
const VALIDITY: Duration = Duration::from_secs(7 * 24 * 3600);
/// One that has less left than this is made anew.
const LEAST_LEFT: Duration = Duration::from_secs(24 * 3600);

/// One key for all of them: it is as well kept as the authority's own, and goes with the process.
pub(super) struct Leaves {
    key: KeyPair,
    signing: Arc<dyn SigningKey>,
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    by_name: HashMap<HostName, Leaf>,
    /// The oldest first; each name is in it once.
    order: VecDeque<HostName>,
}

struct Leaf {
    certified: CertifiedKey,
    ends_at: SystemTime,
}

impl fmt::Debug for Leaves {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Leaves").field("known", &self.known.lock().order.len()).finish()
    }
}

impl Leaves {
    pub(super) fn new(crypto: &CryptoProvider) -> Result<Self, AuthorityError> {
        let key = KeyPair::generate()?;
        let der = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let signing = crypto.key_provider.load_private_key(der)?;
        Ok(Self { key, signing, known: Mutex::default() })
    }

    /// The certificate of `name`, with its key.
    pub(super) fn of(
        &self,
        authority: &Authority,
        name: &HostName,
        now: SystemTime,
    ) -> Result<CertifiedKey, AuthorityError> {
        if let Some(leaf) = self.known.lock().by_name.get(name)
            && leaf.ends_at.duration_since(now).is_ok_and(|left| left >= LEAST_LEFT)
        {
            return Ok(leaf.certified.clone());
        }
        // Not under the lock: who asks for another name does not wait for this signature.
        let ends_at = now + VALIDITY;
        let signed = authority.sign(name, &self.key, now, ends_at)?;
        let chain = vec![signed.der().clone()];
        let certified = CertifiedKey::new(chain, Arc::clone(&self.signing));
        let leaf = Leaf { certified: certified.clone(), ends_at };
        self.known.lock().put(name, leaf);
        Ok(certified)
    }
}

impl Known {
    fn put(&mut self, name: &HostName, leaf: Leaf) {
        if self.by_name.insert(name.clone(), leaf).is_some() {
            return;
        }
        self.order.push_back(name.clone());
        if self.order.len() > KNOWN_MAX
            && let Some(oldest) = self.order.pop_front()
        {
            drop(self.by_name.remove(&oldest));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use rustls::crypto::ring;

    use super::{KNOWN_MAX, LEAST_LEFT, Leaves, VALIDITY};
    use crate::intercept::Authority;

    #[test]
    fn a_certificate_is_kept_for_its_name_and_made_anew_before_its_end() {
        let now = SystemTime::now();
        let authority = Authority::generate(now).unwrap();
        let leaves = Leaves::new(&ring::default_provider()).unwrap();
        let of = |name: &str, at| {
            leaves.of(&authority, &name.parse().unwrap(), at).unwrap().cert[0].to_vec()
        };
        let first = of("a.com", now);
        assert_eq!(of("a.com", now + VALIDITY - LEAST_LEFT), first);
        assert_ne!(of("b.com", now), first);
        let late = now + VALIDITY;
        let second = of("a.com", late);
        assert_ne!(second, first);
        assert_eq!(of("a.com", late), second);
        assert_eq!(leaves.known.lock().order.len(), 2);
    }

    #[test]
    fn no_more_names_are_kept_than_there_is_room_for() {
        let now = SystemTime::now();
        let authority = Authority::generate(now).unwrap();
        let leaves = Leaves::new(&ring::default_provider()).unwrap();
        for n in 0..=KNOWN_MAX {
            leaves.of(&authority, &format!("n{n}.com").parse().unwrap(), now).unwrap();
        }
        let known = leaves.known.lock();
        assert_eq!((known.order.len(), known.by_name.len()), (KNOWN_MAX, KNOWN_MAX));
        assert!(!known.by_name.contains_key(&"n0.com".parse().unwrap()));
    }
}
