//! What people read of a run.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::PathBuf;

use super::analysis::Violation;
use super::history::{History, Item, Outcome};
use super::run::Settings;

/// How many violations of a kind an explanation shows, and of all kinds.
const SHOWN: (usize, usize) = (2, 6);
/// How much of a stream stands around a violation, in items.
const AROUND: usize = 4;

/// What a run was like, in numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Numbers {
    /// Publishes that were acknowledged, failed, or have no known outcome.
    pub publishes: (usize, usize, usize),
    /// Events that subscribers were given.
    pub deliveries: usize,
    /// Gaps that they were told.
    pub gaps: usize,
    /// How many of them say that events were dropped.
    pub trimmed: usize,
    /// Connections that were open, and are no more.
    pub reconnects: usize,
    /// How often one was closed because it was read too slowly.
    pub slow: usize,
    /// What the nemesis did.
    pub faults: usize,
}

/// Counts.
pub fn numbers(history: &History) -> Numbers {
    let mut numbers = Numbers {
        faults: history.faults.len(),
        ..Numbers::default()
    };
    for publish in &history.publishes {
        match publish.outcome {
            Outcome::Acknowledged(_) => numbers.publishes.0 += 1,
            Outcome::Failed => numbers.publishes.1 += 1,
            Outcome::Unknown => numbers.publishes.2 += 1,
        }
    }
    for (_, item) in history.streams.iter().flat_map(|stream| &stream.items) {
        match item {
            Item::Event { .. } => numbers.deliveries += 1,
            Item::Gap { reason, .. } => {
                numbers.gaps += 1;
                numbers.trimmed += usize::from(matches!(&**reason, "trimmed" | "slow"));
            }
            Item::Lost { why } => numbers.slow += usize::from(why.contains("slow")),
            Item::Opened {
                resumed: Some(_), ..
            } => numbers.reconnects += 1,
            _ => {}
        }
    }
    numbers
}

/// The shortest explanation of what went wrong: how often what, the first ones with what stands around
/// them, and where the rest is.
pub fn explain(settings: &Settings, history: &History, found: &[Violation]) -> String {
    let mut kinds: BTreeMap<String, usize> = BTreeMap::new();
    for violation in found {
        *kinds.entry(format!("{:?}", violation.kind)).or_default() += 1;
    }
    let kinds: Vec<_> = kinds
        .iter()
        .map(|(kind, count)| format!("{count} {kind}"))
        .collect();
    let mut text = format!("{}\n{settings:?}\n", kinds.join(", "));
    for violation in first(found) {
        let _ = writeln!(text, "\n{violation}");
        around(history, violation, &mut text);
    }
    let _ = match keep(settings, history) {
        Ok(path) => writeln!(text, "\nthe whole history: {}", path.display()),
        Err(error) => writeln!(text, "\nthe history could not be kept: {error}"),
    };
    text
}

/// The first ones of each kind: what is missed is mostly missed by all, and what follows a fault follows from it.
fn first(found: &[Violation]) -> Vec<&Violation> {
    let mut shown: Vec<&Violation> = Vec::new();
    for violation in found {
        let same = shown.iter().filter(|other| other.kind == violation.kind);
        if same.count() < SHOWN.0 && shown.len() < SHOWN.1 {
            shown.push(violation);
        }
    }
    shown
}

fn around(history: &History, violation: &Violation, text: &mut String) {
    if let Some(stream) = violation.stream {
        let items = &history.streams[stream].items;
        let middle = items.partition_point(|(at, _)| *at < violation.at);
        let shown = middle.saturating_sub(AROUND)..(middle + AROUND).min(items.len());
        for (at, item) in &items[shown] {
            let _ = writeln!(text, "    {:.3} {item:?}", at.as_secs_f64());
        }
    }
    let mut before = history
        .faults
        .iter()
        .filter(|fault| fault.from <= violation.at);
    if let Some(fault) = before.next_back() {
        let (from, until) = (fault.from.as_secs_f64(), fault.until.as_secs_f64());
        let _ = writeln!(
            text,
            "  the fault before: {from:.3} to {until:.3} {} ({:?})",
            fault.what, fault.loss
        );
    }
}

fn keep(settings: &Settings, history: &History) -> std::io::Result<PathBuf> {
    let path = std::env::temp_dir().join(format!("event-checker-{}.history", settings.seed));
    std::fs::write(&path, history.render())?;
    Ok(path)
}
