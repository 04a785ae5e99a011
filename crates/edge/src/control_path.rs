//! Paths of the guest agent that are the node's alone.

use percent_encoding::percent_decode_str;

/// First and only segment of such a path (infra's proxy refuses the same, but for our journal).
const CONTROL: [&[u8]; 8] =
    [b"init", b"journal", b"upgrade", b"freeze", b"unfreeze", b"fsfreeze", b"fsthaw", b"collapse"];

/// Whether `path` is a control path in any spelling a server might resolve to it: percent-encoded,
/// with empty or dot segments, with a slash at the end.
pub(crate) fn is_control_path(path: &str) -> bool {
    let mut depth = 0_usize;
    let mut first: &[u8] = b"";
    let decoded: std::borrow::Cow<'_, [u8]> = percent_decode_str(path).into();
    for segment in decoded.split(|byte| *byte == b'/') {
        match segment {
            b"" | b"." => {}
            b".." => depth = depth.saturating_sub(1),
            name => {
                if depth == 0 {
                    first = name;
                }
                depth += 1;
            }
        }
    }
    depth == 1 && CONTROL.contains(&first)
}

#[cfg(test)]
mod tests {
    use super::is_control_path;

    #[test]
    fn every_spelling_of_a_control_path_is_seen() {
        for path in [
            "/init",
            "//init",
            "/init/",
            "/./init",
            "/x/../init",
            "/../init",
            "/a/b/../../init",
            "/%69nit",
            "/%2e%2e/init",
            "/x%2f..%2Finit",
            "/init/.",
            "/init/x/..",
            "/journal",
            "//%6aournal/",
            "/upgrade",
            "/freeze",
            "/unfreeze",
            "/fsfreeze",
            "/fsthaw",
            "/collapse",
        ] {
            assert!(is_control_path(path), "{path}");
        }
    }

    #[test]
    fn no_other_path_is_a_control_path() {
        for path in [
            "",
            "/",
            "*",
            "/health",
            "/files",
            "/init/x",
            "/x/init",
            "/initial",
            "/journals",
            "/%zz",
            "/INIT",
        ] {
            assert!(!is_control_path(path), "{path}");
        }
    }
}
