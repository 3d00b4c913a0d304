//! The process `intellirouter-chain-engine`; see its `--help`.

fn main() -> std::process::ExitCode {
    intellirouter_backends::cli::chain_engine()
}
