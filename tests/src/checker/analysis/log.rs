//! The log as it can be known from what publishers were told and subscribers saw.

use std::collections::{BTreeMap, HashMap};
use std::ops::Bound::{Excluded, Unbounded};

use super::{Kind, Violation};
use crate::checker::history::{History, Item, Key, Loss, Moment, Outcome, Place, Publish, Via};

pub(super) struct Log<'h> {
    pub(super) history: &'h History,
    publishes: HashMap<Key, &'h Publish>,
    /// Every event that is known to be in the log.
    pub(super) places: BTreeMap<Place, Key>,
    /// The same by event.
    of: HashMap<Key, Vec<Place>>,
}

impl<'h> Log<'h> {
    pub(super) fn new(history: &'h History, found: &mut Vec<Violation>) -> Self {
        let publishes = history
            .publishes
            .iter()
            .map(|publish| (publish.key, publish));
        let mut log = Self {
            history,
            publishes: publishes.collect(),
            places: BTreeMap::new(),
            of: HashMap::new(),
        };
        for publish in &history.publishes {
            if let Outcome::Acknowledged(Some(place)) = publish.outcome {
                log.note(place, publish.key, publish.completed, found);
            }
        }
        for stream in &history.streams {
            for (at, item) in &stream.items {
                if let Item::Event { id, key: Some(key) } = item {
                    log.note(*id, *key, *at, found);
                }
            }
        }
        log.each_has_one_place(found);
        log
    }

    fn note(&mut self, place: Place, key: Key, at: Moment, found: &mut Vec<Violation>) {
        match self.places.get(&place) {
            Some(other) if *other != key => found.push(Violation {
                kind: Kind::Ambiguous,
                stream: None,
                at,
                text: format!("{place} is {other} to one and {key} to another"),
            }),
            Some(_) => {}
            None => {
                self.places.insert(place, key);
                self.of.entry(key).or_default().push(place);
            }
        }
    }

    fn each_has_one_place(&self, found: &mut Vec<Violation>) {
        for (key, places) in &self.of {
            let Some(publish) = self.publishes.get(key) else {
                // The stream that saw it says so.
                continue;
            };
            if places.len() > 1 && !self.may_stand_twice(publish, places) {
                let acknowledged = publish.outcome;
                found.push(Violation {
                    kind: Kind::TwoPlaces,
                    stream: None,
                    at: publish.completed,
                    text: format!("{key} ({acknowledged:?}) stands at {}", list(places)),
                });
            }
        }
    }

    /// Whether a loss of the store's data explains that an event stands at several places. The
    /// library and the gateways repeat a publish whose answer they did not get; nobody repeats a
    /// plain one.
    pub(super) fn may_stand_twice(&self, publish: &Publish, places: &[Place]) -> bool {
        let mut epochs: Vec<_> = places.iter().map(|place| place.epoch).collect();
        epochs.sort_unstable();
        epochs.dedup();
        let lost = self.history.faults.iter().any(|fault| {
            matches!(fault.loss, Loss::Store | Loss::Memory)
                && fault.from <= publish.completed
                && publish.invoked <= fault.until
        });
        epochs.len() == places.len() && lost && self.via(publish.key) != Some(Via::Plain)
    }

    pub(super) fn publish(&self, key: Key) -> Option<&'h Publish> {
        self.publishes.get(&key).copied()
    }

    pub(super) fn places_of(&self, key: Key) -> &[Place] {
        self.of.get(&key).map_or(&[], Vec::as_slice)
    }

    pub(super) fn via(&self, key: Key) -> Option<Via> {
        self.history
            .publishers
            .get(usize::from(key.publisher))
            .copied()
    }

    /// When the last event up to `place` was begun to be published.
    pub(super) fn begun_up_to(&self, place: Place) -> Option<Moment> {
        let (_, key) = self.places.range(..=place).next_back()?;
        Some(self.publishes.get(key)?.invoked)
    }

    /// When the last plain message up to `place` was begun to be published.
    pub(super) fn plain_up_to(&self, place: Place) -> Option<Moment> {
        let before = self.places.range(..=place).rev();
        let mut plain = before.filter(|(_, key)| self.via(**key) == Some(Via::Plain));
        Some(self.publishes.get(plain.next()?.1)?.invoked)
    }

    /// When the first event after `place` was acknowledged or given up.
    pub(super) fn completed_after(&self, place: Place) -> Option<Moment> {
        let (_, key) = self.places.range((Excluded(place), Unbounded)).next()?;
        Some(self.publishes.get(key)?.completed)
    }

    /// What is known to stand after `place`, in order.
    pub(super) fn after(&self, place: Place) -> impl Iterator<Item = &'h Publish> {
        let keys = self.places.range((Excluded(place), Unbounded));
        keys.filter_map(|(_, key)| self.publish(*key))
    }

    /// Plain publishes that somebody received, and that no subscriber saw.
    pub(super) fn without_place(&self) -> impl Iterator<Item = &'h Publish> {
        self.history.publishes.iter().filter(|publish| {
            publish.outcome == Outcome::Acknowledged(None) && !self.of.contains_key(&publish.key)
        })
    }

    /// What ended before something else began stands before it.
    pub(super) fn keeps_time(&self, found: &mut Vec<Violation>) {
        for plain in [false, true] {
            self.keeps_time_of(plain, found);
        }
    }

    fn keeps_time_of(&self, plain: bool, found: &mut Vec<Violation>) {
        // Of all that stands before, the one that was begun last.
        let mut last: Option<(Place, &Publish)> = None;
        for (place, key) in &self.places {
            let Some(publish) = self.publish(*key) else {
                continue;
            };
            let is_plain = self.via(*key) == Some(Via::Plain);
            if is_plain != plain || self.places_of(*key).len() > 1 {
                continue;
            }
            let known = matches!(publish.outcome, Outcome::Acknowledged(_));
            if let Some((before, earlier)) =
                last.filter(|(_, p)| known && publish.completed < p.invoked)
            {
                found.push(Violation {
                    kind: Kind::Untimely,
                    stream: None,
                    at: earlier.invoked,
                    text: format!(
                        "{key} was acknowledged at {:.3} s and stands at {place}, behind {} at {before}, \
                         which was begun at {:.3} s only",
                        publish.completed.as_secs_f64(),
                        earlier.key,
                        earlier.invoked.as_secs_f64(),
                    ),
                });
            }
            if last.is_none_or(|(_, earlier)| earlier.invoked < publish.invoked) {
                last = Some((*place, publish));
            }
        }
    }
}

fn list(places: &[Place]) -> String {
    let texts: Vec<_> = places.iter().map(Place::to_string).collect();
    texts.join(" and ")
}
