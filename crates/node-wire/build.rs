//! Compiles the protocol files to Rust without protoc: protox reads them, connectrpc-build writes
//! messages, service traits and clients.

use std::error::Error;
use std::path::PathBuf;

const FILES: [&str; 6] = [
    "orchestrator.proto",
    "info.proto",
    "template-manager.proto",
    "cofferdam/node/v1/node.proto",
    "google/rpc/error_details.proto",
    "grpc/health/v1/health.proto",
];

fn main() -> Result<(), Box<dyn Error>> {
    let out = PathBuf::from(std::env::var_os("OUT_DIR").ok_or("cargo sets OUT_DIR")?);

    let mut compiler = protox::Compiler::new(["proto"])?;
    compiler.include_source_info(true).include_imports(true).open_files(FILES)?;
    // The tests read it, too.
    let descriptors = out.join("descriptors.bin");
    std::fs::write(&descriptors, compiler.encode_file_descriptor_set())?;

    println!("cargo::rerun-if-changed=proto");
    connectrpc_build::Config::new()
        .descriptor_set(&descriptors)
        .files(&FILES)
        .include_file("_connectrpc.rs")
        .emit_rerun_directives(false)
        .compile()?;
    Ok(())
}
