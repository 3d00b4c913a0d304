//! Where the binaries under test are: the gateway, and the services as
//! processes of their own.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// The gateway's binary: `INTELLIROUTER_BIN` where it is set, else the debug
/// build of this workspace, brought up to date first so that no test runs
/// against an old one.
pub fn intellirouter() -> &'static PathBuf {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| {
        given().unwrap_or_else(|| {
            built("intellirouter-gateway", &["--bin", "intellirouter"]).join("intellirouter")
        })
    })
}

/// The binary of a service, such as `intellirouter-chain-engine`: it stands
/// beside the gateway's, or is built as that is.
pub fn service(name: &str) -> PathBuf {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    let folder = FOLDER.get_or_init(|| match given() {
        Some(gateway) => gateway
            .parent()
            .map(Path::to_path_buf)
            .expect("INTELLIROUTER_BIN is a file"),
        None => built("intellirouter-backends", &["--bins"]),
    });
    folder.join(name)
}

fn given() -> Option<PathBuf> {
    std::env::var_os("INTELLIROUTER_BIN").map(PathBuf::from)
}

/// Builds binaries of a package; gives the folder that they are in.
fn built(package: &str, targets: &[&str]) -> PathBuf {
    let status = Command::new(env!("CARGO"))
        .args(["build", "--quiet", "-p", package])
        .args(targets)
        .current_dir(crate::here(".."))
        .status()
        .expect("cargo runs");
    assert!(status.success(), "{package} does not build");
    // This binary is target/<profile>/<name>, or that of a test in deps beside it; the profile may
    // differ, the folder above does not.
    let own = std::env::current_exe().expect("a binary has a path");
    let folder = own.parent().expect("it stands in a folder");
    let depth = if folder.ends_with("deps") { 2 } else { 1 };
    let target = folder
        .ancestors()
        .nth(depth)
        .expect("it stands in target/<profile>");
    target.join("debug")
}

/// A command line of the binary under test.
pub fn command(args: &[&str]) -> Command {
    let mut command = Command::new(intellirouter());
    command.args(args);
    command
}

/// As [`command`], with streams redirected as a shell writes it.
pub fn redirected(args: &[&str], redirections: &str) -> Command {
    let mut command = Command::new("sh");
    let script = format!("exec {redirections}\nexec \"$0\" \"$@\"");
    command
        .arg("-c")
        .arg(script)
        .arg(intellirouter())
        .args(args);
    command
}
