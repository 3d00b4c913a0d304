//! The binary `intellirouter`: see [`intellirouter_gateway::cli`].

use std::process::ExitCode;

fn main() -> ExitCode {
    intellirouter_gateway::cli::main()
}
