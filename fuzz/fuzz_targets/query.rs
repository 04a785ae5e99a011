//! What stands in the queries and paths of the API: page tokens, filters, names, ids, times.
#![no_main]

use e2b_wire::{PageToken, TemplateRef, Timestamp, parse_metadata_query, parse_sandbox_path};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    if let Ok(token) = text.parse::<PageToken>() {
        assert_eq!(token.to_string().parse().as_ref(), Ok(&token));
    }
    if let Ok(pairs) = parse_metadata_query(text) {
        assert!(pairs.len() <= 64);
    }
    if let Ok(id) = parse_sandbox_path(text) {
        assert!(text.starts_with(id) && !id.is_empty() && !id.contains(['/', '.', '-']));
    }
    if let Ok(template) = text.parse::<TemplateRef>() {
        let names = template.namespace.iter().chain([&template.name]);
        assert!(names.into_iter().all(|name| !name.is_empty() && !name.contains(['/', '.', ':'])));
    }
    if let Ok(time) = text.parse::<Timestamp>() {
        assert_eq!(time.to_string().parse().ok(), Some(time), "{text:?}");
    }
});
