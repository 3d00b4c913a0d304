//! Runs a client script and checks what it reports; `clients/protocol.py`
//! describes the lines that it writes.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};

use crate::service::{Interop, python};
use crate::{Gateway, Process, here};

/// How soon the service must hear that a call was cancelled.
const CANCELLED_WITHIN: Duration = Duration::from_secs(1);

/// `interop_client.py`, on a target.
pub fn grpcio(target: &str, ca: &Path) -> Command {
    let mut command = python("interop_client.py");
    command.arg("--target").arg(target).arg("--ca").arg(ca);
    command
}

/// `interop_client.mjs`, on a target.
pub fn grpc_js(target: &str, ca: &Path) -> Command {
    let mut command = Command::new("node");
    command
        .arg(here("clients/interop_client.mjs"))
        .arg("--target")
        .arg(target)
        .arg("--ca")
        .arg(ca);
    command
}

/// Runs a script to its end. Fails with every case that failed, and when
/// there was none.
pub fn run(command: &Command, service: &Interop) {
    finish(Process::spawn("client", command), service);
}

/// As [`run`], for a script that has no foreign service beside it.
pub fn run_alone(command: &Command) {
    run_with(command, |what| panic!("nobody here does {what:?}"));
}

/// As [`run_alone`], for a script that asks for something to be done from
/// outside and waits for it.
pub fn run_with(command: &Command, act: impl FnMut(&str)) {
    report(Process::spawn("client", command), act, |report| {
        assert_eq!(report.get("call"), None, "no service tells of it");
    });
}

/// Runs the browser script in one protocol, `h2` or `http/1.1`. `start`
/// begins the gateway that lets pages of the given origin in.
pub fn browser(
    protocol: &str,
    service: &Interop,
    token: &str,
    start: impl FnOnce(&str) -> Gateway,
) {
    let mut command = Command::new("node");
    command
        .arg(here("clients/browser.mjs"))
        .args(["--protocol", protocol]);
    let mut script = Process::spawn("browser", &command);
    let first = script
        .next_line()
        .unwrap_or_else(|| panic!("no question\n{}", script.output()));
    let question: Value = serde_json::from_str(&first).expect("the script writes JSON");
    let gateway = start(
        question["origin"]
            .as_str()
            .expect("the script tells its origin"),
    );
    script.send(&json!({"url": gateway.url(""), "token": token}).to_string());
    finish(script, service);
}

fn finish(script: Process, service: &Interop) {
    report(
        script,
        |call| service.begun(call),
        |report| check_outside(report, service),
    );
}

/// Does what the script asks for and looks at what it reports, until it ends.
fn report(mut script: Process, mut act: impl FnMut(&str), check: impl Fn(&Value)) {
    let (mut cases, mut failures) = (0, Vec::new());
    while let Some(line) = script.next_line() {
        let Ok(report) = serde_json::from_str::<Value>(&line) else {
            failures.push(format!("not a report: {line}"));
            continue;
        };
        if report["await"] == "begin" {
            act(report["call"].as_str().expect("an awaited call has a name"));
            script.send("");
        } else if report["ok"] == true {
            cases += 1;
            check(&report);
        } else {
            failures.push(format!(
                "{}: {}",
                report["case"],
                report["detail"].as_str().unwrap_or("")
            ));
        }
    }
    let status = script.wait();
    assert!(
        failures.is_empty(),
        "{}\n{}",
        failures.join("\n"),
        script.output()
    );
    assert!(
        status.success() && cases > 0,
        "{status}, {cases} cases\n{}",
        script.output()
    );
}

/// What a case did that only the service can tell of.
fn check_outside(report: &Value, service: &Interop) {
    if let (Some(call), Some(at)) = (report["call"].as_str(), report["cancelled_at"].as_u64()) {
        service.cancelled(call, at, CANCELLED_WITHIN);
    }
    if let Some(call) = report["never_called"].as_str() {
        assert!(
            !service.saw(call),
            "{}: the service was called",
            report["case"]
        );
    }
}
