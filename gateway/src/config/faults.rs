//! Collects everything that is wrong with a configuration, each with file,
//! line and key, so that one run of `check` shows it all.

use std::fmt;

use serde::Deserialize;
use toml::Spanned;
use toml::de::{DeTable, DeValue, Deserializer};

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The 1-based line; of the nearest table for a key that is missing.
    pub line: usize,
    /// The key, such as `upstreams[0].endpoints[1]`; empty for a syntax error.
    pub key: String,
    /// What is wrong and what was expected.
    pub message: String,
}

/// All that is wrong with one file.
#[derive(Debug)]
pub struct ConfigFaults {
    /// The file, as the user named it.
    pub file: String,
    /// In the order of the file.
    pub faults: Vec<Fault>,
}

impl fmt::Display for ConfigFaults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, fault) in self.faults.iter().enumerate() {
            if index > 0 {
                writeln!(f)?;
            }
            write!(f, "{}:{}: ", self.file, fault.line)?;
            if !fault.key.is_empty() {
                write!(f, "{}: ", fault.key)?;
            }
            write!(f, "{}", fault.message)?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigFaults {}

/// The source of a configuration and what was found wrong with it so far.
pub(crate) struct Source<'a> {
    text: &'a str,
    table: Spanned<DeTable<'a>>,
    faults: Vec<Fault>,
}

/// At most this many faults are collected.
const MAX_FAULTS: usize = 200;

impl<'a> Source<'a> {
    /// Parses; syntax errors become faults and the rest is still read.
    pub(crate) fn parse(text: &'a str) -> Self {
        let (table, errors) = DeTable::parse_recoverable(text);
        let mut source = Self {
            text,
            table,
            faults: Vec::new(),
        };
        for error in errors {
            let line = source.line(error.span().map_or(0, |span| span.start));
            source.push(line, String::new(), error.message().to_owned());
        }
        source
    }

    /// Reads the typed form. A key that does not fit is reported, left out,
    /// and reading goes on without it, so that the next fault is found too.
    pub(crate) fn read<T: Deserialize<'a> + Default>(&mut self) -> T {
        let mut table = self.table.clone();
        while self.faults.len() < MAX_FAULTS {
            match T::deserialize(Deserializer::from(table.clone())) {
                Ok(value) => return value,
                Err(error) => {
                    let at = error.span().map_or(0, |span| span.start);
                    let message = error.message().trim().to_owned();
                    let mut path = String::new();
                    let removed = remove_at(table.get_mut(), at, &mut path);
                    self.push(self.line(at), path, message);
                    if !removed {
                        break;
                    }
                }
            }
        }
        T::default()
    }

    /// Reports a fault of the value at `key`.
    pub(crate) fn fault(&mut self, key: &str, message: impl Into<String>) {
        let line = self.line(self.locate(key));
        self.push(line, key.to_owned(), message.into());
    }

    pub(crate) fn finish(mut self, file: &str) -> Result<(), ConfigFaults> {
        if self.faults.is_empty() {
            return Ok(());
        }
        self.faults.sort_by_key(|fault| fault.line);
        Err(ConfigFaults {
            file: file.to_owned(),
            faults: self.faults,
        })
    }

    fn push(&mut self, line: usize, key: String, message: String) {
        if self.faults.len() < MAX_FAULTS {
            self.faults.push(Fault { line, key, message });
        }
    }

    fn line(&self, offset: usize) -> usize {
        let end = offset.min(self.text.len());
        self.text.as_bytes()[..end]
            .iter()
            .filter(|byte| **byte == b'\n')
            .count()
            + 1
    }

    /// Where the deepest part of `key` that exists stands.
    fn locate(&self, key: &str) -> usize {
        let mut at = self.table.span().start;
        let mut table = Some(self.table.get_ref());
        let mut value: Option<&DeValue<'_>> = None;
        for part in key.split('.').flat_map(|part| part.split_inclusive('[')) {
            let part = part.trim_end_matches(['[', ']']);
            if let Some(current) = table {
                let Some((name, next)) = current.iter().find(|(name, _)| name.get_ref() == part)
                else {
                    break;
                };
                at = name.span().start;
                value = Some(next.get_ref());
            } else if let Some(DeValue::Array(array)) = value {
                let Some(next) = part.parse().ok().and_then(|index: usize| array.get(index)) else {
                    break;
                };
                at = next.span().start;
                value = Some(next.get_ref());
            } else {
                break;
            }
            table = value.and_then(DeValue::as_table);
        }
        at
    }
}

/// Removes the innermost entry that covers `at` and tells its path.
fn remove_at(table: &mut DeTable<'_>, at: usize, path: &mut String) -> bool {
    let found = table
        .iter()
        .find(|(name, value)| name.span().contains(&at) || covers(value, at));
    let Some((name, _)) = found else { return false };
    let (on_name, name) = (name.span().contains(&at), name.clone());
    if !path.is_empty() {
        path.push('.');
    }
    path.push_str(name.get_ref());
    if !on_name
        && let Some(value) = table.get_mut(&name)
        && remove_inside(value.get_mut(), at, path)
    {
        return true;
    }
    table.remove(&name).is_some()
}

fn remove_inside(value: &mut DeValue<'_>, at: usize, path: &mut String) -> bool {
    match value {
        DeValue::Table(table) => remove_at(table, at, path),
        DeValue::Array(array) => {
            let Some(index) = array.iter().position(|item| covers(item, at)) else {
                return false;
            };
            path.push_str(&format!("[{index}]"));
            let Some(item) = array.get_mut(index) else {
                return false;
            };
            // A wrong item spoils its whole array; only tables inside can be mended.
            matches!(item.get_ref(), DeValue::Table(_)) && remove_inside(item.get_mut(), at, path)
        }
        _ => false,
    }
}

/// A value covers a place inside it; a table header's table covers its keys,
/// wherever they stand.
fn covers(value: &Spanned<DeValue<'_>>, at: usize) -> bool {
    value.span().contains(&at)
        || match value.get_ref() {
            DeValue::Table(table) => table
                .iter()
                .any(|(name, inner)| name.span().contains(&at) || covers(inner, at)),
            DeValue::Array(array) => array.iter().any(|item| covers(item, at)),
            _ => false,
        }
}
