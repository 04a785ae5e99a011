use std::str::FromStr;

/// The longest reference, in bytes.
const MAX: usize = 128;

/// How a request names a template: `[namespace/]name[:tag]`, where `name` is an alias or an id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TemplateRef {
    /// The slug of a team.
    pub namespace: Option<String>,
    pub name: String,
    /// `None` for `:default` too, which means the same.
    pub tag: Option<String>,
}

/// Text that is no template reference.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TemplateRefError {
    #[error("a template is named in 1 to {MAX} characters")]
    Length,
    #[error("the namespace and the name of a template are made of a-z, 0-9, - and _")]
    Name,
    #[error("the tag of a template is made of a-z, 0-9, -, _ and .")]
    Tag,
}

impl FromStr for TemplateRef {
    type Err = TemplateRefError;

    /// Space around it and upper case do not count.
    fn from_str(text: &str) -> Result<Self, TemplateRefError> {
        let text = text.trim();
        if text.is_empty() || text.len() > MAX {
            return Err(TemplateRefError::Length);
        }
        let text = text.to_lowercase();
        let (path, tag) = match text.split_once(':') {
            Some((path, tag)) => (path, Some(tag)),
            None => (text.as_str(), None),
        };
        let (namespace, name) = match path.split_once('/') {
            Some((namespace, name)) => (Some(namespace), name),
            None => (None, path),
        };
        if !is_name(name) || namespace.is_some_and(|namespace| !is_name(namespace)) {
            return Err(TemplateRefError::Name);
        }
        if tag.is_some_and(|tag| !is_tag(tag)) {
            return Err(TemplateRefError::Tag);
        }
        Ok(Self {
            namespace: namespace.map(str::to_owned),
            name: name.to_owned(),
            tag: tag.filter(|tag| *tag != "default").map(str::to_owned),
        })
    }
}

fn is_name(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(is_name_byte)
}

fn is_tag(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| is_name_byte(byte) || byte == b'.')
}

const fn is_name_byte(byte: u8) -> bool {
    byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'_')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{any, prop_assert, proptest};

    use super::{TemplateRef, TemplateRefError};

    fn parsed(text: &str) -> (Option<String>, String, Option<String>) {
        let TemplateRef { namespace, name, tag } = text.parse().unwrap();
        (namespace, name, tag)
    }

    #[test]
    fn every_part_is_found_and_lowered() {
        assert_eq!(parsed("base"), (None, "base".into(), None));
        assert_eq!(parsed("  Base  "), (None, "base".into(), None));
        assert_eq!(parsed("base:default"), (None, "base".into(), None));
        assert_eq!(parsed("base:v1.2"), (None, "base".into(), Some("v1.2".into())));
        assert_eq!(
            parsed("my-team/App_1:2"),
            (Some("my-team".into()), "app_1".into(), Some("2".into()))
        );
    }

    #[test]
    fn other_text_is_refused_with_the_part_that_is_wrong() {
        use TemplateRefError::{Length, Name, Tag};
        let long = "a".repeat(129);
        for (text, error) in [
            ("", Length),
            ("   ", Length),
            (long.as_str(), Length),
            ("a/b/c", Name),
            ("/a", Name),
            ("a/", Name),
            ("a b", Name),
            (":v1", Name),
            ("caf\u{e9}", Name),
            ("a:", Tag),
            ("a:b:c", Tag),
            ("a:b/c", Tag),
        ] {
            assert_eq!(text.parse::<TemplateRef>(), Err(error), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn what_parses_is_plain(text in any::<String>()) {
            if let Ok(template) = text.parse::<TemplateRef>() {
                prop_assert!(!template.name.is_empty() && !template.name.contains(['/', ':', '.']));
            }
        }
    }
}
