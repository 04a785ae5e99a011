use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use rand::RngCore as _;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;

const PREFIX: &str = "e2b_";
const ACCESS_PREFIX: &str = "sk_e2b_";
/// How much of a key's digits a list shows, in front and at the end.
const SHOWN_FIRST: usize = 2;
const SHOWN_LAST: usize = 4;
/// Bytes of a key this server makes. A key that is checked may have any number.
const NEW_BYTES: usize = 20;
/// Longer than any key in use; keeps hashing of an unauthenticated header cheap.
const MAX_BYTES: usize = 256;

/// An API key: `e2b_` and hex. Only its hash is kept anywhere; it never shows in logs.
#[derive(Clone, PartialEq, Eq)]
pub struct ApiKey(Vec<u8>);

/// An access token: `sk_e2b_` and hex. Kept as an [`ApiKey`] is, and no key.
#[derive(Clone, PartialEq, Eq)]
pub struct AccessToken(Vec<u8>);

/// What a list shows of a key or a token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct KeyMask {
    pub prefix: String,
    /// Characters after the prefix.
    pub value_length: usize,
    pub masked_value_prefix: String,
    pub masked_value_suffix: String,
}

/// What the server keeps of a key: `$sha256$` and the unpadded base64 of the hash of the key's
/// bytes (not of its text).
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct KeyHash(String);

/// Text that is no access token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an access token is {ACCESS_PREFIX} followed by 1 to {MAX_BYTES} bytes in hex")]
pub struct AccessTokenError;

/// Text that is no API key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ApiKeyError {
    #[error("an API key begins with e2b_")]
    Prefix,
    #[error("an API key is e2b_ followed by 1 to {MAX_BYTES} bytes in hex")]
    Hex,
}

impl ApiKey {
    /// A new one, from the system's randomness.
    #[must_use]
    pub fn generate() -> Self {
        Self(random_bytes())
    }

    /// # Errors
    /// [`ApiKeyError`] when the prefix or the hex is wrong.
    pub fn parse(text: &str) -> Result<Self, ApiKeyError> {
        let digits = text.strip_prefix(PREFIX).ok_or(ApiKeyError::Prefix)?;
        decode_hex(digits)
            .filter(|bytes| (1..=MAX_BYTES).contains(&bytes.len()))
            .map(Self)
            .ok_or(ApiKeyError::Hex)
    }

    /// The key's text, for the file or the person it is handed to.
    #[must_use]
    pub fn expose(&self) -> String {
        format!("{PREFIX}{}", encode_hex(&self.0))
    }

    #[must_use]
    pub fn hash(&self) -> KeyHash {
        KeyHash::of(&self.0)
    }

    #[must_use]
    pub fn mask(&self) -> KeyMask {
        KeyMask::of(PREFIX, &self.0)
    }
}

impl AccessToken {
    /// A new one, from the system's randomness.
    #[must_use]
    pub fn generate() -> Self {
        Self(random_bytes())
    }

    /// Whether text is meant to be one.
    #[must_use]
    pub fn is_meant_by(text: &str) -> bool {
        text.starts_with(ACCESS_PREFIX)
    }

    /// # Errors
    /// [`AccessTokenError`] when the prefix or the hex is wrong.
    pub fn parse(text: &str) -> Result<Self, AccessTokenError> {
        let bytes = text.strip_prefix(ACCESS_PREFIX).and_then(decode_hex);
        bytes
            .filter(|bytes| (1..=MAX_BYTES).contains(&bytes.len()))
            .map(Self)
            .ok_or(AccessTokenError)
    }

    /// The token's text, for whoever it is handed to.
    #[must_use]
    pub fn expose(&self) -> String {
        format!("{ACCESS_PREFIX}{}", encode_hex(&self.0))
    }

    /// Of the same bytes as an API key it is the same: who keeps both keeps them apart.
    #[must_use]
    pub fn hash(&self) -> KeyHash {
        KeyHash::of(&self.0)
    }

    #[must_use]
    pub fn mask(&self) -> KeyMask {
        KeyMask::of(ACCESS_PREFIX, &self.0)
    }
}

impl KeyMask {
    fn of(prefix: &str, bytes: &[u8]) -> Self {
        let digits = encode_hex(bytes);
        let last = digits.len().saturating_sub(SHOWN_LAST);
        Self {
            prefix: prefix.to_owned(),
            value_length: digits.len(),
            masked_value_prefix: digits.chars().take(SHOWN_FIRST).collect(),
            masked_value_suffix: digits.chars().skip(last).collect(),
        }
    }
}

impl fmt::Debug for AccessToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("sk_e2b_\u{2026}")
    }
}

impl fmt::Debug for ApiKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("e2b_\u{2026}")
    }
}

impl KeyHash {
    fn of(bytes: &[u8]) -> Self {
        Self(format!("$sha256${}", STANDARD_NO_PAD.encode(Sha256::digest(bytes))))
    }

    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether `stored` is this hash, in time that does not depend on where they differ.
    #[must_use]
    pub fn matches(&self, stored: &str) -> bool {
        self.0.as_bytes().ct_eq(stored.as_bytes()).into()
    }
}

impl fmt::Debug for KeyHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("$sha256$\u{2026}")
    }
}

fn random_bytes() -> Vec<u8> {
    let mut bytes = vec![0; NEW_BYTES];
    rand::rng().fill_bytes(&mut bytes);
    bytes
}

/// Lower-case hex.
pub(crate) fn encode_hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn decode_hex(digits: &str) -> Option<Vec<u8>> {
    if digits.len() > 2 * MAX_BYTES {
        return None;
    }
    let (pairs, rest) = digits.as_bytes().as_chunks::<2>();
    if !rest.is_empty() {
        return None;
    }
    let nibble =
        |digit: u8| char::from(digit).to_digit(16).and_then(|value| u8::try_from(value).ok());
    pairs.iter().map(|[high, low]| Some(nibble(*high)? << 4 | nibble(*low)?)).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{any, prop_assert_eq, proptest};

    use super::{AccessToken, AccessTokenError, ApiKey, ApiKeyError};

    #[test]
    fn the_hash_is_over_the_decoded_bytes() {
        // printf '\xde\xad\xbe\xef' | openssl dgst -sha256 -binary | base64
        let key = ApiKey::parse("e2b_deadbeef").unwrap();
        assert_eq!(key.hash().as_str(), "$sha256$X3jDMnTkP6neVlkmXB2RfiXANyLcsLjSfbjV/qqBOVM");
        assert!(ApiKey::parse("e2b_DEADBEEF").unwrap().hash().matches(key.hash().as_str()));
        assert!(!ApiKey::parse("e2b_deadbeee").unwrap().hash().matches(key.hash().as_str()));
    }

    #[test]
    fn a_new_key_has_forty_digits_and_does_not_print() {
        let key = ApiKey::generate();
        let text = key.expose();
        assert_eq!(text.len(), 44);
        assert_eq!(ApiKey::parse(&text).unwrap(), key);
        assert_ne!(ApiKey::generate(), key);
        assert_eq!(format!("{key:?}"), "e2b_\u{2026}");
    }

    #[test]
    fn other_text_is_refused_with_the_reason() {
        for text in ["", "deadbeef", "sk_e2b_aa", "E2B_aa", " e2b_aa"] {
            assert_eq!(ApiKey::parse(text), Err(ApiKeyError::Prefix), "{text:?}");
        }
        let long = format!("e2b_{}", "ab".repeat(257));
        for text in ["e2b_", "e2b_a", "e2b_zz", "e2b_aa ", "e2b_+a", "e2b_\u{e9}\u{e9}", &long] {
            assert_eq!(ApiKey::parse(text), Err(ApiKeyError::Hex), "{text:?}");
        }
    }

    #[test]
    fn a_mask_shows_two_characters_in_front_and_four_at_the_end() {
        let mask = ApiKey::parse("e2b_0123456789abcdef").unwrap().mask();
        assert_eq!((&*mask.prefix, mask.value_length), ("e2b_", 16));
        assert_eq!((&*mask.masked_value_prefix, &*mask.masked_value_suffix), ("01", "cdef"));
        // A key as short as that is nobody's, and still no reason to panic.
        assert_eq!(ApiKey::parse("e2b_00").unwrap().mask().masked_value_suffix, "00");
    }

    #[test]
    fn an_access_token_is_told_apart_from_a_key() {
        let token = AccessToken::generate();
        assert_eq!(AccessToken::parse(&token.expose()).unwrap(), token);
        assert_eq!(token.expose().len(), 47);
        assert_eq!(format!("{token:?}"), "sk_e2b_\u{2026}");
        for text in ["", "e2b_aa", "sk_e2b_", "sk_e2b_a", "sk_e2b_zz"] {
            assert_eq!(AccessToken::parse(text), Err(AccessTokenError), "{text:?}");
        }
        assert_eq!(token.mask().prefix, "sk_e2b_");
    }

    proptest! {
        #[test]
        fn parsing_never_panics(text in any::<String>()) {
            drop(ApiKey::parse(&text));
            if let Ok(key) = ApiKey::parse(&format!("e2b_{text}")) {
                prop_assert_eq!(key.expose(), format!("e2b_{}", text.to_ascii_lowercase()));
            }
        }
    }
}
