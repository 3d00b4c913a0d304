//! The control: the clients and the foreign service agree when nothing is
//! between them. A case that fails here is no fault of the gateway.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "what can't go on fails its test"
)]

use std::process::Command;

use intellirouter_tests::certs::Authority;
use intellirouter_tests::scripts;
use intellirouter_tests::service::Interop;

fn agree(client: impl Fn(&str, &std::path::Path) -> Command) {
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::new("direct");
    let ca = authority.write(folder.path(), "ca");
    let (cert, key) = authority.issue(folder.path(), "service");
    let service = Interop::start(&cert, &key, &ca);
    let mut command = client(&format!("localhost:{}", service.port), &ca);
    command.arg("--cert").arg(&cert).arg("--key").arg(&key);
    scripts::run(&command, &service);
}

#[test]
fn grpcio_and_the_service_agree_without_a_gateway() {
    agree(scripts::grpcio);
}

#[test]
fn grpc_js_and_the_service_agree_without_a_gateway() {
    agree(scripts::grpc_js);
}
