//! The JSON schema of the config file, as editors use it: every configuration
//! that the repository ships fits, and a mistake in one does not.

use std::path::Path;

use intellirouter_tests::service::python;
use intellirouter_tests::{Process, here};

const CONFIGS: [&str; 3] = ["example.toml", "dev.toml", "production.toml"];

fn shipped(name: &str) -> std::path::PathBuf {
    here("../config").join(name)
}

#[test]
fn each_shipped_config_fits_the_schema_and_a_mistake_in_it_does_not() {
    let mut command = python("schema_cases.py");
    command
        .arg(shipped("schema.json"))
        .args(CONFIGS.map(shipped));
    let (status, out, err) = Process::run("schema", &command);
    assert!(status.success(), "{out}\n{err}");
}

/// What is commented out is never read, and would rot.
#[test]
fn the_example_fits_the_schema_with_every_key_that_it_shows() {
    let text = std::fs::read_to_string(shipped("example.toml"));
    let text = text.unwrap_or_else(|error| panic!("{error}"));
    let folder = tempfile::tempdir().unwrap_or_else(|error| panic!("{error}"));
    let whole = folder.path().join("whole.toml");
    let uncommented: Vec<_> = text.lines().map(uncomment).collect();
    std::fs::write(&whole, uncommented.join("\n")).unwrap_or_else(|error| panic!("{error}"));
    let mut command = python("schema_cases.py");
    command.arg(shipped("schema.json")).arg(&whole);
    let (status, out, err) = Process::run("schema", &command);
    assert!(status.success(), "{out}\n{err}");
}

/// A line such as `# key = 1` or `# [table]` without its `#`.
fn uncomment(line: &str) -> &str {
    let Some(rest) = line.strip_prefix("# ") else {
        return line;
    };
    let table = rest.starts_with('[');
    let key = rest.split_once(" = ").is_some_and(|(key, _)| {
        !key.is_empty() && key.chars().all(|c| c.is_ascii_lowercase() || c == '_')
    });
    if table || key { rest } else { line }
}

/// Editors find the schema by the first line.
#[test]
fn each_shipped_config_names_the_schema() {
    for name in CONFIGS {
        let text = std::fs::read_to_string(shipped(name)).unwrap_or_default();
        let schema = text
            .strip_prefix("#:schema ")
            .and_then(|rest| rest.lines().next());
        let schema = schema.map(|schema| shipped(name).with_file_name(Path::new(schema)));
        assert_eq!(schema.as_deref(), Some(&*shipped("schema.json")), "{name}");
    }
}
