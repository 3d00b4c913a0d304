//! The command line. Exit codes: 0, 64 for bad usage or configuration
//! (`EX_USAGE` of sysexits), 1 otherwise.

mod certs;
mod check;
mod events;
mod gateway;
mod revoke;
mod token;
mod up;

use std::io::Write as _;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// One entrance in front of gRPC services.
#[derive(Parser)]
#[command(
    name = "intellirouter",
    version,
    args_conflicts_with_subcommands = true
)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    up: up::Up,
}

#[derive(Subcommand)]
enum Command {
    /// Everything in one process, for development (the default)
    Up(up::Up),
    /// The gateway in front of the services of a config file
    Gateway(gateway::Run),
    /// Check a config file and report every fault
    Check(check::Check),
    /// Print a token signed with a development secret
    Token(token::Token),
    /// Revoke tokens and callers, at all gateways of a file or a store
    Revoke(revoke::Revoke),
    /// Make development certificates and keys
    Certs(certs::Certs),
    /// Follow or publish events through a gateway
    Events(events::Events),
}

/// Why a command failed.
pub(crate) enum Failure {
    /// Bad usage or configuration: exit code 64.
    Usage(String),
    /// Anything else: exit code 1.
    Other(String),
}

impl Failure {
    pub(crate) fn other(error: impl ToString) -> Self {
        Self::Other(error.to_string())
    }

    pub(crate) fn usage(error: impl ToString) -> Self {
        Self::Usage(error.to_string())
    }
}

/// A start that failed: what a file holds is configuration, the rest is not.
impl From<crate::StartError> for Failure {
    fn from(error: crate::StartError) -> Self {
        match error {
            crate::StartError::Setting { .. } => Self::usage(error),
            _ => Self::other(error),
        }
    }
}

/// Runs the program.
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let failed = error.use_stderr();
            // Nothing can be done about a terminal that is gone.
            let _ = error.print();
            return if failed {
                ExitCode::from(64)
            } else {
                ExitCode::SUCCESS
            };
        }
    };
    let result = match cli.command.unwrap_or(Command::Up(cli.up)) {
        Command::Up(command) => command.run(),
        Command::Gateway(command) => command.run(),
        Command::Check(command) => command.run(),
        Command::Token(command) => command.run(),
        Command::Revoke(command) => command.run(),
        Command::Certs(command) => command.run(),
        Command::Events(command) => command.run(),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure::Usage(message)) => {
            let _ = writeln!(std::io::stderr(), "{message}");
            ExitCode::from(64)
        }
        Err(Failure::Other(message)) => {
            let _ = writeln!(std::io::stderr(), "{message}");
            ExitCode::FAILURE
        }
    }
}

/// Writes a line to stdout. A reader that is gone is no failure.
fn say(line: &str) {
    let mut out = std::io::stdout();
    let _ = writeln!(out, "{line}").and_then(|()| out.flush());
}

/// The runtime of everything that is not the data plane.
fn control_runtime() -> Result<tokio::runtime::Runtime, Failure> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .thread_name("control")
        .enable_all()
        .build()
        .map_err(Failure::other)
}
