//! Signed file addresses: who holds the token can hand out the right to read or write one path.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;

/// What a signature allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// `GET /files`
    Read,
    /// `POST /files`
    Write,
}

impl Operation {
    fn word(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write => "write",
        }
    }
}

/// The fields that are signed, exactly as they stand in the decoded query; absent ones are empty.
#[derive(Debug, Clone, Copy)]
pub struct Signed<'a> {
    pub path: &'a str,
    pub operation: Operation,
    pub username: &'a str,
    /// Unix seconds. Signed only if present.
    pub expiration: Option<i64>,
}

/// The fields of [`Signed`], ready to be compared with the signatures of many tokens: however long
/// a path is, each costs the same little.
#[derive(Debug, Clone)]
pub struct Prepared {
    /// Everything in front of the token.
    hash: Sha256,
    /// What comes behind it.
    end: String,
}

impl Signed<'_> {
    /// The value of the `signature` query parameter.
    #[must_use]
    pub fn signature(&self, token: &str) -> String {
        self.prepare().signature(token)
    }

    /// Whether `signature` was made with `token`; takes the same time wherever they differ.
    #[must_use]
    pub fn is_signed_by(&self, token: &str, signature: &str) -> bool {
        self.prepare().is_signed_by(token, signature)
    }

    #[must_use]
    pub fn prepare(&self) -> Prepared {
        let mut hash = Sha256::new();
        for field in [self.path, ":", self.operation.word(), ":", self.username, ":"] {
            hash.update(field);
        }
        let end = self.expiration.map(|expiration| format!(":{expiration}")).unwrap_or_default();
        Prepared { hash, end }
    }
}

impl Prepared {
    /// As [`Signed::is_signed_by`].
    #[must_use]
    pub fn is_signed_by(&self, token: &str, signature: &str) -> bool {
        self.signature(token).as_bytes().ct_eq(signature.as_bytes()).into()
    }

    fn signature(&self, token: &str) -> String {
        let hash = self.hash.clone().chain_update(token).chain_update(&self.end);
        format!("v1_{}", STANDARD_NO_PAD.encode(hash.finalize()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // Vectors computed with openssl.
    const READ: Signed<'_> = Signed {
        path: "/home/user/a.txt",
        operation: Operation::Read,
        username: "user",
        expiration: None,
    };
    const WRITE: Signed<'_> = Signed {
        path: "/home/user/a.txt",
        operation: Operation::Write,
        username: "",
        expiration: Some(1_700_000_000),
    };

    #[test]
    fn signatures_equal_the_known_vectors() {
        assert_eq!(READ.signature("tok123"), "v1_HB2bgZ+RgifWQVkD4WDT8wNBFTVrggZWSRD5EqI0H/0");
        assert_eq!(WRITE.signature("tok123"), "v1_js9/4f5ea8GZ42Fpws+LDWeYh0p1HcmG8oA/zBD7lQ4");
    }

    #[test]
    fn a_signature_holds_for_nothing_but_what_was_signed() {
        let signature = WRITE.signature("tok123");
        assert!(WRITE.is_signed_by("tok123", &signature));
        assert!(!WRITE.is_signed_by("tok124", &signature));
        for other in [
            Signed { path: "/home/user/b.txt", ..WRITE },
            Signed { operation: Operation::Read, ..WRITE },
            Signed { username: "root", ..WRITE },
            Signed { expiration: None, ..WRITE },
            Signed { expiration: Some(1_700_000_001), ..WRITE },
        ] {
            assert!(!other.is_signed_by("tok123", &signature), "{other:?}");
        }
        assert!(!WRITE.is_signed_by("tok123", ""));
        let prepared = WRITE.prepare();
        assert!(prepared.is_signed_by("tok123", &signature));
        assert!(!prepared.is_signed_by("tok124", &signature));
    }
}
