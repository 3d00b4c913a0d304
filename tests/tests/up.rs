//! Everything in one process: what it makes, what it prints, what it opens.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "what can't go on fails its test"
)]

use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use intellirouter_tests::service::python;
use intellirouter_tests::{Process, Up, binary, here, scripts, services};
use tempfile::TempDir;

/// The printed block that begins with this comment, without it.
fn printed(up: &Up, comment: &str) -> String {
    let mut block: Option<Vec<String>> = None;
    up.gateway.process.line(comment, |line| {
        match &mut block {
            None if line.starts_with(comment) => block = Some(Vec::new()),
            None => {}
            // An empty line or the end of the output ends a block; the
            // last block is ended by the line that closes the output.
            Some(lines) if line.is_empty() => return Some(lines.join("\n")),
            // A comment may take more than one line.
            Some(lines) if lines.is_empty() && line.starts_with('#') => {}
            Some(lines) => lines.push(line.to_owned()),
        }
        None
    })
}

/// A shell that runs a printed block after the line that sets the token, in
/// the folder that the commands are meant for.
fn shell(up: &Up, comment: &str) -> Command {
    let script = format!(
        "set -e\n{}\n{}",
        printed(up, "# A token"),
        printed(up, comment)
    );
    let mut command = Command::new("bash");
    command.args(["-c", &script]).current_dir(here(".."));
    // The commands need grpcio, and say so.
    let python = here(".venv/bin");
    let path = std::env::var("PATH").unwrap_or_default();
    command.env("PATH", format!("{}:{path}", python.display()));
    command
}

#[test]
fn the_first_start_makes_private_files_and_the_next_reuses_them() {
    let folder = TempDir::new().unwrap();
    Up::start(folder.path(), &["up"]).stop();
    let files = || -> Vec<(String, Vec<u8>, u32)> {
        let mut files: Vec<_> = std::fs::read_dir(folder.path().join("certs"))
            .unwrap()
            .map(|entry| {
                let entry = entry.unwrap();
                let mode = entry.metadata().unwrap().permissions().mode() & 0o777;
                let name = entry.file_name().into_string().unwrap();
                (name, std::fs::read(entry.path()).unwrap(), mode)
            })
            .collect();
        files.sort();
        files
    };
    let made = files();
    for name in [
        "ca.crt",
        "ca.key",
        "gateway.crt",
        "gateway.key",
        "identity.key",
        "jwt.secret",
    ] {
        assert!(
            made.iter().any(|(file, ..)| file == name),
            "{name} is missing"
        );
    }
    for (name, _, mode) in &made {
        if name.ends_with(".key") || name.ends_with(".secret") {
            assert_eq!(*mode, 0o600, "{name}");
        }
    }
    Up::start(folder.path(), &["up"]).stop();
    assert!(files() == made, "the second start changed a file");
}

#[test]
fn no_command_is_up() {
    let folder = TempDir::new().unwrap();
    let up = Up::start(folder.path(), &[]);
    assert!(up.gateway.port != 0 && up.gateway.admin != 0);
    up.stop();
}

#[test]
fn the_printed_chain_streams_its_tokens_and_its_events_are_followed_as_printed() {
    let folder = TempDir::new().unwrap();
    let up = Up::start(folder.path(), &["up"]);
    let follow = Process::spawn("follow", &shell(&up, "# Follow events"));
    follow.line("ir.open", |line| (line == "event: ir.open").then_some(()));
    // The second time the model is there already.
    for _ in 0..2 {
        let (status, out, err) = Process::run("printed", &shell(&up, "# Run a chain"));
        assert!(status.success(), "{out}\n{err}");
        let lines: Vec<_> = out.lines().filter(|line| !line.is_empty()).collect();
        assert_eq!(lines.last(), Some(&"EVENT_TYPE_CHAIN_COMPLETED"), "{out}");
        assert!(out.contains("Write a line about gateways."), "{out}");
        let steps = lines.iter().filter(|line| line.contains("STEP_COMPLETED"));
        assert_eq!(steps.count(), 2, "{out}");
    }
    for event in ["chain_step_completed", "chain_execution_completed"] {
        follow.line(event, |line| {
            (line == format!("event: {event}")).then_some(())
        });
    }
    up.stop();
}

#[test]
fn an_execution_that_outlives_the_drain_ends_with_its_call_before_its_router_ends() {
    let folder = TempDir::new().unwrap();
    let mut up = Up::start(folder.path(), &["up"]);
    let mut client = services::groups(&up.gateway, &up.secret(), &["stops"]);
    client.args([
        "--case",
        "an_execution_that_outlives_the_drain_ends_with_its_call",
    ]);
    scripts::run_with(&client, |asked| {
        assert_eq!(asked, "the gateway is stopped at once");
        up.gateway.interrupt();
        let draining = |line: &str| line.contains("draining").then_some(());
        up.gateway.process.error_line("drain", draining);
        // The second time it does not wait for calls.
        up.gateway.interrupt();
    });
    let process = &mut up.gateway.process;
    assert_eq!(process.wait().code(), Some(0), "{}", process.output());
    let lines = process.error_lines();
    let ended = lines.iter().find(|line| line.contains("execution ended"));
    assert!(
        ended.is_some_and(|line| line.contains("CANCELLED")),
        "{lines:?}"
    );
}

#[test]
fn the_printed_curl_commands_follow_and_publish_as_printed() {
    let folder = TempDir::new().unwrap();
    let up = Up::start(folder.path(), &["up"]);
    let follow = Process::spawn("follow", &shell(&up, "# Follow events"));
    follow.line("ir.open", |line| (line == "event: ir.open").then_some(()));
    let (status, out, err) = Process::run("publish", &shell(&up, "# Publish an event"));
    assert!(status.success() && out.contains("\"id\""), "{out}\n{err}");
    follow.line("event", |line| {
        (line == "event: chain_execution_completed").then_some(())
    });
}

#[test]
fn nothing_that_up_starts_listens_beyond_loopback() {
    let folder = TempDir::new().unwrap();
    let up = Up::start(folder.path(), &["up"]);
    let mut command = Command::new("ss");
    command.args(["-Hltnp"]);
    let (_, out, _) = Process::run("ss", &command);
    let own = format!("pid={},", up.gateway.process.id());
    let listening: Vec<_> = out.lines().filter(|line| line.contains(&own)).collect();
    assert!(
        listening.len() >= 4,
        "gateway, admin and two services are expected in\n{out}"
    );
    for line in listening {
        let address = line.split_whitespace().nth(3).unwrap();
        assert!(
            address.starts_with("127.0.0.1:") || address.starts_with("[::1]:"),
            "{line}"
        );
    }
}

#[test]
fn events_tail_and_publish_work_against_a_running_gateway() {
    let folder = TempDir::new().unwrap();
    let up = Up::start(folder.path(), &["up"]);
    let url = up.gateway.url("");
    let certs = folder.path().join("certs");
    let place = ["--url", &url, "--certs", certs.to_str().unwrap()];
    let channel = "intellirouter:chain_engine:router_core:chain_step_completed";
    let tail = [
        &["events", "tail", "--channel", "intellirouter:*"][..],
        &place,
    ]
    .concat();
    let tail = Process::spawn("tail", &binary::command(&tail));
    tail.line("ir.open", |line| line.contains("ir.open").then_some(()));
    let publish = [
        "events",
        "publish",
        "--channel",
        channel,
        r#"{"step_id":"s1"}"#,
    ];
    let publish = [&publish[..], &place].concat();
    let (status, out, err) = Process::run("publish", &binary::command(&publish));
    assert!(status.success(), "{out}{err}");
    tail.line("event", |line| {
        (line.contains("chain_step_completed") && line.contains("\"s1\"")).then_some(())
    });
}

#[test]
fn services_are_reached_over_mtls_and_not_by_a_shortcut() {
    let folder = TempDir::new().unwrap();
    let up = Up::start(folder.path(), &["up"]);
    // Whoever connects to their ports without a certificate gets nothing.
    let mut command = Command::new("ss");
    command.args(["-Hltnp"]);
    let (_, out, _) = Process::run("ss", &command);
    let own = format!("pid={},", up.gateway.process.id());
    let ports = out
        .lines()
        .filter(|line| line.contains(&own))
        .filter_map(|line| {
            let address = line.split_whitespace().nth(3)?;
            address.rsplit_once(':')?.1.parse::<u16>().ok()
        });
    let services: Vec<_> = ports
        .filter(|port| *port != up.gateway.port && *port != up.gateway.admin)
        .collect();
    assert_eq!(
        services.len(),
        2,
        "two more ports are expected: {services:?}"
    );
    for port in services {
        let mut client = python("interop_client.py");
        let target = format!("localhost:{port}");
        client.args(["--target", &target, "--case", "empty_unary", "--ca"]);
        client.arg(folder.path().join("certs/ca.crt"));
        let (status, out, _) = Process::run("client", &client);
        assert!(!status.success() && out.contains("UNAVAILABLE"), "{out}");
    }
}
