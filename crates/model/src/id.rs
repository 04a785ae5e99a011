//! Names of things. A value of one of these types is always well formed.

use std::fmt;
use std::str::FromStr;

/// Text that is not a legal id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{kind} must be 1 to {max} characters of {alphabet}")]
pub struct IdError {
    pub kind: &'static str,
    pub max: usize,
    pub alphabet: &'static str,
}

macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $kind:literal, $max:literal, $alphabet:literal, $legal:expr) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(String);

        impl $name {
            /// The longest legal id, in bytes.
            pub const MAX: usize = $max;

            /// Checks `text`.
            ///
            /// # Errors
            /// [`IdError`] when it is empty, too long or has other characters.
            pub fn parse(text: &str) -> Result<Self, IdError> {
                let legal: fn(u8) -> bool = $legal;
                if text.is_empty() || text.len() > $max || !text.bytes().all(legal) {
                    return Err(IdError { kind: $kind, max: $max, alphabet: $alphabet });
                }
                Ok(Self(text.to_owned()))
            }

            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl FromStr for $name {
            type Err = IdError;
            fn from_str(text: &str) -> Result<Self, IdError> {
                Self::parse(text)
            }
        }
    };
}

const fn lower_alnum(byte: u8) -> bool {
    byte.is_ascii_lowercase() || byte.is_ascii_digit()
}

const fn name_byte(byte: u8) -> bool {
    lower_alnum(byte) || byte == b'-' || byte == b'_'
}

id!(
    /// A sandbox, over all its runs. E2B's form: `i` + 20 characters of `[a-z0-9]`.
    SandboxId, "a sandbox id", 40, "[a-z0-9]", lower_alnum
);
id!(
    /// One run of a sandbox on one node; also the name of its lifecycle directory and cgroup.
    LifecycleId, "a lifecycle id", 40, "[a-z0-9]", lower_alnum
);
id!(
    /// A template. E2B's form: 20 characters of `[a-z0-9]`.
    TemplateId, "a template id", 64, "[a-z0-9-_]", name_byte
);
id!(
    /// One build of a template. E2B's form: a UUID.
    BuildId, "a build id", 64, "[a-z0-9-_]", name_byte
);
id!(
    /// A team: whoever owns API keys and sandboxes. E2B's form: a UUID.
    TeamId, "a team id", 64, "[a-z0-9-_]", name_byte
);
id!(
    /// A node.
    NodeId, "a node id", 64, "[a-z0-9-_]", name_byte
);

#[cfg(test)]
mod tests {
    use proptest::prelude::{prop_assert, prop_assert_eq, proptest};

    use super::{SandboxId, TemplateId};

    proptest! {
        #[test]
        fn a_parsed_id_is_its_text_and_can_name_a_file(text in "\\PC{0,50}") {
            if let Ok(id) = SandboxId::parse(&text) {
                prop_assert_eq!(id.as_str(), &text);
                prop_assert!(!text.contains(['/', '.', '\0', ' ']) && !text.is_empty());
            }
        }
    }

    #[test]
    fn a_path_is_not_an_id() {
        for text in ["", "..", "a/b", "A", "i\u{e9}", "-", &"a".repeat(41)] {
            SandboxId::parse(text).unwrap_err();
        }
        TemplateId::parse("my-template_2").unwrap();
    }
}
