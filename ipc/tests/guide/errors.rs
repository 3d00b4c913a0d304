//! The table of errors in the guide, held against the code.

use std::collections::BTreeMap;

use intellirouter::IpcError;
use tonic::{Code, Status};

use super::document::text;

/// The rows of the table by variant: its other cells.
fn table() -> BTreeMap<String, Vec<String>> {
    let guide = text();
    let (_, rest) = guide.split_once("| `IpcError` |").unwrap();
    rest.lines()
        .skip(2)
        .take_while(|line| line.starts_with('|'))
        .map(|line| {
            let cells = line.trim_matches('|').split('|');
            let mut cells = cells.map(|cell| cell.trim().trim_matches('`').to_owned());
            (cells.next().unwrap(), cells.collect())
        })
        .collect()
}

/// The name under which gRPC knows a code.
fn name(code: Code) -> String {
    let mut name = String::new();
    for letter in format!("{code:?}").chars() {
        if letter.is_uppercase() && !name.is_empty() {
            name.push('_');
        }
        name.extend(letter.to_uppercase());
    }
    name
}

#[test]
fn the_guide_says_of_every_error_whether_to_retry_and_which_status_it_becomes() {
    let table = table();
    let mut variants = Vec::new();
    for make in [
        IpcError::Connection,
        IpcError::Serialization,
        IpcError::Timeout,
        IpcError::NotFound,
        IpcError::InvalidArgument,
        IpcError::Internal,
        IpcError::Security,
    ] {
        let error = make("why".to_owned());
        let shown = format!("{error:?}");
        let variant = shown.split('(').next().unwrap().to_owned();
        let row = table.get(&variant);
        let row = row.unwrap_or_else(|| panic!("{variant} is missing in the guide"));
        let retry = if error.is_retryable() { "yes" } else { "no" };
        assert_eq!(row[2], retry, "{variant}");
        assert_eq!(row[3], name(Status::from(error).code()), "{variant}");
        variants.push(variant);
    }
    variants.extend(["Status".to_owned(), "Transport".to_owned()]);
    variants.sort();
    assert!(table.keys().eq(&variants), "{:?}", table.keys());
}
