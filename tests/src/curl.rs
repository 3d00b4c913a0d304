//! curl as a client: one answer as a whole, or a stream line by line.

use std::path::Path;
use std::process::Command;

use crate::{Gateway, Process};

/// A finished answer.
#[derive(Clone, Debug)]
pub struct Answer {
    /// `1.1` or `2`.
    pub version: String,
    /// The HTTP status.
    pub status: u16,
    /// Names in lower case, in the order received.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Vec<u8>,
}

impl Answer {
    /// The value of a header; of the first when there are several.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(key, _)| key == name)
            .map(|(_, value)| value.as_str())
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

fn base(ca: &Path) -> Command {
    let mut command = Command::new("curl");
    command
        .args(["--silent", "--show-error", "--no-buffer", "--cacert"])
        .arg(ca);
    command
}

/// One request to its end; `args` are curl's own. The body is sent as it is.
pub fn request(gateway: &Gateway, path: &str, args: &[&str], body: Option<&[u8]>) -> Answer {
    let folder = tempfile::tempdir().unwrap();
    let (head, answer) = (folder.path().join("head"), folder.path().join("body"));
    let mut command = base(&gateway.ca);
    command
        .args(["--max-time", "20", "--dump-header"])
        .arg(&head)
        .arg("--output")
        .arg(&answer);
    if let Some(body) = body {
        let file = folder.path().join("request");
        std::fs::write(&file, body).unwrap();
        command
            .arg("--data-binary")
            .arg(format!("@{}", file.display()));
    }
    command.args(args).arg(gateway.url(path));
    let (status, _, err) = Process::run("curl", &command);
    // The command line is not shown: it may hold a token.
    assert!(
        status.success(),
        "curl {path}: {err}\n{}",
        gateway.process.output()
    );
    // curl leaves out the file of an empty body.
    let body = std::fs::read(&answer).unwrap_or_default();
    parse(&std::fs::read_to_string(&head).unwrap(), body)
}

fn parse(head: &str, body: Vec<u8>) -> Answer {
    let mut lines = head.lines();
    let mut first = lines
        .next()
        .expect("an answer has a status line")
        .split_whitespace();
    let version = first
        .next()
        .unwrap_or("")
        .trim_start_matches("HTTP/")
        .to_owned();
    let status = first
        .next()
        .and_then(|text| text.parse().ok())
        .expect("a status is a number");
    let headers = lines
        .filter_map(|line| line.split_once(": "))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()))
        .collect();
    Answer {
        version,
        status,
        headers,
        body,
    }
}

/// A request whose answer is read while it comes.
pub fn stream(gateway: &Gateway, path: &str, args: &[&str]) -> Process {
    let mut command = base(&gateway.ca);
    command.args(args).arg(gateway.url(path));
    Process::spawn("curl", &command)
}
