//! Compiles the two protocol files to Rust without protoc: protox reads them, connectrpc-build
//! writes messages and service traits.

use std::error::Error;
use std::path::PathBuf;

fn main() -> Result<(), Box<dyn Error>> {
    let out = PathBuf::from(std::env::var_os("OUT_DIR").ok_or("cargo sets OUT_DIR")?);
    let files = ["process.proto", "filesystem.proto"];

    let mut compiler = protox::Compiler::new(["proto"])?;
    compiler.include_source_info(true).include_imports(true).open_files(files)?;
    let descriptors = out.join("descriptors.bin");
    std::fs::write(&descriptors, compiler.encode_file_descriptor_set())?;

    println!("cargo::rerun-if-changed=proto");
    connectrpc_build::Config::new()
        .descriptor_set(&descriptors)
        .files(&files)
        .include_file("_connectrpc.rs")
        .emit_rerun_directives(false)
        .compile()?;
    Ok(())
}
