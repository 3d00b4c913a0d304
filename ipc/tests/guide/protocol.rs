//! Defining a service: the `.proto` file of the guide, compiled as its build script does it.

use std::error::Error;
use std::fs;
use std::path::Path;

use prost_reflect::DescriptorPool;

use super::document::block_with;

// guide: build-script
fn compile(protos: &Path, contract: &Path, out: &Path) -> Result<(), Box<dyn Error>> {
    let mut compiler = protox::Compiler::new([protos, contract])?;
    compiler
        .open_files(["acme/greeter/v1/greeter.proto"])?
        .include_imports(true);
    // Encoded by the compiler itself: prost's own types would drop the options.
    let descriptors = compiler.encode_file_descriptor_set();
    fs::write(out.join("descriptor_set.bin"), descriptors)?;
    tonic_prost_build::configure()
        .extern_path(
            ".intellirouter",
            "::intellirouter::generated::intellirouter",
        )
        .out_dir(out)
        .compile_fds(compiler.file_descriptor_set())?;
    Ok(())
}
// guide: end

#[test]
fn the_proto_file_of_the_guide_compiles_to_code_and_to_descriptors_with_its_policies() {
    let directory = tempfile::tempdir().unwrap();
    let protos = directory.path().join("acme/greeter/v1");
    fs::create_dir_all(&protos).unwrap();
    let text = block_with("proto", "package acme.greeter.v1;");
    fs::write(protos.join("greeter.proto"), text).unwrap();
    let contract = Path::new(env!("CARGO_MANIFEST_DIR")).join("../proto");
    let out = tempfile::tempdir().unwrap();

    compile(directory.path(), &contract, out.path()).unwrap();

    let code = fs::read_to_string(out.path().join("acme.greeter.v1.rs")).unwrap();
    assert!(code.contains("pub mod greeter_service_client"));
    assert!(code.contains("pub trait GreeterService"));
    let descriptors = fs::read(out.path().join("descriptor_set.bin")).unwrap();
    let pool = DescriptorPool::decode(descriptors.as_slice()).unwrap();
    let service = pool
        .get_service_by_name("acme.greeter.v1.GreeterService")
        .unwrap();
    let default = pool
        .get_extension_by_name("intellirouter.options.v1.default_policy")
        .unwrap();
    let policy = service.options().get_extension(&default).to_string();
    assert!(policy.contains("\"service\""), "{policy}");
    let greet = service
        .methods()
        .find(|method| method.name() == "Greet")
        .unwrap();
    let idempotency = greet
        .options()
        .get_field_by_name("idempotency_level")
        .unwrap()
        .to_string();
    assert_eq!(idempotency, "1", "NO_SIDE_EFFECTS");
}
