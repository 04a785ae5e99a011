use rand::Rng as _;

/// Characters after the `i`.
const RANDOM: usize = 20;
/// Longer than any id in use.
const MAX: usize = 40;

/// A path segment that names no sandbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a sandbox id is 1 to {MAX} characters of [a-z0-9], with at most one -client suffix")]
pub struct SandboxIdError;

/// `i` and 20 random characters of `[a-z0-9]`.
#[must_use]
pub fn new_sandbox_id() -> String {
    let mut rng = rand::rng();
    let mut id = String::with_capacity(1 + RANDOM);
    id.push('i');
    for _ in 0..RANDOM {
        let digit = char::from_digit(rng.random_range(0..36), 36);
        id.push(digit.unwrap_or('0'));
    }
    id
}

/// The sandbox a path segment names. Old clients send `{id}-{clientID}`.
///
/// # Errors
/// [`SandboxIdError`] when the id is empty, too long, has other characters, or two dashes follow.
pub fn parse_sandbox_path(segment: &str) -> Result<&str, SandboxIdError> {
    let (id, client) = match segment.split_once('-') {
        Some((id, client)) => (id, Some(client)),
        None => (segment, None),
    };
    let legal = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let is_id = (1..=MAX).contains(&id.len()) && id.bytes().all(legal);
    if is_id && client.is_none_or(|client| !client.contains('-')) {
        Ok(id)
    } else {
        Err(SandboxIdError)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{any, prop_assert, proptest};

    use super::{SandboxIdError, new_sandbox_id, parse_sandbox_path};

    #[test]
    fn a_new_id_is_an_i_and_twenty_characters_and_parses() {
        let id = new_sandbox_id();
        assert_eq!(id.len(), 21);
        assert!(id.starts_with('i'));
        assert_eq!(parse_sandbox_path(&id), Ok(id.as_str()));
        assert_ne!(new_sandbox_id(), id);
    }

    #[test]
    fn one_client_suffix_is_dropped_and_two_are_refused() {
        assert_eq!(parse_sandbox_path("iabc-6532622b"), Ok("iabc"));
        assert_eq!(parse_sandbox_path("iabc-"), Ok("iabc"));
        for text in ["iabc-a-b", "", "-a", "IABC", "i/abc", "../i", "i abc", &"a".repeat(41)] {
            assert_eq!(parse_sandbox_path(text), Err(SandboxIdError), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn what_parses_is_plain(text in any::<String>()) {
            if let Ok(id) = parse_sandbox_path(&text) {
                prop_assert!(id.bytes().all(|byte| byte.is_ascii_alphanumeric()) && !id.is_empty());
            }
        }
    }
}
