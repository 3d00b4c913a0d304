//! The process `intellirouter-model-registry`; see its `--help`.

fn main() -> std::process::ExitCode {
    intellirouter_backends::cli::model_registry()
}
