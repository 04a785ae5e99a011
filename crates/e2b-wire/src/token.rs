use std::fmt;

use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;

use crate::key::encode_hex;

/// The secret every sandbox token of an installation is derived from. Changing it invalidates
/// all of them.
#[derive(Clone)]
pub struct TokenSeed(Hmac<Sha256>);

impl TokenSeed {
    /// Any number of bytes; use at least 32 random ones.
    #[must_use]
    #[expect(clippy::expect_used, clippy::missing_panics_doc, reason = "it cannot fail")]
    pub fn new(seed: &[u8]) -> Self {
        Self(Hmac::new_from_slice(seed).expect("HMAC takes a key of every length"))
    }

    /// What opens the guest agent of a secure sandbox: 64 hex digits, the same for the whole life
    /// of the sandbox.
    #[must_use]
    pub fn envd_token(&self, sandbox_id: &str) -> String {
        self.sign(&[sandbox_id])
    }

    /// What opens the ports of a sandbox without public traffic: 64 hex digits.
    #[must_use]
    pub fn traffic_token(&self, sandbox_id: &str) -> String {
        self.sign(&["sandbox-traffic-", sandbox_id])
    }

    fn sign(&self, message: &[&str]) -> String {
        let mut mac = self.0.clone();
        for part in message {
            mac.update(part.as_bytes());
        }
        encode_hex(&mac.finalize().into_bytes())
    }
}

impl fmt::Debug for TokenSeed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("\u{2026}")
    }
}

#[cfg(test)]
mod tests {
    use super::TokenSeed;

    #[test]
    fn tokens_are_the_hmac_of_the_id() {
        // printf 'iabc' | openssl dgst -sha256 -hmac seed
        let seed = TokenSeed::new(b"seed");
        assert_eq!(
            seed.envd_token("iabc"),
            "93177cdf2a0b174da49cc7f94199bbdfbbbd0aa2573cd6a15cec8e669f58ae0b"
        );
        assert_eq!(
            seed.traffic_token("iabc"),
            "ebd7c80002d6f4864a21810a2762694d82c2624df0310fcf914e4974a0856a4f"
        );
        assert_ne!(TokenSeed::new(b"other").envd_token("iabc"), seed.envd_token("iabc"));
    }
}
