//! Compiles the `.proto` files: Rust code and the descriptor set, both into `OUT_DIR`.
//!
//! protox does it in this process, so nobody needs `protoc` to build. Any fault in a `.proto` file
//! ends the build with its place.

use std::error::Error;
use std::path::PathBuf;
use std::{env, fs};

/// Every file by name: one that is forgotten here would also be missing from the descriptor set,
/// and the contract test would say so.
const FILES: [&str; 7] = [
    "intellirouter/chain_engine/v1/chain_engine.proto",
    "intellirouter/common/v1/common.proto",
    "intellirouter/events/v1/events.proto",
    "intellirouter/memory/v1/memory.proto",
    "intellirouter/model_registry/v1/model_registry.proto",
    "intellirouter/options/v1/options.proto",
    "intellirouter/rag_manager/v1/rag_manager.proto",
];

fn main() -> Result<(), Box<dyn Error>> {
    // A directory is watched with all that is in it.
    println!("cargo::rerun-if-changed=intellirouter");

    let root = PathBuf::from(env::var("CARGO_MANIFEST_DIR")?);
    let out = PathBuf::from(env::var("OUT_DIR")?);
    let mut compiler = protox::Compiler::new([root])?;
    compiler.open_files(FILES)?.include_imports(true);

    // Encoded by the compiler itself: prost's descriptor types would drop the extension options.
    fs::write(
        out.join("descriptor_set.bin"),
        compiler.encode_file_descriptor_set(),
    )?;

    // The comments become the documentation of the Rust code; in the descriptor set they would
    // only be weight.
    let commented = compiler.include_source_info(true).file_descriptor_set();
    tonic_prost_build::configure()
        // A payload is passed on as it came in, so it is shared, not copied.
        .bytes(".intellirouter.events.v1.Event.payload")
        .bytes(".intellirouter.events.v1.PublishRequest.payload")
        // Holds credentials; the crate has a Debug of its own for it.
        .skip_debug(["intellirouter.model_registry.v1.ConnectorConfig"])
        .compile_fds(commented)?;
    Ok(())
}
