//! Where the `intellirouter` binary is.

use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;

/// The binary under test: `INTELLIROUTER_BIN` where it is set, else the
/// debug build of this workspace, brought up to date first so that no test
/// runs against an old one.
pub fn intellirouter() -> &'static PathBuf {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| {
        if let Some(path) = std::env::var_os("INTELLIROUTER_BIN") {
            return path.into();
        }
        let status = Command::new(env!("CARGO"))
            .args(["build", "--quiet", "-p", "intellirouter-gateway"])
            .args(["--bin", "intellirouter"])
            .current_dir(crate::here(".."))
            .status()
            .expect("cargo runs");
        assert!(status.success(), "the gateway does not build");
        // This test binary is target/<profile>/deps/<name>; the profile of the
        // tests may differ, the folder above does not.
        let own = std::env::current_exe().expect("a test binary has a path");
        let target = own
            .ancestors()
            .nth(3)
            .expect("it stands in target/<profile>/deps");
        target.join("debug/intellirouter")
    })
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
