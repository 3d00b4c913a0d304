//! One subscriber's stream: each event once, in order, and nothing missing in silence.

use std::collections::{HashMap, HashSet};
use std::ops::Bound::{Excluded, Included};

use super::gaps::Gap;
use super::log::Log;
use super::{Kind, Violation};
use crate::checker::history::{Item, Key, Moment, Outcome, Place, Stream, Via};

/// Adds what is wrong with one stream.
pub(super) fn check(log: &Log<'_>, index: usize, found: &mut Vec<Violation>) {
    let stream = &log.history.streams[index];
    let mut walk = Walk {
        log,
        index,
        stream,
        start: None,
        last: None,
        seen: HashSet::new(),
        keys: HashMap::new(),
        gaps: Vec::new(),
        plain: None,
        found,
    };
    for (at, item) in &stream.items {
        walk.item(*at, item);
    }
    walk.misses_nothing();
}

struct Walk<'w, 'h> {
    log: &'w Log<'h>,
    index: usize,
    stream: &'h Stream,
    /// When and where its first connection was open.
    start: Option<(Moment, Place)>,
    /// It has been told everything up to here.
    last: Option<Place>,
    seen: HashSet<Place>,
    keys: HashMap<Key, Place>,
    gaps: Vec<Gap>,
    /// When the last plain message that it saw was begun.
    plain: Option<Moment>,
    found: &'w mut Vec<Violation>,
}

impl Walk<'_, '_> {
    fn item(&mut self, at: Moment, item: &Item) {
        match item {
            Item::Opened { id, .. } if self.start.is_none() => {
                self.start = Some((at, *id));
                self.last = Some(*id);
            }
            // The place of no log: the gap that follows must not be missed by who is cut before it.
            Item::Opened { id, .. } if id.epoch == 0 => {}
            Item::Opened { id, .. } => self.moved(at, *id, "ir.open"),
            Item::Position { id } => self.moved(at, *id, "ir.position"),
            Item::Event { id, key } => self.event(at, *id, *key),
            Item::Gap { from, to, reason } => self.gap(at, *from, *to, reason),
            Item::Nonsense { what } => self.says(Kind::Nonsense, at, what.clone()),
            Item::Lost { .. } => {}
        }
    }

    fn moved(&mut self, at: Moment, id: Place, what: &str) {
        if let Some(last) = self.last.filter(|last| id < *last) {
            self.says(
                Kind::Backwards,
                at,
                format!("{what} leads back to {id} after {last}"),
            );
        }
        self.last = self.last.max(Some(id));
    }

    fn event(&mut self, at: Moment, id: Place, key: Option<Key>) {
        let Some((key, publish)) = key.and_then(|key| Some((key, self.log.publish(key)?))) else {
            self.says(
                Kind::Phantom,
                at,
                format!("{id} is no event that anybody published"),
            );
            return;
        };
        if publish.outcome == Outcome::Failed {
            self.says(
                Kind::Phantom,
                at,
                format!("{key} at {id}, whose publish failed"),
            );
        }
        if !self.stream.channels.contains(&publish.channel) {
            let channel = &self.log.history.channels[publish.channel];
            self.says(Kind::Uninvited, at, format!("{key} at {id}, of {channel}"));
        }
        let twice = self.log.may_stand_twice(publish, self.log.places_of(key));
        let before = self
            .keys
            .insert(key, id)
            .filter(|before| *before == id || !twice);
        if let Some(before) = before {
            self.says(
                Kind::Repeated,
                at,
                format!("{key} at {id} came already, at {before}"),
            );
        } else if let Some(last) = self.last.filter(|last| id <= *last) {
            self.says(
                Kind::Disordered,
                at,
                format!("{key} at {id} came after {last}"),
            );
        }
        if self.log.via(key) == Some(Via::Plain) {
            self.plain = self.plain.max(Some(publish.invoked));
        }
        self.seen.insert(id);
        self.last = self.last.max(Some(id));
    }

    fn gap(&mut self, at: Moment, from: Option<Place>, to: Place, reason: &str) {
        let told = from.map_or_else(|| "?".into(), |from| from.to_string());
        let from = from.or(self.last).unwrap_or(to);
        let gap = Gap::new(self.log, from, to, reason, at);
        if !gap.explained {
            let why = format!("gap {told} to {to} ({reason}) without anything that explains it");
            self.says(Kind::FalseGap, at, why);
        }
        self.gaps.push(gap);
        self.moved(at, to, "ir.gap");
    }

    fn misses_nothing(&mut self) {
        let end = self.stream.items.last().map_or(Moment::ZERO, |(at, _)| *at);
        if !self.stream.reached_end {
            let last = self
                .last
                .map_or_else(|| "nothing".into(), |last| last.to_string());
            self.says(
                Kind::Stuck,
                end,
                format!("its end never came; the last was {last}"),
            );
        }
        let (Some((opened, start)), Some(last)) = (self.start, self.last) else {
            return;
        };
        let (log, mut missing) = (self.log, Vec::new());
        for (place, key) in log
            .places
            .range((Excluded(start), Included(last.max(start))))
        {
            let Some(publish) = log.publish(*key) else {
                continue;
            };
            let owed = self.stream.channels.contains(&publish.channel)
                && !self.seen.contains(place)
                && !self.gaps.iter().any(|gap| gap.holds(*place));
            if owed {
                let text = format!(
                    "{key} at {place} never came ({:?}), and lies in no gap",
                    publish.outcome
                );
                missing.push((publish.completed, text));
            }
        }
        // They are owed once the stream has come past them: to a plain one that was begun later.
        for publish in log.without_place() {
            let owed = self.stream.channels.contains(&publish.channel)
                && opened < publish.invoked
                && Some(publish.completed) < self.plain
                && !self.gaps.iter().any(|gap| gap.may_hold(publish));
            if owed {
                let text = format!(
                    "{}, a plain PUBLISH that a gateway received at {:.3} s, never came to anybody, and lies in no gap",
                    publish.key,
                    publish.completed.as_secs_f64()
                );
                missing.push((publish.completed, text));
            }
        }
        for (at, text) in missing {
            self.says(Kind::Missing, at, text);
        }
    }

    fn says(&mut self, kind: Kind, at: Moment, text: String) {
        let text = format!("{}: {text}", self.stream.name);
        self.found.push(Violation {
            kind,
            stream: Some(self.index),
            at,
            text,
        });
    }
}
