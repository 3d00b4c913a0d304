//! The guide as a document: what it shows is what the tests of this directory run.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// A fenced block of the guide.
pub(crate) struct Block {
    pub(crate) language: String,
    pub(crate) text: String,
    /// Where it starts, from 1.
    line: usize,
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// The whole guide.
pub(crate) fn text() -> String {
    fs::read_to_string(root().join("docs/guide.md")).unwrap()
}

/// The blocks of the guide, in order.
pub(crate) fn blocks() -> Vec<Block> {
    let guide = text();
    let mut blocks = Vec::new();
    let mut open: Option<Block> = None;
    for (number, line) in guide.lines().enumerate() {
        match (line.strip_prefix("```"), &mut open) {
            (Some(language), None) => {
                open = Some(Block {
                    language: language.to_owned(),
                    text: String::new(),
                    line: number + 1,
                });
            }
            (Some(_), Some(_)) => blocks.extend(open.take()),
            (None, Some(block)) => block.text += &format!("{line}\n"),
            (None, None) => {}
        }
    }
    assert!(open.is_none(), "a block of the guide has no end");
    blocks
}

/// The block of this language that holds `text`.
pub(crate) fn block_with(language: &str, text: &str) -> String {
    let mut found = blocks().into_iter();
    let found = found.find(|block| block.language == language && block.text.contains(text));
    found.expect("the guide has no such block").text
}

/// The named regions of these files, dedented, with the file of each.
fn regions() -> BTreeMap<String, (String, PathBuf)> {
    let mut regions = BTreeMap::new();
    let here = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/guide");
    for entry in fs::read_dir(here).unwrap() {
        let path = entry.unwrap().path();
        let source = fs::read_to_string(&path).unwrap();
        let mut open: Option<(String, Vec<&str>)> = None;
        for line in source.lines() {
            match (line.trim().strip_prefix("// guide: "), &mut open) {
                (Some("end"), _) => {
                    let (name, lines) = open.take().expect("an end without a start");
                    let before = regions.insert(name.clone(), (dedented(&lines), path.clone()));
                    assert!(before.is_none(), "{name} stands twice");
                }
                (Some(name), None) => open = Some((name.to_owned(), Vec::new())),
                (Some(name), Some((outer, _))) => panic!("{name} starts within {outer}"),
                (None, Some((_, lines))) => lines.push(line),
                (None, None) => {}
            }
        }
        assert!(open.is_none(), "{path:?} has a region without an end");
    }
    regions
}

fn dedented(lines: &[&str]) -> String {
    let indent = |line: &&str| line.len() - line.trim_start().len();
    let filled = lines.iter().filter(|line| !line.trim().is_empty());
    let common = filled.map(indent).min().unwrap_or(0);
    lines
        .iter()
        .map(|line| format!("{}\n", line.get(common..).unwrap_or_default()))
        .collect()
}

#[test]
fn every_rust_block_of_the_guide_is_run_here_and_everything_marked_is_in_the_guide() {
    let regions = regions();
    let mut shown = BTreeSet::new();
    for block in blocks().iter().filter(|b| b.language == "rust") {
        let same = regions.iter().find(|(_, (text, _))| *text == block.text);
        let (name, _) = same.unwrap_or_else(|| {
            panic!(
                "docs/guide.md:{}: no test holds this block:\n{}",
                block.line, block.text
            )
        });
        assert!(shown.insert(name), "{name} is shown twice");
    }
    for (name, (_, path)) in &regions {
        assert!(shown.contains(name), "{name} of {path:?} is not shown");
    }
}

#[test]
fn no_block_of_the_guide_evades_its_check_by_its_language() {
    let known = ["rust", "toml", "sh", "proto"];
    for block in blocks() {
        assert!(
            known.contains(&block.language.as_str()),
            "docs/guide.md:{}: language {:?} is not one of {known:?}",
            block.line,
            block.language
        );
    }
}

#[test]
fn every_toml_block_of_the_guide_is_toml() {
    for block in blocks().iter().filter(|b| b.language == "toml") {
        let read: Result<toml::Table, _> = toml::from_str(&block.text);
        if let Err(error) = read {
            panic!("docs/guide.md:{}: {error}", block.line);
        }
    }
}

#[test]
fn every_shell_block_of_the_guide_is_understood_by_the_shell() {
    for block in blocks().iter().filter(|b| b.language == "sh") {
        let mut shell = Command::new("sh")
            .arg("-n")
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        let mut input = shell.stdin.take().unwrap();
        input.write_all(block.text.as_bytes()).unwrap();
        drop(input);
        let read = shell.wait().unwrap();
        assert!(read.success(), "docs/guide.md:{}", block.line);
    }
}

#[test]
fn every_link_of_the_guide_leads_to_a_file() {
    let guide = text();
    let mut checked = 0;
    for part in guide.split("](").skip(1) {
        let target = part.split(')').next().unwrap();
        if target.starts_with('#') || target.contains("://") {
            continue;
        }
        let path = target.split('#').next().unwrap();
        assert!(root().join("docs").join(path).exists(), "{target}");
        checked += 1;
    }
    assert!(checked > 0, "no link was found");
}

#[test]
fn every_event_publisher_and_subscriber_of_the_crate_is_named_in_the_guide_and_no_other() {
    let ends = ["Event", "EventPublisher", "EventSubscriber"];
    let meant = |name: &str| {
        ends.iter()
            .any(|end| name.len() > end.len() && name.ends_with(end))
    };
    let names = |text: &str| -> BTreeSet<String> {
        let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
        let words = words.filter(|word| word.starts_with(|c: char| c.is_ascii_uppercase()));
        words
            .filter(|word| meant(word))
            .map(str::to_owned)
            .collect()
    };
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/events.rs");
    let mut known = names(&fs::read_to_string(source).unwrap());
    // A trait for all of them.
    known.insert("TypedEvent".to_owned());
    assert_eq!(names(&text()), known);
}
