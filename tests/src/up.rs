//! Everything in one process, on free ports, with its files in a folder of the
//! test's own.

use std::path::{Path, PathBuf};

use crate::{Gateway, binary};

/// A running `intellirouter up`.
pub struct Up {
    /// The process, and where it listens.
    pub gateway: Gateway,
    folder: PathBuf,
}

impl Up {
    /// Starts it with these arguments before those that name ports and
    /// folders, and waits until it listens.
    pub fn start(folder: &Path, arguments: &[&str]) -> Self {
        let (certs, data) = (folder.join("certs"), folder.join("data"));
        let mut command = binary::command(arguments);
        command.args(["--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"]);
        command.arg("--certs").arg(&certs).arg("--data").arg(&data);
        Self {
            gateway: Gateway::ready(certs.join("ca.crt"), &command),
            folder: folder.to_owned(),
        }
    }

    /// Where it keeps models, chains and executions.
    pub fn data(&self) -> PathBuf {
        self.folder.join("data")
    }

    /// The text that it verifies tokens with.
    pub fn secret(&self) -> String {
        let path = self.folder.join("certs/jwt.secret");
        let text = std::fs::read_to_string(path).expect("it made its files before it listened");
        text.trim_end().to_owned()
    }

    /// Asks it to stop, as Ctrl-C does, and waits for a good end.
    pub fn stop(mut self) {
        self.gateway.interrupt();
        let process = &mut self.gateway.process;
        let status = process.wait();
        assert_eq!(status.code(), Some(0), "{}", process.output());
    }
}
