//! Messages, service traits and clients generated from `proto/`.
#![allow(
    clippy::all,
    clippy::allow_attributes,
    clippy::allow_attributes_without_reason,
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    clippy::cast_sign_loss,
    clippy::expect_used,
    clippy::map_err_ignore,
    clippy::missing_errors_doc,
    clippy::missing_panics_doc,
    clippy::or_fun_call,
    clippy::redundant_clone,
    clippy::string_slice,
    clippy::too_many_lines,
    clippy::unwrap_used,
    clippy::wildcard_imports,
    dead_code,
    elided_lifetimes_in_paths,
    missing_debug_implementations,
    unreachable_pub,
    unused_imports,
    unused_lifetimes,
    reason = "generated code; what it looks like is decided by its generator"
)]

connectrpc::include_generated!();
