//! The bugs that the checker must find, seeded into a history that was recorded. The same ones are
//! put into the path itself by `seam`.

use rand::Rng;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;

use super::analysis::Kind;
use super::history::{History, Item, Outcome, Place};

/// A bug that a gateway could have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bug {
    /// An event does not come.
    Drop,
    /// An event comes twice.
    Duplicate,
    /// Two events come in the wrong order.
    Swap,
    /// A gap is told, though nothing is missing.
    FalseGap,
}

/// All of them.
pub const BUGS: [Bug; 4] = [Bug::Drop, Bug::Duplicate, Bug::Swap, Bug::FalseGap];

impl Bug {
    /// What the checker must call it.
    pub fn kind(self) -> Kind {
        match self {
            Self::Drop => Kind::Missing,
            Self::Duplicate => Kind::Repeated,
            Self::Swap => Kind::Disordered,
            Self::FalseGap => Kind::FalseGap,
        }
    }

    /// Puts it at a random place of a history; gives the stream that has it.
    pub fn seed(self, history: &mut History, chance: &mut StdRng) -> usize {
        let places = self.places(history);
        let (stream, index) = *places.choose(chance).expect("a run brings events");
        let items = &mut history.streams[stream].items;
        match self {
            Self::Drop => drop(items.remove(index)),
            Self::Duplicate => {
                // Some events later, as when a resume goes back too far.
                let later = (index + chance.random_range(1..20)).min(items.len() - 1);
                let again = (items[later].0, items[index].1.clone());
                items.insert(later + 1, again);
            }
            Self::Swap => {
                let (one, other) = (items[index].1.clone(), items[index + 1].1.clone());
                (items[index].1, items[index + 1].1) = (other, one);
            }
            Self::FalseGap => {
                let (at, id) = (
                    items[index].0,
                    id(&items[index].1).expect("an event has an id"),
                );
                let reason = "recorder_away".into();
                items.insert(
                    index + 1,
                    (
                        at,
                        Item::Gap {
                            from: Some(id),
                            to: id,
                            reason,
                        },
                    ),
                );
            }
        }
        stream
    }

    /// Where it would show: at an event that was acknowledged, and for a swap before another event.
    fn places(self, history: &History) -> Vec<(usize, usize)> {
        let acknowledged = |item: &Item| match item {
            Item::Event { key: Some(key), .. } => history.publishes.iter().any(|publish| {
                publish.key == *key && matches!(publish.outcome, Outcome::Acknowledged(Some(_)))
            }),
            _ => false,
        };
        let mut places = Vec::new();
        for (s, stream) in history.streams.iter().enumerate() {
            for (i, pair) in stream.items.windows(2).enumerate() {
                let next = self != Self::Swap || matches!(pair[1].1, Item::Event { .. });
                if next && matches!(pair[0].1, Item::Event { .. }) {
                    places.push((s, i));
                }
            }
        }
        // Looked at only where it matters: a history is long.
        let stride = (places.len() / 64).max(1);
        let mut few: Vec<_> = places.into_iter().step_by(stride).collect();
        few.retain(|(s, i)| acknowledged(&history.streams[*s].items[*i].1));
        few
    }
}

fn id(item: &Item) -> Option<Place> {
    match item {
        Item::Event { id, .. } => Some(*id),
        _ => None,
    }
}
